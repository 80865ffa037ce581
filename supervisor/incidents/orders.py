"""What people order, as frozen values: a pause that stands, and the line that an order leaves in the audit. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class Scope(StrEnum):
    """How far a pause reaches."""

    TARGET = "target"
    FAMILY = "family"
    ALL = "all"


class Verdict(StrEnum):
    """A person's word on what healctl did about an incident."""

    SHOULD_NOT_HAVE = "should_not_have"
    FINE = "fine"  # takes the other one back


class MarkArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the order `mark`, and what the audit keeps of it."""

    incident_id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    verdict: Verdict
    note: str = ""


class OperatorPause(msgspec.Struct, frozen=True):
    """A person's word to leave something alone (R15). It ends when it is lifted, or at `until_*` (None: only then).

    `name` is a target's id or a family's name, empty for ALL. (`FamilyPause` is the engine's own, after canaries that
    failed: that one does not bind a person.)
    """

    scope: Scope
    name: str
    since_wall_s: float
    by: str
    reason: str = ""
    until_steady_s: float | None = None
    until_wall_s: float | None = None

    @property
    def key(self) -> str:
        """One pause for each; unique, and the subject of its timer."""
        return f"{self.scope}:{self.name}"


class AuditEntry(msgspec.Struct, frozen=True):
    """One order that changes something, whoever gave it, with its arguments as they came (JSON).

    What came of it stands in the trail, or in what it changed. `id` is derived from the request's: sent again, it
    leaves one line.
    """

    id: str
    at_wall_s: float
    actor: str
    action: str
    args: str


class Offer(msgspec.Struct, frozen=True):
    """What a person may confirm or choose by its one-time code: what an agent has asked for, and what a page offers
    (R15). Bound to a version of the runbook and to the target.

    An agent's request is `confirm`ed once. A page's (`incident_ids`: what it speaks of) is answered over Signal, by its
    code or by a quote of a message that carries it (`sent_ms`: by which Signal knows those); each choice that changes
    something once (`spent`). `execution_id`: what was run last about it.
    """

    id: str
    code: str
    action: str
    args: str  # of the action, as they came (JSON)
    runbook_id: str
    version: str
    target_id: str
    by: str
    asked_wall_s: float
    until_wall_s: float
    incident_ids: tuple[str, ...] = ()
    sent_ms: tuple[int, ...] = ()
    spent: tuple[str, ...] = ()
    execution_id: str = ""

    @property
    def of_agent(self) -> bool:
        return not self.incident_ids


class SignalReply(msgspec.Struct, frozen=True):
    """What somebody has sent to the account that pages.

    `sender` is the account (its UUID, or its number where Signal tells no UUID): with `timestamp_ms`, the sender's, it
    is the message's identity. `person`: the approver who that is, as configured; empty for anybody else, whose words
    are not passed on. `quote_ms`: of the message that it quotes, 0 for none, -1 for one that is not ours.
    """

    sender: str
    person: str
    timestamp_ms: int
    text: str = ""
    quote_ms: int = 0
    in_group: bool = False
    own: bool = False  # a note to self, of another device of the account that pages

    @property
    def key(self) -> str:
        return f"{self.sender}:{self.timestamp_ms}"


class TakenReply(msgspec.Struct, frozen=True):
    """A reply that was decided about, so that it does nothing when it comes again. `waits`: what it ordered is not
    over; `execution_id`: what it undoes. `to`: who is told, empty for the configured recipient."""

    key: str
    person: str
    at_wall_s: float
    verb: str = ""
    offer_id: str = ""
    incident_ids: tuple[str, ...] = ()
    execution_id: str = ""
    to: str = ""
    waits: bool = False
