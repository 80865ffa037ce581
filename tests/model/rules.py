"""What must hold of the engine in every state, after every decision, and after every crash (DESIGN §8)."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import msgspec

from supervisor.incidents import events as e
from supervisor.incidents import ladder
from supervisor.incidents import records as r
from supervisor.incidents.effects import DeliverRow, DispatchExecution
from supervisor.incidents.lifecycle import TRANSITIONS
from supervisor.incidents.model import (
    Authority,
    Effect,
    Execution,
    ExecutionState,
    Mode,
    OutboxState,
    State,
)
from supervisor.incidents.orders import OperatorPause
from supervisor.incidents.policy import EVERY_TARGET, changes
from supervisor.incidents.world import Decision, World
from tests.lab.worlds import Ledger
from tests.model.sites import FIRING, Site

if TYPE_CHECKING:
    from tests.model.exhaustive import Node

_LEGAL = {(old, new) for (old, _), new in TRANSITIONS.items()}
# What a rebuilt engine has to find out anew, or is told: the processes around it, their answers, what was only heard.
VOLATILE = frozenset({"epoch", "counter", "classifier", "readings", "asked", "hinted", "refuted", "planning", "rerun",
                      "waiters", "executor", "settled", "storms", "limits", "set_aside", "alarms", "undo_asked",
                      "mark_asked", "well", "proposed", "wrong_codes",
                      "executions", "ended", "history", "closed", "trails", "by_target",
                      "last_remediation_wall_s", "last_escalation_wall_s", "last_signal_wall_s"})  # fmt: skip
_DURABLE = tuple(field.name for field in fields(World) if field.name not in VOLATILE)
# Since an execution's claim is the store's, the engine may not have heard of it.
_CLAIM = {"claimed_by": "", "programs": ()}


# --- of every state ------------------------------------------------------------------------------------------------


def holds(node: Node) -> None:
    """Of every state."""
    world, ledger = node.world, node.ledger
    keys = [(i.anomaly, i.target_id) for i in world.incidents.values()]
    assert len(keys) == len(set(keys)), "two incidents of one key are open"
    assert {key: world.by_key[key] for key in keys} == world.by_key, "the index of incidents is wrong"
    assert all(i.open for i in world.incidents.values()), "a closed incident is remembered as open"
    held = [x.resource for x in world.executions.values()]
    assert len(held) == len(set(held)), f"two executions on one resource: {held}"
    _as_written(world, ledger)
    assert set(world.outbox) <= node.told, "a message waits that the notifier does not have"
    due = {(alarm[1], alarm[2]): alarm[0] for alarm in world.alarms if _stands(world, alarm)}
    assert due.keys() == world.timers.keys(), "a timer would never ring"
    _nothing_stuck(world)


def _stands(world: World, alarm: tuple[float, Any, str]) -> bool:
    timer = world.timers.get((alarm[1], alarm[2]))
    return timer is not None and timer.due_steady_s == alarm[0]


def _as_written(world: World, ledger: Ledger) -> None:
    """Memory and ledger do not differ."""
    written = {key: it for key, it in ledger["incidents"].items() if it.open}
    assert written == world.incidents, "an incident is not what was written"
    assert ledger["timers"] == world.timers, "a timer is not what was written"
    pending = {key: it for key, it in ledger["outbox"].items() if it.state is OutboxState.PENDING}
    assert pending == world.outbox, "a message is not what was written"
    assert ledger["states"] == world.runbook_states, "a runbook's state is not what was written"
    assert ledger["breakers"] == world.breakers, "a breaker is not what was written"
    for execution in world.executions.values():
        assert _unclaimed(ledger["executions"][execution.id]) == _unclaimed(execution), "an execution is not as written"
    for incident in world.incidents.values():
        entries = world.trails.get(incident.id, [])
        assert [entry.n for entry in entries] == list(range(incident.trail_length)), "the trail has a gap"
        assert all(ledger["trail"][incident.id, entry.n] == entry for entry in entries), "the trail is not as written"


def _unclaimed(execution: Execution) -> Execution:
    return msgspec.structs.replace(execution, **_CLAIM)


def _nothing_stuck(world: World) -> None:
    """What is not over has something that will move it: an alarm, an execution, or a person who has been asked."""
    subjects = {subject for _, subject in world.timers}
    for incident in world.incidents.values():
        moved = {incident.id, incident.execution_id or ""} & subjects
        assert moved or incident.execution_id in world.executions or incident.state is State.ESCALATED, (
            f"nothing will ever move {incident}"
        )
        if incident.id in world.rerun:
            assert incident.id in subjects, "it may run, and nothing looks after it"
    for execution in world.executions.values():
        waited_for = execution.id in subjects or execution.state is ExecutionState.INTERRUPTED
        assert waited_for, f"nobody waits for {execution}"


def told(node: Node) -> None:
    """Of a world in which nobody has answered for two hours: each open incident rests with a person who was told."""
    for incident in node.world.incidents.values():
        rows = [row for row in node.ledger["outbox"].values() if incident.id in row.covers]
        assert rows, f"nobody was told of {incident}"


# --- of every decision ---------------------------------------------------------------------------------------------


def decided(
    site: Site,
    world: World,
    before: Ledger,
    after: Ledger,
    event: e.Event,
    decision: Decision,
    asked: dict[str, float],
    pauses: dict[str, OperatorPause],
) -> None:
    """Of every decision; `asked` and `pauses` are as they were before it."""
    _trail(before, decision)
    _messages(before, after, event, decision)
    for effect in decision.effects:
        if isinstance(effect, DispatchExecution):
            _dispatched(site, world, before, event, effect.execution, asked, pauses)
    _step_in_trail(before, after, event)


def _trail(before: Ledger, decision: Decision) -> None:
    """Every transition is legal, and stands in the trail of the same decision."""
    states = {key: it.state for key, it in before["incidents"].items()}
    entered = [(it.entry.incident_id, it.entry.state) for it in decision.records if isinstance(it, r.AddTrail)]
    for record in decision.records:
        if isinstance(record, r.PutIncident):
            it = record.incident
            old = states.get(it.id)
            if old is not None and old is not it.state:
                assert (old, it.state) in _LEGAL, f"{old} -> {it.state} is no transition"
                assert (it.id, it.state) in entered, f"{old} -> {it.state} is not in the trail"
            states[it.id] = it.state


def _messages(before: Ledger, after: Ledger, event: e.Event, decision: Decision) -> None:
    """A message leaves the outbox with a receipt only, and whoever delivers it has it from the decision that made it.
    One page for one incident."""
    handed = {effect.row.id for effect in decision.effects if isinstance(effect, DeliverRow)}
    for row_id, row in after["outbox"].items():
        old = before["outbox"].get(row_id)
        if old is None:
            assert row_id in handed, f"{row.kind} is in the outbox and nobody was given it"
            if row.channel == "signal" and row.kind in ("page", "outcome") and row.incident_id:
                twice = [it for it in before["outbox"].values() if _pages(it, row.incident_id)]
                assert not twice, f"a second page for {row.incident_id}"
        elif old.state is OutboxState.PENDING and row.state is not OutboxState.PENDING:
            assert isinstance(event, e.Delivered), f"{row.kind} was lost"
            assert (event.row_id, event.receipt) == (row_id, row.receipt), f"{row.kind} was lost"
            assert row.receipt
    assert before["outbox"].keys() <= after["outbox"].keys()


def _pages(row: Any, incident_id: str) -> bool:
    return bool(row.channel == "signal" and row.kind in ("page", "outcome") and row.incident_id == incident_id)


def _dispatched(
    site: Site,
    world: World,
    before: Ledger,
    event: e.Event,
    execution: Execution,
    asked: dict[str, float],
    pauses: dict[str, OperatorPause],
) -> None:
    """Nothing runs without grounds, or beside R3; nothing that was claimed is handed out again."""
    assert execution.id not in before["claims"], "what an executor had claimed is dispatched once more"
    assert execution.target.recipe is not None or not execution.runbook.starts_service, "it cannot run"
    if execution.id in before["executions"]:
        return  # the same intent again: its executor died before it claimed it
    assert not (changes(execution.runbook) and f"target:{execution.target.target_id}" in pauses), "it is paused"
    if execution.authority is Authority.PERSON:
        assert isinstance(event, e.Order), "nobody ordered it"
        assert event.action == "execute", "nobody ordered it"
        return
    assert isinstance(event, e.ReadingSeen), f"{type(event).__name__} is no fresh reading"
    reading, target_id = event.reading, execution.target.target_id
    said = (reading.target_id, reading.external, site.said(reading))
    assert said == (target_id, False, FIRING), "no failing reading"
    assert reading.taken_mono_s >= asked.get(target_id, float("inf")), "the reading began before the question"
    assert execution.grounds_mono_s == reading.taken_mono_s
    _permitted(site, before, execution)


def _permitted(site: Site, before: Ledger, execution: Execution) -> None:
    """R3, from the ledger alone."""
    runbook, target = execution.runbook, execution.target
    states = [before["states"].get((runbook.id, scope)) for scope in (target.target_id, EVERY_TARGET)]
    assert not any(state is not None and state.taken_back for state in states), "a person has taken it back"
    match execution.authority:
        case Authority.HARMLESS:
            assert all(step.effect in (Effect.OBSERVE, Effect.PROTECT) for step in runbook.steps)
        case Authority.WHITELIST:
            assert runbook.id in site.policy.auto_execute
        case Authority.NOT_RUNNING:
            assert (target.auto_restart, target.recipe is not None, runbook.starts_service) == (True, True, True)
        case Authority.APPROVED:
            own = states[0]
            decides = own if own is not None and (own.mode is Mode.AUTO_EXECUTE or own.demoted) else states[1]
            assert decides is not None
            assert decides.mode is Mode.AUTO_EXECUTE, "it is not approved"
            assert decides.version == runbook.version(), "it was changed since"
        case _:
            raise AssertionError(f"{execution.authority} is no ground")


def _step_in_trail(before: Ledger, after: Ledger, event: e.Event) -> None:
    """A step's result that counts stands in the trail of the incident that it was for."""
    if not isinstance(event, e.StepEnded):
        return
    old, new = before["executions"][event.execution_id], after["executions"][event.execution_id]
    incident = before["incidents"].get(old.incident_id)
    if len(new.results) == len(old.results) or incident is None or incident.execution_id != old.id:
        return
    if incident.open:
        fresh = [it for key, it in after["trail"].items() if key not in before["trail"] and key[0] == incident.id]
        assert any(it.step_id == event.result.step_id and it.execution_id == old.id for it in fresh), "no trail"


# --- of a crash ----------------------------------------------------------------------------------------------------


def rebuilt(old: World, new: World) -> None:
    """After a crash the ledger gives the same world (DESIGN §2.1), but for what must be found out anew."""
    for name in _DURABLE:
        assert getattr(new, name) == getattr(old, name), f"{name} is another one after a crash"
    alive = [{key: _unclaimed(it) for key, it in world.executions.items()} for world in (new, old)]
    assert alive[0] == alive[1], "an execution is another one after a crash"
    named = {it.execution_id for it in old.incidents.values() if it.execution_id}
    assert named <= new.executions.keys() | new.ended.keys(), "what was tried last is forgotten"
    assert {k: sorted(v) for k, v in new.by_target.items()} == {k: sorted(v) for k, v in old.by_target.items()}
    assert new.trails == {k: v for k, v in old.trails.items() if k in old.incidents}
    # Who may run at once may still: no approval is lost. One without a rung left has nothing to run.
    may_run = {it for it in old.rerun if ladder.rest(old, old.incidents[it])}
    assert may_run <= new.rerun, f"{may_run - new.rerun} would be forgotten"
