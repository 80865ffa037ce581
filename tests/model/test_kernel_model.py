"""The kernel under any order of events that a root could bring: what must hold, holds in every state.

The world here is the root and the kernel (of the machine) in one: it keeps the processes that were forked, lets them
speak, hang and die, obeys signals or (for a while) does not, and is sometimes late.
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from supervisor.config import Duration, TreeSection
from supervisor.messages import Beat, Finished, Ready, TreeKind, Working
from supervisor.tree import model
from supervisor.tree.kernel import initial, step
from supervisor.tree.model import LIVE, SETTLED, KernelEvent, Mode, OnTrip, Phase, Restart, Then
from supervisor.tree.spec import tree_of

INTENSITY = 3
PERIOD_S = 20.0
NAMES = ("core-1", "core-2", "hands-1", "hands-2", "probes-1", "probes-2")
CHILD = st.sampled_from(NAMES)
ITEMS = ("a", "b")
ITEM = st.sampled_from(ITEMS)
JITTER = st.floats(0, 0.999)
SECTION = TreeSection(
    core_intensity=INTENSITY, core_period=Duration(PERIOD_S),
    hands_intensity=INTENSITY, hands_period=Duration(PERIOD_S),
    probes_intensity=INTENSITY, probes_period=Duration(PERIOD_S),
    quarantine_retry=Duration(30), backoff_base=Duration(0.5), backoff_max=Duration(4), backoff_reset=Duration(15),
    ready_within=Duration(5), beat=Duration(1), beat_within=Duration(4), progress_within=Duration(8),
    abort_grace=Duration(1), shutdown=Duration(3),
)  # fmt: skip


class Tree(RuleBasedStateMachine):
    @initialize(restarts=st.lists(st.sampled_from(list(Restart)), min_size=len(NAMES), max_size=len(NAMES)))
    def plant(self, restarts: list[Restart]) -> None:
        tree = tree_of(SECTION, [(name, "m:C", name.partition("-")[0]) for name in NAMES], listener="core-2")
        children = tuple(replace(c, restart=r) for c, r in zip(tree.children, restarts, strict=True))
        self.tree = replace(tree, children=children)
        self.state = initial(self.tree, "t")
        self.now_s = 1000.0
        self.pids = 0
        self.alive: dict[str, tuple[str, int]] = {}  # child -> incarnation, pid
        self.killed: set[str] = set()
        self.never: set[str] = set()
        self.ever_forked: set[str] = set()
        self.put_aside: set[str] = set()  # items of it were, since its last start
        self.forks_s: dict[str, list[float]] = defaultdict(list)  # restarts since the last trip
        self.items: dict[str, set[str]] = defaultdict(set)
        self.deaths: dict[tuple[str, str], int] = defaultdict(int)
        self.restarts: dict[str, int] = defaultdict(int)
        self.stopping = False
        self.exited: list[int] = []
        self.feed(model.Tick())

    # -- the root --

    def feed(self, event: KernelEvent) -> None:
        queue = [event]
        while queue:
            self.state, actions = step(self.state, queue.pop(0), self.now_s)
            for action in actions:
                queue += self.perform(action)

    def perform(self, action: model.Action) -> list[KernelEvent]:
        match action:
            case model.Fork(name, incarnation, suspects, quarantined):
                return self.fork(name, incarnation, suspects, quarantined)
            case model.Kill(name):
                assert name in self.alive
                self.killed.add(name)
            case model.Order(name) | model.Abort(name):
                assert name in self.alive
            case model.Report(event):
                self.reported(event.kind, event.child, event.items)
            case model.Exit(code, _):
                self.exited.append(code)
            case _:
                pass
        return []

    def fork(
        self, name: str, incarnation: str, suspects: frozenset[str], quarantined: frozenset[str]
    ) -> list[KernelEvent]:
        assert name not in self.alive, "two live processes of one child"
        assert name not in self.never, "started again after exit 78, or although its restart type forbids it"
        assert not self.stopping, "started during the stop"
        if name not in self.ever_forked:
            earlier = NAMES[: NAMES.index(name)]
            assert all(self.state.children[other].phase in SETTLED for other in earlier), "started before its turn"
            assert set(earlier) <= self.ever_forked
        elif self.state.children[name].restarts > self.restarts[name]:  # else ordered, which is no failure
            self.forks_s[name].append(self.now_s)
            recent = [at for at in self.forks_s[name] if at > self.now_s - PERIOD_S]
            assert len(recent) <= INTENSITY, "restarted more often than the intensity, without a trip"
        self.restarts[name] = self.state.children[name].restarts
        self.put_aside.discard(name)
        self.ever_forked.add(name)
        assert not suspects & quarantined
        for item in ITEMS:
            assert (item not in quarantined) or self.deaths[name, item] >= 1
            assert self.deaths[name, item] < 2 or item in quarantined, "touched a third time"
        self.pids += 1
        self.alive[name] = (incarnation, self.pids)
        return [model.Forked(name, self.pids)]

    def reported(self, kind: TreeKind, name: str, items: tuple[str, ...]) -> None:
        group = name.partition("-")[0]
        # All are trips: an item put aside without a second death; a rest; a start of the count anew for a worker whose
        # last item was put aside for its second death by the very failure that tripped.
        if kind is TreeKind.QUARANTINED:
            self.forks_s[name].clear()
        if kind is TreeKind.ITEM_QUARANTINED and group == "hands":
            if any(self.deaths[name, item] < 2 for item in items):
                self.forks_s[name].clear()
            for item in items:
                self.deaths[name, item] = 2
            self.put_aside.add(name)
        if kind is TreeKind.BACKOFF and name in self.put_aside and not self.state.children[name].restarts_s:
            self.forks_s[name].clear()

    # -- what can happen --

    @rule(seconds=st.floats(0.01, 3))
    def time_passes(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.state.mode is not Mode.OVER and self.state.wake_by_s < until_s:
            self.now_s = max(self.now_s, self.state.wake_by_s)
            self.feed(model.Tick())
        self.now_s = until_s
        self.feed(model.Tick())

    @rule(name=CHILD)
    def gets_ready(self, name: str) -> None:
        self.say(name, Ready())

    @rule(data=st.data())
    def everybody_gets_ready_and_beats(self, data: st.DataObject) -> None:
        del data
        for name in NAMES:
            self.say(name, Ready())
            self.say(name, Beat(self.pids, 0.0))

    @rule(name=CHILD, done=st.integers(0, 5), oldest_s=st.floats(0, 20))
    def beats(self, name: str, done: int, oldest_s: float) -> None:
        self.say(name, Beat(done, oldest_s))

    @rule(name=CHILD, item=ITEM)
    def works(self, name: str, item: str) -> None:
        if name in self.alive and item not in self.state.children[name].quarantined:
            self.items[name].add(item)
            self.say(name, Working(item))

    @rule(name=CHILD, item=ITEM)
    def finishes(self, name: str, item: str) -> None:
        if item in self.items[name]:
            self.items[name].discard(item)
            self.deaths[name, item] = 0
            self.say(name, Finished(item))

    @rule(name=CHILD, code=st.sampled_from([0, 1, 1, -9, -6, 78]), jitter=JITTER)
    def dies(self, name: str, code: int, jitter: float) -> None:
        if name not in self.alive:
            return
        incarnation, _ = self.alive.pop(name)
        if name in self.killed:
            code = -9
        self.killed.discard(name)
        child = self.state.children[name]
        kind = child.spec.restart
        asked = code == 0 and not child.hung_for
        if child.then is Then.AGAIN and not self.stopping:
            self.items[name].clear()  # ordered out: nobody is to blame
        elif code == 78 or kind is Restart.TEMPORARY or (kind is Restart.TRANSIENT and asked):
            self.never.add(name)
        elif not self.stopping:
            for item in self.items[name]:
                self.deaths[name, item] += 1
        self.items[name].clear()
        self.feed(model.Died(name, incarnation, code, "", jitter))
        self.stopping = self.stopping or self.state.mode is not Mode.RUNNING

    @rule(name=CHILD, item=ITEM, jitter=JITTER)
    def dies_at_work_again_and_again(self, name: str, item: str, jitter: float) -> None:
        for _ in range(3):
            self.works(name, item)
            self.dies(name, -9, jitter)
            self.time_passes(3.0)

    @precondition(lambda self: self.state.mode is Mode.RUNNING)
    @rule(again=st.sets(CHILD, max_size=3))
    def another_tree(self, again: set[str]) -> None:
        for name, child in self.state.children.items():
            if child.phase is Phase.ENDED and child.spec.restart is Restart.PERMANENT:
                self.never.discard(name)  # it asked for another configuration
                self.forks_s[name].clear()
        self.feed(model.Refitted(self.tree, frozenset(again)))

    @rule(name=CHILD)
    def somebody_dead_speaks(self, name: str) -> None:
        before = self.state.children
        self.feed(model.Said(name, "of an earlier life", Ready()))
        self.feed(model.Died(name, "of an earlier life", 1, "", 0.0))
        assert self.state.children[name].restarts - before[name].restarts in (0, 1)

    @precondition(lambda self: self.state.mode is Mode.RUNNING)
    @rule(gap_s=st.floats(1, 10_000))
    def the_root_is_late(self, gap_s: float) -> None:
        before = self.state
        self.now_s = before.wake_by_s + gap_s
        state, actions = step(before, model.Tick(), self.now_s)
        # Whoever was due at the very moment of the promised step is due now; nobody else is.
        due = {n for n, c in before.children.items() if before.wake_by_s in (c.deadline_s, c.beat_deadline_s)}
        blamed = {a.child for a in actions if isinstance(a, model.Kill | model.Abort)}
        assert blamed <= due, "blamed for the root's own absence"
        for name, child in state.children.items():
            old = before.children[name]
            if child.phase is old.phase and old.deadline_s is not None:
                assert child.deadline_s == old.deadline_s + (self.now_s - before.wake_by_s)
        self.state = state
        queue: list[KernelEvent] = []
        for action in actions:
            queue += self.perform(action)
        for event in queue:
            self.feed(event)

    @precondition(lambda self: self.state.mode is Mode.RUNNING)
    @rule(at_once=st.booleans(), really=st.integers(0, 9))
    def stop(self, at_once: bool, really: int) -> None:
        if really:  # seldom: a run that stops at once shows little
            return
        self.stopping = True
        self.feed(model.KillOrdered() if at_once else model.StopOrdered())

    def say(self, name: str, message: Ready | Beat | Working | Finished) -> None:
        if name in self.alive:
            self.feed(model.Said(name, self.alive[name][0], message))

    # -- what must hold --

    @invariant()
    def the_kernel_knows_who_lives(self) -> None:
        if not hasattr(self, "state"):
            return
        for name, child in self.state.children.items():
            if name in self.alive and child.phase in LIVE:
                assert (child.incarnation, child.pid) == self.alive[name]
            if child.phase in LIVE:
                assert name in self.alive
            elif name in self.alive:
                assert name in self.killed, "a live process was forgotten"  # left behind after SIGKILL, in a stop
            if child.phase in (Phase.STARTING, Phase.BACKOFF, Phase.QUARANTINED, Phase.STOPPING, Phase.ABORTING):
                assert child.deadline_s is not None, "a phase that nothing would end"
            if child.phase is Phase.READY:
                assert child.beat_deadline_s is not None

    @invariant()
    def the_core_is_whole_or_the_tree_stops(self) -> None:
        if not hasattr(self, "state") or self.state.mode is not Mode.RUNNING:
            return
        give_up = {group.name for group in self.tree.groups if group.on_trip is OnTrip.GIVE_UP}
        for child in self.state.children.values():
            if child.spec.group in give_up and child.spec.restart is Restart.PERMANENT:
                assert child.phase not in (Phase.QUARANTINED, Phase.ENDED)

    def teardown(self) -> None:
        """A stop always ends, whatever the children do: here they ignore every order and even SIGKILL."""
        if not hasattr(self, "state"):
            return
        self.stopping = True
        self.feed(model.StopOrdered())
        for _ in range(500):
            if self.state.mode is Mode.OVER:
                break
            self.now_s = self.state.wake_by_s
            self.feed(model.Tick())
            if self.state.pager_deadline_s is not None:
                self.feed(model.PagerEnded())
        assert self.state.mode is Mode.OVER, "the stop does not end"
        assert len(self.exited) == 1


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
