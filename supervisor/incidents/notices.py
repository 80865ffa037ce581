"""Messages that are about no incident's outcome: what a runbook may do from now on, a draft, an agent's request. Pure.

Each function gives (subject, body); a body begins with its subject where it goes to Signal.
"""

from __future__ import annotations

from supervisor.incidents.choices import command
from supervisor.incidents.model import AGENT, Incident, Runbook, Target
from supervisor.incidents.phrases import do, opening, title_of
from supervisor.incidents.plain_text import capital, clean

NAME_CHARS_MAX = 60
LABEL_CHARS_MAX = 200
STEP_CHARS_MAX = 120


def _called(runbook: Runbook) -> str:
    return f'"{clean(runbook.label, NAME_CHARS_MAX)}" ({runbook.id})'


def _approve(runbook: Runbook, target_id: str | None, *more: str) -> str:
    scope = ("--target", target_id) if target_id is not None else ()
    return command("heal", "approve", runbook.id, *scope, *more) or "healctl heal list_runbooks"


def graduated(runbook: Runbook, incident: Incident, target: Target | None, count: int) -> tuple[str, str]:
    """R4: it repairs by itself from now on."""
    subject = f"healctl now repairs {title_of(incident.target_id)} by itself: {do(runbook, target)}"
    body = (
        f"{subject}.\n{count} times in a row a dry run of {_called(runbook)} said that this would help.\n"
        f"- take that back: {_approve(runbook, incident.target_id, '--revoke')}"
    )
    return subject, body


def demoted(runbook: Runbook, target: Target) -> tuple[str, str]:
    """R4: it did not hold."""
    subject = f"the repair of {title_of(target.target_id)} needs your approval again: {do(runbook, target)}"
    body = (
        f"{capital(subject)}.\nIt did not help, so healctl no longer runs {_called(runbook)} by itself there.\n"
        f"- allow it again: {_approve(runbook, target.target_id)}"
    )
    return capital(subject), body


def changed(runbook: Runbook, target_id: str | None, approved: str) -> tuple[str, str]:
    """It is another than the one that was approved (`approved`: its version then). `target_id` None: for all."""
    scope = title_of(target_id) if target_id is not None else "every target"
    subject = f"the repair {_called(runbook)} was changed and needs your approval again, for {scope}"
    body = (
        f"{capital(subject)}.\nThe version that was approved was {approved}; now it is {runbook.version()}.\n"
        f"- approve it as it is now: {_approve(runbook, target_id)}"
    )
    return capital(subject), body


def wanted(runbook: Runbook, target: Target | None, action: str, *, revoke: bool) -> str:
    """What an agent asks for, after "asks to"."""
    what = do(runbook, target) if target is not None else f"run {_called(runbook)}"
    where = "" if target is not None else " wherever it suits"
    if revoke:
        return f"take back the approval to {what}{where}"
    return f"{what} once" if action == "execute" else f"{what}{where}, now and always from now on"


def requested(wants: str, actor: str, runbook: Runbook) -> tuple[str, str]:
    """R15, for Synapse, which agents read: without the code."""
    subject = f"{_who(actor)} asks to {wants}"
    body = f"{subject}.\nIt is {_called(runbook)}. A person decides; nothing happens until then.\n- see its code: "
    return subject, body + "healctl heal requests"


def requested_of_you(wants: str, actor: str, runbook: Runbook, code: str, *, by_reply: bool) -> tuple[str, str]:
    """R15, for Signal: with the code. `by_reply`: it can be sent back as it stands, too."""
    subject = f"{_who(actor)} asks to {wants}"
    body = (
        f"{subject}.\nIt is {_called(runbook)}. Nothing was done. Decide, within a day:\n"
        f"- allow it: {command('heal', 'confirm', code)}\n"
        f"{f'- or reply {code}' + chr(10) if by_reply else ''}To refuse, do nothing."
    )
    return subject, body


def _who(actor: str) -> str:
    return f"The agent {clean(actor.removeprefix(AGENT), NAME_CHARS_MAX)}"


def proposed(incident: Incident, runbook: Runbook) -> tuple[str, str]:
    """FR-006: what a person did could become a runbook."""
    steps = "; ".join(f"{step.step_id}{_note(step.params)}" for step in runbook.steps)
    text = [
        f"Anomaly: {opening(incident)} ({incident.anomaly}).",
        f"What was done: {clean(runbook.label, LABEL_CHARS_MAX)}",
        f"Draft: {runbook.id}, in dry_run: {steps}",
    ]
    if runbook.by_hand:
        text.append("It has steps that only a person can do: it is kept as a note, and does not run by itself.")
    else:
        look = command("heal", "dry_run", runbook.id, "--target", incident.target_id) or "healctl heal list_runbooks"
        text += ["Decide:", f"- look at it: {look}", f"- approve it: {_approve(runbook, incident.target_id)}"]
    return f"a fix for {title_of(incident.target_id)} could become a runbook: {runbook.id}", "\n".join(text)


def _note(params: tuple[tuple[str, object], ...]) -> str:
    text = dict(params).get("text")
    return f" ({clean(str(text), STEP_CHARS_MAX)})" if text else ""
