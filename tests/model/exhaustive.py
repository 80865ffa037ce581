"""Every state of the engine within small bounds, breadth first: not a model of it, but the engine itself (DESIGN §8).

A node is the real `World`, the ledger that its records have made, and what is on its way outside: intents at the
executor, questions to the store, messages at the notifier. Each move is one event that the world around may bring
about then. Two nodes that differ only in names and in times on the same side of every mark (`worlds.MARKS_S`) are
one state; what is explored is one of each, so "every state" means every state of that quotient.

In every state and for every move the invariants of `rules` are asserted; over the whole graph, that something always
leads on without a person, and that every open incident can end without one.

    python -m tests.model.exhaustive --depth 8 --states 100000 [--site asks]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from supervisor.incidents import effects as f
from supervisor.incidents import events as e
from supervisor.incidents.engine import Engine
from supervisor.incidents.model import (
    Execution,
    ExecutionState,
    Incident,
    Instant,
    OutboxRow,
    Program,
    RunbookState,
    StepResult,
    TimerKind,
)
from supervisor.incidents.readings import ProcessRef
from supervisor.incidents.recover import rebuild
from supervisor.incidents.world import World
from tests.lab.engine import BOOT, EMPTY, START
from tests.lab.worlds import Ledger, copied, span
from tests.model import rules
from tests.model.sites import SITES, Site

STEP_S = 0.01  # every event comes a moment after the one before
ABANDONED_S = 1_800.0
HELPED_EACH = 5
HELP_MAX = 400  # events until a helpful world has ended every incident

Move = tuple[str, Callable[["Node"], None]]


@dataclass
class Node:
    """One state of everything. `told`: rows that the living notifier has; `handed`: intents that the executor has."""

    site: Site
    world: World
    ledger: Ledger
    now_s: float = START
    incarnation: int = 1
    up: bool = True
    handed: frozenset[str] = frozenset()
    fetches: frozenset[str] = frozenset()
    settles: frozenset[str] = frozenset()
    plans: tuple[f.PlanExecution, ...] = ()
    told: frozenset[str] = frozenset()
    orders: int = 0

    def copy(self) -> Node:
        new = Node.__new__(Node)
        new.__dict__.update(self.__dict__)
        new.world = copied(self.world)
        new.now_s += STEP_S
        return new

    @property
    def me(self) -> str:
        return f"exec-{self.incarnation}" if self.up else ""

    def instant(self) -> Instant:
        return Instant(steady_s=self.now_s, wall_s=self.now_s, mono_s=self.now_s - START + 50.0)

    def feed(self, event: e.Event) -> None:
        """One decision: durable, then carried out as far as it concerns the world around."""
        before, asked = self.ledger, dict(self.world.asked)
        pauses = dict(self.world.operator_pauses)
        decision = Engine(self.world).handle(event, self.instant())
        self.ledger = before.after(decision.records)
        rules.decided(self.site, self.world, before, self.ledger, event, decision, asked, pauses)
        for effect in decision.effects:
            match effect:
                case f.DispatchExecution(execution) if self.up:
                    self.handed |= {execution.id}
                case f.FetchExecutionState(execution_id):
                    self.fetches |= {execution_id}
                case f.SettleExecution(execution) if self.up:
                    self.settles |= {execution.id}
                case f.PlanExecution():
                    self.plans = (*self.plans, effect)
                case f.DeliverRow(row):
                    self.told |= {row.id}
        active = frozenset(self.world.executions)
        self.told &= frozenset(self.world.outbox)
        self.handed, self.settles = self.handed & active, self.settles & active

    def order(self, action: str, **args: Any) -> None:
        self.orders += 1
        self.feed(e.Order(f"t{self.orders}", action, msgspec.json.encode(args), "matthew", "secret"))

    def crash(self) -> None:
        """The healer dies, and goes on from the ledger. All that was on its way is gone, but the executor has what it
        has, and the notifier is handed everything anew."""
        self.ledger = self.ledger.forget(self.now_s, self.site.policy)
        before = self.world
        self.world = self.rebuilt(before.epoch + 1)
        rules.rebuilt(before, self.world)
        self.fetches, self.settles, self.plans, self.told = frozenset(), frozenset(), (), frozenset()
        self.feed(e.Started())
        self.feed(e.NotifierIsBack())
        self.feed(e.ExecutorIs(self.me))

    def rebuilt(self, epoch: int) -> World:
        snapshot = self.ledger.snapshot(epoch, EMPTY.ledger_id)
        site = self.site
        return rebuild(snapshot, BOOT, site.policy, site.runbooks, site.targets, frozenset(), self.ledger.trails())


def first(site: Site) -> Node:
    world = rebuild(EMPTY, BOOT, site.policy, site.runbooks, site.targets, frozenset(), {})
    node = Node(site, world, Ledger())
    for event in (e.Started(), e.NotifierIsBack(), e.ExecutorIs(node.me)):
        node.feed(event)
    return node


# --- what may happen -----------------------------------------------------------------------------------------------


def moves(node: Node) -> Iterator[Move]:
    """Every event that the world around may bring about now. While more rows wait than the bound allows, the notifier
    delivers first."""
    rows = list(node.world.outbox)
    if rows:
        yield "notifier: delivered", lambda n: n.feed(e.Delivered(rows[0], 1, f"receipt:{rows[0]}", ""))
    if len(rows) > node.site.rows_max:
        return
    if rows and node.site.deliveries_fail:
        attempts = node.world.outbox[rows[0]].attempts + 1
        yield "notifier: failed", lambda n: n.feed(e.Delivered(rows[0], attempts, "", "refused"))
    yield from _probes(node)
    if node.world.next_alarm() is not None:
        yield "time: the next timer", _time
    yield from _executor(node)
    yield from _people(node)
    if node.site.crashes:
        yield "crash: the healer", Node.crash


def _time(node: Node) -> None:
    alarm = node.world.next_alarm()
    assert alarm is not None
    node.now_s = max(node.now_s, alarm.due_steady_s)
    node.feed(e.TimersDue())


def _probes(node: Node) -> Iterator[Move]:
    world, site = node.world, node.site
    for target in site.targets:
        newest, asked = world.readings.get(target.target_id), world.asked.get(target.target_id)
        for says in site.says:
            yield f"probe: {target.target_id} {says}", _reads(target.target_id, says)
        late = asked is not None and (newest is None or newest.taken_mono_s < asked - STEP_S / 2)
        if late and site.late_readings:  # one that was on its way when the question was put
            for says in site.says:
                yield f"probe: {target.target_id} {says}, late", _reads(target.target_id, says, late=True)


def _reads(target_id: str, says: str, *, late: bool = False) -> Callable[[Node], None]:
    def read(node: Node) -> None:
        taken_s = node.world.asked[target_id] - STEP_S / 4 if late else node.instant().mono_s
        node.feed(e.ReadingSeen(node.site.reading(target_id, says, taken_s, node.now_s)))

    return read


def _executor(node: Node) -> Iterator[Move]:
    if node.site.executor_dies:
        if node.up:
            yield "executor: dies", _dies
        else:
            yield "executor: is back", _comes_back
    for execution in list(node.world.executions.values()):
        yield from _of_execution(node, execution)
    for execution_id in node.fetches:
        yield "store: finds the execution", _found(execution_id)
    for execution_id in node.settles:
        for word, ok, running in (("over", True, False), ("running", True, True), ("cannot be ended", False, False)):
            settled = e.ExecutionSettled(execution_id, ok, running, ("a line",))
            yield f"executor: settled, {word}", _settled(settled)
    if node.plans:
        for word, clear, error in (("clear", True, ""), ("not clear", False, ""), ("failed", False, "no answer")):
            yield f"executor: planned, {word}", _planned(clear, error)


def _dies(node: Node) -> None:
    node.up, node.handed, node.settles = False, frozenset(), frozenset()
    plans, node.plans = node.plans, ()
    node.feed(e.ExecutorIs(""))
    for plan in plans:  # who asked is told that nobody answers
        node.feed(e.Planned(plan.token, plan.execution, (), "the executor is gone"))


def _comes_back(node: Node) -> None:
    node.up, node.incarnation = True, node.incarnation + 1
    node.feed(e.ExecutorIs(node.me))


def _found(execution_id: str) -> Callable[[Node], None]:
    def found(node: Node) -> None:
        node.fetches -= {execution_id}
        execution = node.ledger.execution(execution_id)
        node.feed(e.ExecutionUnknown(execution_id) if execution is None else e.ExecutionSeen(execution))

    return found


def _settled(event: e.ExecutionSettled) -> Callable[[Node], None]:
    def settled(node: Node) -> None:
        node.settles -= {event.execution_id}
        node.feed(event)

    return settled


def _planned(clear: bool, error: str) -> Callable[[Node], None]:
    def planned(node: Node) -> None:
        plan, *rest = node.plans
        node.plans = tuple(rest)
        steps: tuple[dict[str, object], ...] = tuple(
            {"step_id": step.step_id, "description": f"would {step.step_id}", "predicts_clear": clear}
            for step in plan.execution.runbook.steps
        )
        node.feed(e.Planned(plan.token, plan.execution, () if error else steps, error))

    return planned


def _of_execution(node: Node, execution: Execution) -> Iterator[Move]:
    claimed = node.ledger["claims"].get(execution.id)
    waits = execution.state in (ExecutionState.INTENDED, ExecutionState.CLAIMED)
    if waits and execution.id in node.handed and claimed is None:
        for heard in (True, False):
            yield f"executor: claims{'' if heard else ', unheard'}", _claims(execution.id, heard)
        for code in ("stale_grounds", "locked"):
            yield f"executor: refuses, {code}", _refuses(execution.id, code)
    elif waits and node.up and claimed == node.me:
        last = len(execution.results) == len(execution.runbook.steps) - 1
        yield "executor: step done", _step(execution, True, last)
        yield "executor: step failed", _step(execution, False, True)
    elif execution.state is ExecutionState.SUCCEEDED and not execution.exit_text and node.site.programs_end:
        ended = e.ProgramEnded(execution.id, "start", "exit 1", "")
        yield "executor: its program ended", lambda n: n.feed(ended)


def _claims(execution_id: str, heard: bool) -> Callable[[Node], None]:
    def claims(node: Node) -> None:
        # What was not heard of had started nothing either; what was, had.
        program = Program("start", ProcessRef(BOOT, 500, 500), ("start",))
        node.ledger = node.ledger.claimed(execution_id, node.me, (program,) if heard else ())
        if heard:
            node.feed(e.ExecutionClaimed(execution_id, node.me))

    return claims


def _refuses(execution_id: str, code: str) -> Callable[[Node], None]:
    def refuses(node: Node) -> None:
        node.handed -= {execution_id}
        node.feed(e.ExecutionNotRun(execution_id, code, code))

    return refuses


def _step(execution: Execution, ok: bool, last: bool) -> Callable[[Node], None]:
    index = len(execution.results)
    result = StepResult(execution.runbook.steps[index].step_id, ok, "so", 1.0)
    return lambda node: node.feed(e.StepEnded(execution.id, index, result, last))


def _people(node: Node) -> Iterator[Move]:
    wants, world = node.site.people, node.world
    for incident in list(world.incidents.values()):
        if "dismiss" in wants:
            yield "person: dismisses", _ordered("dismiss", incident_id=incident.id, reason="so")
        if "ack" in wants and incident.page_id and incident.acknowledged_wall_s is None:
            yield "person: acknowledges", _ordered("ack", incident_id=incident.id)
    for target in node.site.targets:
        it = {"runbook_id": node.site.runbook_id, "target_id": target.target_id}
        if "approve" in wants:
            yield "person: approves", _ordered("approve", **it)
            yield "person: revokes", _ordered("approve", revoke=True, **it)
        if "execute" in wants:
            yield "person: executes", _ordered("execute", confirm=True, **it)
        if "pause" in wants:
            paused = f"target:{target.target_id}" in world.operator_pauses
            verb = "resume" if paused else "pause"
            yield f"person: {verb}s", _ordered(verb, target_id=target.target_id)


def _ordered(action: str, **args: Any) -> Callable[[Node], None]:
    return lambda node: node.order(action, **args)


# --- when two nodes are one state ----------------------------------------------------------------------------------


def canonical(node: Node) -> tuple[Any, ...]:
    """All that what comes next depends on, without names, words, counts that only grow, and exact times; of the pages
    that left lately, only how many there are."""
    world, now = node.world, node.now_s
    names = {i.id: f"{i.anomaly}:{i.target_id}" for i in world.incidents.values()}
    names |= {x.id: f"{x.runbook.id}@{x.resource}" for x in world.executions.values()}
    executions = tuple(sorted(_execution(node, x, names) for x in world.executions.values()))
    timers = tuple(
        (timer.kind, names.get(timer.subject, timer.subject), span(max(0.0, timer.due_steady_s - now)))
        for timer in sorted(world.timers.values(), key=lambda it: it.due_steady_s)
        if timer.kind is not TimerKind.PAGED
    )
    paged = sum(timer.kind is TimerKind.PAGED for timer in world.timers.values())
    history: dict[tuple[str, str], list[int]] = {}
    for began_s, runbook_id, resource, _ in world.history:
        if now - began_s < node.site.policy.breaker_window_s:
            history.setdefault((runbook_id, resource), []).append(0)
    deaths: dict[str, int] = {}
    for ended in world.ended.values():
        if ended.deaths:
            deaths[ended.resource] = min(2, deaths.get(ended.resource, 0) + ended.deaths)
    return (
        tuple(sorted(_incident(node, i, names) for i in world.incidents.values())),
        executions,
        timers,
        paged,
        tuple(sorted(_closed(node).items())),
        tuple(sorted((key, min(len(n), 4)) for key, n in history.items())),
        tuple(sorted(deaths.items())),
        tuple(sorted(_row(row, names) for row in world.outbox.values())),
        tuple(sorted(_state(it) for it in world.runbook_states.values())),
        tuple(sorted((b.runbook_id, b.resource, b.half_open, names.get(b.trial, "")) for b in world.breakers.values())),
        tuple(sorted(world.pauses)),
        tuple(sorted(world.operator_pauses)),
        tuple(sorted((name, len(s.canaries), len(s.verified)) for name, s in world.storms.items())),
        tuple(_target(node, target.target_id) for target in node.site.targets),
        node.up,
        tuple(sorted(plan.execution.runbook.id for plan in node.plans)),
    )


def _row(row: OutboxRow, names: dict[str, str]) -> tuple[Any, ...]:
    return (row.channel, row.kind, names.get(row.incident_id or "", ""), row.attempts)


def _state(it: RunbookState) -> tuple[Any, ...]:
    return (it.runbook_id, it.target_id, it.mode, it.demoted, it.taken_back, it.dry_run_count, it.confidence)


def _incident(node: Node, i: Incident, names: dict[str, str]) -> tuple[Any, ...]:
    world, now = node.world, node.now_s
    counted = i.clear_counted_steady_s
    return (
        names[i.id], i.state, i.runbook_id or "", names.get(i.execution_id or "", "over" if i.execution_id else ""),
        i.tier, i.tier_reason or "", i.acted_by, i.intermittent, i.clear_readings,
        span(None if counted is None else now - counted), bool(i.waiting_for), i.held_as_canary, i.held_by_pause,
        i.page_id is not None, i.acknowledged_wall_s is not None, min(i.repeats, 3), i.escalated_wall_s is not None,
        i.spent, tuple((run.runbook_id, run.predicts_clear, bool(run.error)) for run in i.dry_runs),
        span(now - i.detected_steady_s), span(now - i.changed_wall_s), i.id in world.rerun,
        tuple(sorted(world.planning.get(i.id, ()))),
    )  # fmt: skip


def _execution(node: Node, x: Execution, names: dict[str, str]) -> tuple[Any, ...]:
    now, claims = node.now_s, node.ledger["claims"]
    claimed = claims.get(x.id)
    deadline, settled = x.verify_deadline_steady_s, x.settled_steady_s
    return (
        names[x.id], x.authority, x.state, "" if claimed is None else "mine" if claimed == node.me else "another's",
        bool(x.claimed_by), bool(node.ledger["programs"].get(x.id)), bool(x.programs),
        tuple(it.success for it in x.results),
        span(None if deadline is None else max(0.0, deadline - now)),
        span(None if settled is None else max(0.0, settled - now)), x.settling is not None, min(x.deaths, 2),
        bool(x.exit_text), now - START + 50.0 > x.expires_mono_s, span(now - x.created_steady_s),
        names.get(x.incident_id or "", ""), x.id in node.handed, x.id in node.fetches, x.id in node.settles,
        x.id in node.world.settled, x.id in node.world.waiters,
    )  # fmt: skip


def _closed(node: Node) -> dict[str, tuple[int, bool]]:
    """Of each key: how often it was lately open, and whether a dismissal stands."""
    found: dict[str, tuple[int, bool]] = {}
    for (anomaly, target_id), incidents in node.world.closed.items():
        recent = [i for i in incidents if (i.resolved_wall_s or 0.0) > node.now_s - node.site.policy.reopen_window_s]
        dismissed = any((i.dismiss_until_steady_s or 0.0) > node.now_s for i in incidents)
        reopens = min(2, sum(1 for i in recent if i.state != "dismissed"))
        if reopens or dismissed:
            found[f"{anomaly}:{target_id}"] = (reopens, dismissed)
    return found


def _target(node: Node, target_id: str) -> tuple[Any, ...]:
    world = node.world
    newest, asked = world.readings.get(target_id), world.asked.get(target_id)
    late = asked is not None and (newest is None or newest.taken_mono_s < asked - STEP_S / 2)
    says = "" if newest is None else node.site.said(newest)
    silent = world.classifier.counts.get(target_id, 0)
    return (says, asked is not None, late, target_id in world.known, min(silent, 3))


# --- the walk ------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What a walk has seen. `complete`: every state was expanded, none is left at the edge."""

    site: str
    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    open_states: int = 0
    helped: int = 0
    abandoned: int = 0
    seconds: float = 0.0
    moves: dict[str, int] = field(default_factory=dict)


class Broken(AssertionError):
    """An invariant does not hold; the message has the way that leads there."""


def explore(site: Site, *, depth: int, states: int) -> Found:
    """Breadth first, until every state is expanded or a bound is reached. Raises Broken."""
    began_s = time.perf_counter()
    found = Found(site.name)
    start = first(site)
    seen: dict[bytes, int] = {_hash(canonical(start)): 0}
    way: list[tuple[int, str]] = [(-1, "start")]
    back: list[list[int]] = [[]]  # by state: those that lead to it without a person
    ends: list[int] = [0]  # states without an open incident
    queue: deque[tuple[int, int, Node]] = deque([(0, 0, start)])
    while queue:
        number, at, node = queue[0]
        if at >= depth or len(seen) >= states:
            break
        queue.popleft()
        leads_on = False
        for label, move in moves(node):
            child = node.copy()
            try:
                move(child)
                rules.holds(child)
            except Exception as error:
                raise Broken(f"{site.name}: {error!r} after\n  " + "\n  ".join([*_way(way, number), label])) from error
            found.transitions += 1
            name = label.split(" ")[0].rstrip(":")
            found.moves[name] = found.moves.get(name, 0) + 1
            key = _hash(canonical(child))
            other = seen.get(key)
            if other is None:
                other = seen[key] = len(way)
                way.append((number, label))
                back.append([])
                if not child.world.incidents:
                    ends.append(other)
                queue.append((other, at + 1, child))
                found.depth = at + 1
            if name != "person":
                leads_on |= other != number
                back[other].append(number)
        if node.world.incidents and not leads_on:
            raise Broken(f"{site.name}: a dead end after\n  " + "\n  ".join(_way(way, number)))
    found.states, found.complete = len(seen), not queue
    found.open_states = len(seen) - len(ends)
    _all_can_end(site, found, way, back, ends, queue)
    found.seconds = round(time.perf_counter() - began_s, 1)
    return found


def _hash(key: tuple[Any, ...]) -> bytes:
    """128 bits: two states are never taken for one by chance, and a million fit into memory."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).digest()


def _way(way: list[tuple[int, str]], number: int) -> list[str]:
    labels = []
    while number >= 0:
        number, label = way[number]
        labels.append(label)
    return labels[::-1]


def _all_can_end(
    site: Site,
    found: Found,
    way: list[tuple[int, str]],
    back: list[list[int]],
    ends: list[int],
    queue: deque[tuple[int, int, Node]],
) -> None:
    """Backwards from the states without an open incident. Of those at the edge of what was explored every so manieth is
    walked on from: in a world that helps, where all must end, and (fewer) in one that does not, where a person must be
    told. The edge then counts as an end."""
    goal = set(ends)
    for n, (number, _, node) in enumerate(queue):
        try:
            if number not in goal and n % HELPED_EACH == 0:
                found.helped += 1
                helped(node.copy())
            if n % site.sample == 0:
                found.abandoned += 1
                abandoned(node.copy())
        except AssertionError as error:
            raise Broken(f"{site.name}: {error} after\n  " + "\n  ".join(_way(way, number))) from error
        goal.add(number)
    stack = list(goal)
    while stack:
        for number in back[stack.pop()]:
            if number not in goal:
                goal.add(number)
                stack.append(number)
    stuck = set(range(len(way))) - goal
    if stuck:
        raise Broken(f"{site.name}: cannot end without a person, after\n  " + "\n  ".join(_way(way, min(stuck))))


def helped(node: Node) -> None:
    """From here everything goes well: whatever is open must end by itself, and every message arrive."""
    node.site = msgspec.structs.replace(node.site, people=frozenset())
    looked = False
    for _ in range(HELP_MAX):
        if not node.world.incidents and not node.world.outbox and not node.world.executions:
            return
        by_name = dict(moves(node))
        wanted = [name for name in _HELPFUL if name in by_name][:1]
        if not wanted:
            looked = not looked
            probes = [f"probe: {target.target_id} clear" for target in node.site.targets]
            wanted = probes if looked else ["time: the next timer"]
        for name in wanted:
            node.now_s += STEP_S
            if name in by_name:
                by_name[name](node)
                rules.holds(node)
    raise AssertionError(f"not over after {HELP_MAX} helpful events: {list(node.world.incidents.values())}")


_HELPFUL = ("notifier: delivered", "executor: is back", "store: finds the execution", "executor: settled, over",
            "executor: planned, clear", "executor: claims", "executor: step done")  # fmt: skip


def abandoned(node: Node) -> None:
    """From here nobody answers, but for the store, and the clock goes on: within half an hour a person has been told of
    every open incident. (An executor that does not live is told of by the root, as an incident of our own.)"""
    if not node.up:
        _comes_back(node)
    end_s = node.now_s + ABANDONED_S
    while (alarm := node.world.next_alarm()) is not None and alarm.due_steady_s <= end_s:
        _time(node)
        node.now_s += STEP_S
        for execution_id in sorted(node.fetches):
            _found(execution_id)(node)
        rules.holds(node)
    rules.told(node)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=6, help="events in a row, at most")
    parser.add_argument("--states", type=int, default=20_000, help="different states, at most (of each site)")
    parser.add_argument("--site", choices=sorted(SITES), action="append")
    wanted = parser.parse_args()
    for name in wanted.site or sorted(SITES):
        found = explore(SITES[name], depth=wanted.depth, states=wanted.states)
        print(json.dumps(msgspec.to_builtins(found)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
