"""The lifecycle of an incident: one table of legal transitions, which is the only truth (FR-004, DESIGN §3).

A trigger that the table does not have for a state is a bug of the caller: `advance` raises `IllegalTransition` and
nothing has changed. The diagram in docs/lifecycle.md is drawn from `TRANSITIONS` by `mermaid` and checked in a test.

    detected -> diagnosing -> remediating -> verifying -> resolved
                   |               |             |
                   |               +--> remediation_failed --> escalated --> resolved | self_resolved
                   +--> self_resolved | escalated                 |
                                                                  +--> remediating (approved, a person, half-open)
    dismissed from every open state.
"""

from __future__ import annotations

from enum import StrEnum

from supervisor.incidents.model import State


class Trigger(StrEnum):
    DIAGNOSE = "diagnose"  # policy begins to look
    RUN = "run"  # an intent is written
    CLEARED = "cleared"  # the probe reads clear and nobody acted (R7)
    RECOVERED = "recovered"  # the probe reads clear after a person or a runbook acted (R7)
    STEPS_DONE = "steps_done"
    STEPS_FAILED = "steps_failed"
    REDECIDE = "redecide"  # the intent ran out unclaimed, or an interrupted one may be tried anew (DESIGN §2.3)
    VERIFIED = "verified"
    VERIFY_FAILED = "verify_failed"
    TOLD = "told"  # a runbook that only tells or protects has run (R6, `verifies = false`)
    ESCALATE = "escalate"
    DISMISS = "dismiss"


class IllegalTransition(Exception):
    """The engine asked for a transition that the table does not have: the engine is wrong, not the incident."""

    def __init__(self, state: State, trigger: Trigger) -> None:
        super().__init__(f"an incident that is {state} cannot take {trigger}")
        self.state, self.trigger = state, trigger


TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.DETECTED, Trigger.DIAGNOSE): State.DIAGNOSING,
    (State.DETECTED, Trigger.DISMISS): State.DISMISSED,
    (State.DIAGNOSING, Trigger.RUN): State.REMEDIATING,
    (State.DIAGNOSING, Trigger.CLEARED): State.SELF_RESOLVED,
    (State.DIAGNOSING, Trigger.RECOVERED): State.RESOLVED,
    (State.DIAGNOSING, Trigger.ESCALATE): State.ESCALATED,
    (State.DIAGNOSING, Trigger.DISMISS): State.DISMISSED,
    (State.REMEDIATING, Trigger.STEPS_DONE): State.VERIFYING,
    (State.REMEDIATING, Trigger.STEPS_FAILED): State.REMEDIATION_FAILED,
    (State.REMEDIATING, Trigger.REDECIDE): State.DIAGNOSING,
    (State.REMEDIATING, Trigger.DISMISS): State.DISMISSED,
    (State.VERIFYING, Trigger.VERIFIED): State.RESOLVED,
    (State.VERIFYING, Trigger.VERIFY_FAILED): State.REMEDIATION_FAILED,
    (State.VERIFYING, Trigger.TOLD): State.ESCALATED,
    (State.VERIFYING, Trigger.DISMISS): State.DISMISSED,
    (State.REMEDIATION_FAILED, Trigger.ESCALATE): State.ESCALATED,
    (State.REMEDIATION_FAILED, Trigger.DISMISS): State.DISMISSED,
    (State.ESCALATED, Trigger.RUN): State.REMEDIATING,
    (State.ESCALATED, Trigger.CLEARED): State.SELF_RESOLVED,
    (State.ESCALATED, Trigger.RECOVERED): State.RESOLVED,
    (State.ESCALATED, Trigger.DISMISS): State.DISMISSED,
}


def advance(state: State, trigger: Trigger) -> State:
    """The state after `trigger`. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise IllegalTransition(state, trigger) from None


def document() -> str:
    """docs/lifecycle.md, whole."""
    head = "# The lifecycle of an incident\n\nDrawn from the table in `supervisor/incidents/lifecycle.py`.\n"
    return f"{head}\n```mermaid\n{mermaid()}```\n"


def mermaid() -> str:
    """The table as a Mermaid state diagram, for docs/lifecycle.md."""
    lines = ["stateDiagram-v2", "    [*] --> detected"]
    lines += [f"    {old} --> {new}: {trigger}" for (old, trigger), new in TRANSITIONS.items()]
    ends = {new for new in TRANSITIONS.values()} - {old for old, _ in TRANSITIONS}
    lines += [f"    {end} --> [*]" for end in sorted(ends)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
