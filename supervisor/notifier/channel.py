"""What every way of reaching a person has in common: deliver one row, or say why not.

A channel makes one attempt and keeps no schedule; when to try again is `backoff` and `process`. It must never return
a receipt for something that was not accepted in so many words by the other side.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar, NewType

import msgspec

from supervisor import http, plugins
from supervisor.incidents.model import OutboxRow

ATTEMPT_S = 10.0  # DESIGN §5: the deadline of one attempt, over all its transports
ERROR_CHARS_MAX = 500
QUOTE_CHARS_MAX = 120

Receipt = NewType("Receipt", str)  # `channel:what the other side gave us`, kept in the ledger as the proof


class DeliveryError(Exception):
    """Base: the row was not delivered, or nobody can tell. `pause_s`: the other side wants to be left alone so long."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message[:ERROR_CHARS_MAX])
        self.pause_s = pause_s


class Retryable(DeliveryError):
    """May pass by itself: try again soon."""


class Unreachable(Retryable):
    """Nobody is there: no connection, so that nothing can have been sent."""


class Unsure(Retryable):
    """It was handed over and no answer came: it may have been sent, or may yet be."""


class Permanent(DeliveryError):
    """Somebody has to change something first: tried again only at the longest interval, since nothing is dropped."""


class Channel(ABC):
    """One way to people. A plugin's is made of the configuration (`__init__(self, config: Config)`), and says its name
    (`channel`), the `api`, and the struct of its own table (`Section`, read by `plugins.section`)."""

    channel: ClassVar[str]
    api: ClassVar[int]
    Section: ClassVar[type[msgspec.Struct]] = plugins.Nothing

    @abstractmethod
    async def deliver(self, row: OutboxRow) -> Receipt:
        """One attempt, over within ATTEMPT_S. Raises Retryable or Permanent. May be called for a row that was delivered
        before, when its receipt was lost: `row.id` is the same then."""

    async def close(self) -> None:  # noqa: B027 - not every way has one
        """Let go of every connection."""


def quote(raw: bytes) -> str:
    """What another program answered, fit for one line of an error."""
    text = re.sub(r"\s+", " ", raw[: 4 * QUOTE_CHARS_MAX].decode(errors="replace")).strip()
    return text[:QUOTE_CHARS_MAX] + ("…" if len(text) > QUOTE_CHARS_MAX else "") if text else "nothing"


def of_http(error: http.HttpError) -> DeliveryError:
    """An address that cannot work has to be changed; everything else about a connection may pass."""
    if isinstance(error, http.ConnectFailed):
        return Unreachable(f"unreachable: {error}")
    return Permanent(str(error)) if isinstance(error, http.BadRequest) else Unsure(str(error))


def _retry_after_s(response: http.Response) -> float:
    """Seconds, if told in that form (RFC 9110; the other is a date, for which the ordinary pause does)."""
    told = dict(response.headers).get("retry-after", "").strip()
    return float(told) if re.fullmatch(r"\d{1,6}", told) else 0.0


def of_status(url: str, what: str, response: http.Response) -> DeliveryError:
    """An HTTP status that is no success. 429 and 5xx may pass; others mean that the wrong thing answers there."""
    message = f"{url} answered HTTP {response.status} ({quote(response.body)})"
    if response.status == 429:
        return Retryable(f"{message}: it limits the rate", _retry_after_s(response))
    if response.status >= 500:
        return Retryable(message)
    return Permanent(f"{message}: is {what} there?")
