"""Synapse over REST (SITE.md): the alternative to the rows that the store writes into brain.db.

The interface has no key by which a message sent twice could be told: a lost answer may mean a second copy. The other
side keeps the thread that it is told: it makes it of the first message, and counts what follows.
"""

from __future__ import annotations

import msgspec

from supervisor import http
from supervisor.config import SynapseSection
from supervisor.incidents.model import OutboxRow
from supervisor.notifier.channel import ATTEMPT_S, Channel, Permanent, Receipt, of_http, of_status, quote
from supervisor.synapse_ids import thread_id
from supervisor.synapse_text import harmless

_REFUSALS = ("error", "failed", "failure")


class _Send(msgspec.Struct, frozen=True):
    """The body of POST /send."""

    from_agent: str
    to_agent: str
    content: str
    subject: str
    priority: str
    thread: str


class SynapseRest(Channel):
    """`notify.synapse.transport = "http://..."`."""

    def __init__(self, config: SynapseSection, attempt_s: float = ATTEMPT_S) -> None:
        self._config = config
        self._attempt_s = attempt_s

    async def deliver(self, row: OutboxRow) -> Receipt:
        """Raises Retryable or Permanent."""
        message = _Send(
            from_agent=self._config.sender,
            to_agent=self._config.to,
            content=harmless(row.body),
            subject=harmless(row.subject),
            priority=row.priority,
            thread=thread_id(row),
        )
        url = self._config.transport
        try:
            response = await http.request(
                url,
                method="POST",
                path="/send",
                headers=(("content-type", "application/json"),),
                body=msgspec.json.encode(message),
                timeout_s=self._attempt_s,
            )
        except http.HttpError as error:
            raise of_http(error) from error
        if not 200 <= response.status < 300:
            raise of_status(url, "Synapse's REST interface", response)
        return Receipt(f"synapse:{_message_id(url, response)}")


def _message_id(url: str, response: http.Response) -> str:
    """The id in the answer, else the status. Raises Permanent when the answer is a refusal in a success's clothes."""
    try:
        answer = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Permanent(f"{url} answered something that is not JSON ({quote(response.body)})") from None
    if not isinstance(answer, dict):
        raise Permanent(f"{url} answered something that is not an object ({quote(response.body)})")
    refused = answer.get("error") or answer.get("success") is False or answer.get("ok") is False
    if refused or answer.get("status") in _REFUSALS:
        raise Permanent(f"{url} refused the message ({quote(response.body)})")
    found = next((answer[key] for key in ("id", "message_id") if answer.get(key)), None)
    return str(found) if found is not None else f"http {response.status}"
