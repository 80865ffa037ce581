"""A root without processes, on a clock that only the tests move: for the tests of the tree kernel."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from supervisor.config import Duration, TreeSection
from supervisor.messages import Beat, Ready, TreeKind, Up
from supervisor.tree import model
from supervisor.tree.kernel import initial, step
from supervisor.tree.model import Action, KernelEvent, Phase, Restart, TreeSpec
from supervisor.tree.spec import tree_of


def a_tree(*names: str, restart: Restart = Restart.PERMANENT, listener: str = "", **section: float) -> TreeSpec:
    """Children named GROUP or GROUP-N: `core`, `hands-1`, ..."""
    times = {key: value if key.endswith("intensity") else Duration(value) for key, value in section.items()}
    workers = [(name, "m:C", name.partition("-")[0]) for name in names]
    tree = tree_of(TreeSection(**times), workers, listener=listener)  # type: ignore[arg-type]
    return model.TreeSpec(
        groups=tree.groups,
        children=tuple(_with_restart(child, restart) for child in tree.children),
        backoff=tree.backoff,
        quarantine_retry_s=tree.quarantine_retry_s,
        beat_s=tree.beat_s,
        listener=tree.listener,
    )


def _with_restart(child: model.ChildSpec, restart: Restart) -> model.ChildSpec:
    return replace(child, restart=restart)


class Bench:
    """A root without processes: it answers Fork at once, and keeps what was asked for."""

    def __init__(self, tree: TreeSpec) -> None:
        self.state = initial(tree, "t")
        self.now_s = 100.0
        self.pid = 1000
        self.actions: list[Action] = []
        self.tick()

    def apply(self, event: KernelEvent) -> None:
        self.state, actions = step(self.state, event, self.now_s)
        for action in actions:
            self.actions.append(action)
            if isinstance(action, model.Fork):
                self.pid += 1
                self.apply(model.Forked(action.child, self.pid))

    def tick(self, later_s: float = 0.0) -> None:
        """Like the root: never later than it promised."""
        until_s = self.now_s + later_s
        while self.state.wake_by_s < until_s:
            self.now_s = self.state.wake_by_s
            self.beat_all()
            self.apply(model.Tick())
        self.now_s = until_s
        self.apply(model.Tick())

    def beat_all(self) -> None:
        for name, child in self.state.children.items():
            if child.phase is Phase.READY and name not in self.mute:
                self.say(name, Beat(0, 0.0))

    mute: frozenset[str] = frozenset()

    def say(self, name: str, message: Up) -> None:
        self.apply(model.Said(name, self.state.children[name].incarnation, message))

    def die(self, name: str, code: int = -9, words: str = "") -> None:
        self.apply(model.Died(name, self.state.children[name].incarnation, code, words, 0.0))

    def ready(self, *names: str) -> None:
        for name in names:
            self.say(name, Ready())

    def fail(self, name: str, code: int = 1) -> None:
        """Dies; its restart is waited for, and it is READY again if it was restarted."""
        self.die(name, code)
        self.tick()
        child = self.state.children[name]
        if child.phase is Phase.BACKOFF:
            assert child.deadline_s is not None
            self.tick(child.deadline_s - self.now_s)
        if self.state.children[name].phase is Phase.STARTING:
            self.ready(name)

    def take(self, *kinds: type[Action]) -> list[Action]:
        found = [action for action in self.actions if isinstance(action, kinds)]
        self.actions.clear()
        return found

    def reports(self) -> list[tuple[TreeKind, str]]:
        return [(a.event.kind, a.event.child) for a in self.take(model.Report) if isinstance(a, model.Report)]

    def phases(self) -> list[Phase]:
        return [child.phase for child in self.state.children.values()]


def names(actions: Iterable[Action]) -> list[str]:
    return [action.child for action in actions if isinstance(action, model.Fork | model.Order | model.Kill)]
