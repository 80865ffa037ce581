"""One step of the kernel in the making: the state being replaced, the actions gathered. Pure, like the kernel."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.messages import TreeEvent, TreeKind
from supervisor.tree.model import FAILURES_S, ITEMS_MAX, Action, ChildState, Note, Phase, Report, State, Then

LATE_S = 0.5  # beyond this, the root was not running


class Turn:
    """One step in the making: the children are replaced, never changed."""

    def __init__(self, state: State, now_s: float) -> None:
        self.state = state
        self.tree = state.tree
        self.now_s = now_s
        self.children = dict(state.children)
        self.groups = {group.name: group for group in state.tree.groups}
        self.mode = state.mode
        self.announced = state.announced
        self.exit_code = state.exit_code
        self.exit_reason = state.exit_reason
        self.pager_deadline_s = state.pager_deadline_s
        self.actions: list[Action] = []

    def result(self) -> tuple[State, tuple[Action, ...]]:
        state = replace(
            self.state,
            tree=self.tree,
            children=self.children,
            mode=self.mode,
            announced=self.announced,
            exit_code=self.exit_code,
            exit_reason=self.exit_reason,
            pager_deadline_s=self.pager_deadline_s,
            wake_by_s=self._wake_by_s(),
        )
        return state, tuple(self.actions)

    def _wake_by_s(self) -> float:
        due = [self.now_s + self.tree.beat_s]  # never sleeps longer: a gap is then seen for what it is
        if self.pager_deadline_s is not None:
            due.append(self.pager_deadline_s)
        for child in self.children.values():
            due += [at for at in (child.deadline_s, child.beat_deadline_s) if at is not None]
        return min(due)

    def put(self, child: ChildState) -> ChildState:
        self.children[child.spec.name] = child
        return child

    def report(self, kind: TreeKind, child: ChildState, *, items: tuple[str, ...] = (), delay_s: float = 0.0) -> None:
        self.actions.append(Report(tree_event(kind, child, items=items, delay_s=delay_s)))

    def note(self, level: str, child: ChildState | None, text: str) -> None:
        self.actions.append(Note(level, child.spec.name if child else "", text))

    def count_failure(self, child: ChildState) -> ChildState:
        recent = (at for at in child.failures_s if at > self.now_s - FAILURES_S)
        return replace(child, failures_s=(*recent, self.now_s))

    def put_poison_aside(self, child: ChildState, poison: frozenset[str]) -> ChildState:
        if poison:
            self.report(TreeKind.ITEM_QUARANTINED, child, items=tuple(sorted(poison)))
        suspects = [item for item in child.suspects if item not in poison]
        suspects += [item for item in sorted(child.items) if item not in poison and item not in suspects]
        quarantined = (*child.quarantined, *(item for item in sorted(poison) if item not in child.quarantined))
        if len(suspects) > ITEMS_MAX or len(quarantined) > ITEMS_MAX:
            self.note("warning", child, f"more than {ITEMS_MAX} suspect or quarantined items: the oldest are forgotten")
        return replace(child, suspects=tuple(suspects[-ITEMS_MAX:]), quarantined=quarantined[-ITEMS_MAX:])

    def allow_for_a_late_root(self) -> None:
        gap_s = self.now_s - self.state.wake_by_s
        if gap_s <= LATE_S:
            return
        self.note("warning", None, f"did not run for {gap_s:.1f} s; every deadline moves by that")
        for child in self.children.values():
            self.put(
                replace(
                    child,
                    deadline_s=later(child.deadline_s, gap_s),
                    beat_deadline_s=later(child.beat_deadline_s, gap_s),
                    progress_s=child.progress_s + gap_s,
                )
            )
        self.pager_deadline_s = later(self.pager_deadline_s, gap_s)


ITEMS_TOLD_MAX = 100  # in one event
ITEMS_CHARS_MAX = 10_000  # an item is a name; a path may be long, and one character takes up to four bytes


def tree_event(kind: TreeKind, child: ChildState, *, items: tuple[str, ...] = (), delay_s: float = 0.0) -> TreeEvent:
    """What `kind` says of this child; `exit_text` and `last_words` are those of its last death."""
    return TreeEvent(
        kind=kind,
        child=child.spec.name,
        pid=child.pid,
        incarnation=child.incarnation,
        at_wall_s=0.0,
        restarts=child.restarts,
        exit_text=child.exit_text,
        items=items,
        last_words=child.last_words,
        delay_s=delay_s,
        failures=len(child.failures_s),
    )


def portions(event: TreeEvent) -> list[TreeEvent]:
    """`event` so that each fits into a packet: what was in work at a death is shortened, what was set aside is not."""
    parts: list[list[str]] = [[]]
    for item in event.items:
        if sum(map(len, parts[-1])) + len(item) > ITEMS_CHARS_MAX or len(parts[-1]) >= ITEMS_TOLD_MAX:
            parts.append([])
        parts[-1].append(item)
    if event.kind is not TreeKind.ITEM_QUARANTINED and len(parts) > 1:
        parts = [[*parts[0], f"and {len(event.items) - len(parts[0])} more"]]
    return [replace(event, items=tuple(part)) for part in parts]


def later(at_s: float | None, gap_s: float) -> float | None:
    return None if at_s is None else at_s + gap_s


def dead(child: ChildState, phase: Phase) -> ChildState:
    return replace(
        child,
        phase=phase,
        pid=0,
        deadline_s=None,
        beat_deadline_s=None,
        ready_at_s=None,
        items=frozenset(),
        hung_for="",
        then=Then.STAY,
    )
