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


class AgentRequest(msgspec.Struct, frozen=True):
    """What an agent has asked for and a person has to confirm (R15): good once, for this version of the runbook."""

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
