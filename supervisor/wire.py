"""What the command line and the healer say to each other, and the words that every connection shares.

A part of `supervisor.messages`, which all workers use, kept apart because the command line pays for every struct it
imports at each call. The form on the wire is the same.
"""

from __future__ import annotations

import msgspec

VERSION = 1
MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """The frame `re` was taken (for records: is durable)."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First frame of a connecting worker: whatever waits for it may be sent now. `incarnation` is this process."""

    name: str
    incarnation: str


class Nack(msgspec.Struct, frozen=True, tag="nack"):
    """The frame `re` was understood and refused; `code` is a word for programs, `message` for people."""

    code: str
    message: str
    hint: str = ""
    exit_code: int = 1


class Event(msgspec.Struct, frozen=True, tag="event"):
    """The feed (`events --follow`, the dashboard). A gap in `seq` means: take a new snapshot."""

    seq: int
    kind: str
    at_wall_s: float
    data: bytes


OPERATOR = "operator"  # a person at the command line
HISTORY = "healctl:history"  # the target of progress on a report


class Request(msgspec.Struct, frozen=True, tag="request"):
    """`action` is a word of the healer's control table; `args` its JSON object (bytes). Answer: Reply or Nack."""

    action: str
    args: bytes = b"{}"
    actor: str = OPERATOR


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    body: bytes


class Said(msgspec.Struct, frozen=True, array_like=True):
    """`messages.Frame` as the command line reads and writes it: only these bodies."""

    v: int
    id: str
    re: str
    body: Ack | Hello | Nack | Event | Request | Reply


_decoder = msgspec.msgpack.Decoder(Said)


def decode(raw: bytes) -> Said:
    """Raises msgspec.DecodeError (or its ValidationError) for anything that is not such a frame of this version."""
    said = _decoder.decode(raw)
    if said.v != VERSION:
        raise msgspec.ValidationError(f"frame version {said.v}, this program speaks {VERSION}")
    return said
