"""Taking back what a runbook did (R15): an execution of its own, whose steps undo those of another, the last first.
Pure.

Only a finished execution can be undone, once, and only its steps that have left what an undo needs. The step itself
sees that what is there is still what it left, and that it is as before afterwards: that is its verification, since
the anomaly's probe may well see the old trouble again. From then on the runbook runs for this target by itself no
more, until it is approved: a person has said that it should not have.
"""

from __future__ import annotations

import msgspec

from supervisor.errors import Refused, StoreError, UnknownId
from supervisor.incidents import graduation, pauses, remedy
from supervisor.incidents.effects import Answer, FetchExecutionState
from supervisor.incidents.model import Authority, Execution, ExecutionState, Runbook, StepResult, is_over
from supervisor.incidents.policy import undecided
from supervisor.incidents.records import AddLateTrail
from supervisor.incidents.views import Json, execution_answer
from supervisor.incidents.world import OUTPUT_CHARS_MAX, Turn


class UndoArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_id: str


def order(turn: Turn, token: str, args: UndoArgs, actor: str) -> Json | None:
    """The ledger is asked for the execution, however old; `found` or `unknown` goes on. Sent twice, it acts once."""
    undo_id = turn.id_of("exe", token)
    known = turn.world.executions.get(undo_id) or turn.world.ended.get(undo_id)
    if known is not None and is_over(known):
        return execution_answer(known)
    if known is not None:
        turn.await_execution(undo_id, token)
        return None
    turn.world.undo_asked.setdefault(args.execution_id, []).append((token, actor))
    turn.effects.append(FetchExecutionState(args.execution_id))
    return None


def found(turn: Turn, original: Execution, undone_by: str) -> None:
    """The ledger's answer to `order`: it begins, or says why it cannot."""
    for token, actor in turn.world.undo_asked.pop(original.id, ()):
        try:
            _begin(turn, token, actor, original, undone_by)
        except Refused as refused:
            turn.effects.append(Answer(token, error=refused))


def unknown(turn: Turn, execution_id: str, trouble: str) -> None:
    hint = "`healctl heal status` and the audit trails name them"
    error = StoreError(trouble) if trouble else UnknownId(f"no execution {execution_id!r}", hint)
    for token, _ in turn.world.undo_asked.pop(execution_id, ()):
        turn.effects.append(Answer(token, error=error))


def ended(turn: Turn, execution: Execution) -> None:
    """An undo is over, well or not: its line in the trail of the incident, and the runbook's standing."""
    original_id, well = execution.undoes, execution.state is ExecutionState.SUCCEEDED
    if execution.incident_id is not None:
        last = execution.results[-1].output if execution.results else "nothing was run"
        last = "it was interrupted" if execution.deaths else last
        note = f"{original_id} was undone by a person" if well else f"undoing {original_id} failed: {last}"
        _tell(turn, execution, note[:OUTPUT_CHARS_MAX])
    if not well:
        return
    runbook_id, target_id = execution.runbook.id.removeprefix(PREFIX), execution.target.target_id
    runbook = turn.world.runbooks.get(runbook_id)
    if runbook is None:
        return
    state = turn.world.runbook_states.get((runbook_id, target_id)) or undecided(runbook, target_id)
    turn.put_runbook_state(msgspec.structs.replace(graduation.back_to_dry_run(state, demoted=True), taken_back=True))


def _tell(turn: Turn, execution: Execution, note: str) -> None:
    """Into the trail of the incident that it was about, which is mostly long closed."""
    incident = turn.incident(execution.incident_id or "")
    if incident is not None:
        turn.note(incident, "executor", note, execution_id=execution.id)
    elif execution.incident_id is not None:
        turn.records.append(AddLateTrail(execution.incident_id, turn.now.wall_s, "executor", note, execution.id))


PREFIX = "undo:"  # of the id of the runbook that an undo runs


def _begin(turn: Turn, token: str, actor: str, original: Execution, undone_by: str) -> None:
    """Raises Refused."""
    what = f"{original.id} ({original.runbook.id} for {original.target.target_id})"
    steps = {spec.step_id: spec for spec in original.runbook.steps}
    back = tuple(result for result in reversed(original.results) if result.undo and result.step_id in steps)
    if not is_over(original):
        raise Refused(f"{what} is not over yet", "wait until it is: `healctl heal status`")
    if original.undoes:
        raise Refused(f"{what} is an undo itself", "order the runbook again: `healctl heal execute`")
    if undone_by:
        raise Refused(f"{what} has been undone already, by {undone_by}")
    if not back:
        raise Refused(f"{what} left nothing that could be undone", _left(original))
    pauses.refuse(turn.world, original.target)
    holder = turn.world.holder_of(original.resource)
    if holder is not None:
        raise Refused(f"{holder.resource} is in use by {holder.runbook.id} ({holder.id})", "wait until it is over")
    runbook = Runbook(
        id=f"{PREFIX}{original.runbook.id}",
        label=f"Undo: {original.runbook.label}",
        applies_to=(),
        steps=tuple(steps[result.step_id] for result in back),
        resource=original.resource,
        verifies=False,
        author=original.runbook.author,
    )
    undo_id = turn.id_of("exe", token)
    remedy.begin(
        turn, runbook, original.target, Authority.PERSON, None, None, "", undo_id, actor, undoes=original, back=back
    )
    turn.await_execution(undo_id, token)


def _left(original: Execution) -> str:
    done = [_line(result) for result in original.results]
    return "; ".join(done)[:200] if done else "none of its steps was run"


def _line(result: StepResult) -> str:
    return f"{result.step_id}: {'done' if result.success else 'failed'}"
