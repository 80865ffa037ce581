"""The channel `webhook`: each message is POSTed as JSON, and is delivered when the answer names it by an id."""

from __future__ import annotations

import msgspec

from supervisor import http, keys, plugins
from supervisor.config import Config
from supervisor.incidents.model import OutboxRow
from supervisor.notifier.channel import ATTEMPT_S, Channel, Permanent, Receipt, of_http, of_status


class WebhookSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: keys.HttpText
    path: str = "/"  # may be a secret: it stands in no error


class Webhook(Channel):
    api = 1
    channel = "webhook"
    Section = WebhookSection

    def __init__(self, config: Config) -> None:
        self._section = plugins.section(config, self.channel, WebhookSection)

    async def deliver(self, row: OutboxRow) -> Receipt:
        """One attempt; when to try again is healctl's. `row.id` is the same each time: a receiver can tell copies."""
        body = {"id": row.id, "tier": int(row.tier), "kind": row.kind, "subject": row.subject, "body": row.body}
        try:
            answer = await http.request(
                self._section.url,
                method="POST",
                path=self._section.path,
                headers=(("content-type", "application/json"),),
                body=msgspec.json.encode(body),
                timeout_s=ATTEMPT_S - 1.0,
            )
        except http.HttpError as error:
            raise of_http(error) from error
        if not 200 <= answer.status < 300:
            raise of_status(self._section.url, "the webhook", answer)
        try:
            return Receipt(msgspec.json.decode(answer.body, type=dict[str, str])["id"])
        except (msgspec.DecodeError, KeyError) as error:
            raise Permanent(f"{self._section.url} gave no id: what it has not named was not delivered") from error
