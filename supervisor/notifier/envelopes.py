"""signal-cli's envelopes: which of what it receives is a reply to us, and whose (shape of signal-cli 0.13). Pure.

Who sent it is told by `sourceNumber` and `sourceUuid`, which Signal vouches for; never by `sourceName`, which anybody
chooses. Receipts, typing, reactions, edits, deletions, stories and other groups are nothing to us.
"""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.config import SignalSection
from supervisor.incidents.orders import SignalReply

TEXT_CHARS_MAX = 2_000
NOT_OURS = -1  # as the timestamp of a quote


class _Quote(msgspec.Struct, frozen=True):
    id: int
    author: str | None = msgspec.field(name="authorNumber", default=None)


class _Group(msgspec.Struct, frozen=True):
    id: str | None = msgspec.field(name="groupId", default=None)


class _Message(msgspec.Struct, frozen=True):
    timestamp: int | None = None
    message: str | None = None
    quote: _Quote | None = None
    group: _Group | None = msgspec.field(name="groupInfo", default=None)
    reaction: Any = None
    story: Any = msgspec.field(name="storyContext", default=None)
    edit: Any = msgspec.field(name="editMessage", default=None)
    number: str | None = msgspec.field(name="destinationNumber", default=None)  # only of what was sent by ourselves
    uuid: str | None = msgspec.field(name="destinationUuid", default=None)


class _Sync(msgspec.Struct, frozen=True):
    sent: _Message | None = msgspec.field(name="sentMessage", default=None)


class _Envelope(msgspec.Struct, frozen=True):
    number: str | None = msgspec.field(name="sourceNumber", default=None)
    uuid: str | None = msgspec.field(name="sourceUuid", default=None)
    data: _Message | None = msgspec.field(name="dataMessage", default=None)
    edit: Any = msgspec.field(name="editMessage", default=None)
    sync: _Sync | None = msgspec.field(name="syncMessage", default=None)


class _Params(msgspec.Struct, frozen=True):
    envelope: _Envelope | None = None
    account: str | None = None
    exception: Any = None  # it could not be read as it should


class _Received(_Params, frozen=True):
    """`result`: with a subscription, the same one level deeper."""

    result: _Params | None = None


class Malformed(Exception):
    """It is no envelope as we know them."""


def read(raw: bytes, signal: SignalSection) -> SignalReply | None:
    """The reply in what was received; None when it is none. A stranger's has no words. Raises Malformed."""
    try:
        whole = msgspec.json.decode(raw, type=_Received)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)[:200]) from None
    received = whole.result or whole
    envelope = received.envelope
    if envelope is None or received.exception is not None or envelope.edit is not None:
        return None
    if signal.account and received.account not in (None, signal.account):
        return None
    sender = envelope.uuid or envelope.number or ""
    message, own = envelope.data, False
    if message is None and envelope.sync is not None:
        message, own = envelope.sync.sent, True
    if not sender or message is None or not _is_text(message):
        return None
    person = next((it for it in (envelope.number, envelope.uuid) if it and it in signal.approvers), "")
    if own and not (person and _to_ourselves(message, envelope, signal)):
        return None
    in_group = message.group is not None
    if in_group and not (person and signal.recipient == f"group:{message.group and message.group.id}"):
        return None
    if message.timestamp is None or message.timestamp <= 0:
        return None
    if not person:
        return SignalReply(envelope.number or sender, "", message.timestamp)
    text = (message.message or "")[:TEXT_CHARS_MAX]
    return SignalReply(sender, person, message.timestamp, text, _quoted(message, signal), in_group, own)


def _is_text(message: _Message) -> bool:
    other = message.reaction is not None or message.story is not None or message.edit is not None
    return bool(message.message) and not other


def _to_ourselves(message: _Message, envelope: _Envelope, signal: SignalSection) -> bool:
    """A note to self, or a word in the group that is paged. What we write to others is nobody's order."""
    if message.group is not None:
        return True
    return bool(message.uuid and message.uuid == envelope.uuid) or bool(
        message.number and message.number == envelope.number
    )


def _quoted(message: _Message, signal: SignalSection) -> int:
    if message.quote is None:
        return 0
    ours = message.quote.author is None or not signal.account or message.quote.author == signal.account
    return message.quote.id if ours and message.quote.id > 0 else NOT_OURS
