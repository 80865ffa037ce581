"""Values of the tree: its specification, the kernel's state, what goes in (events) and what comes out (actions).

Pure: no clock, no files, no processes. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from supervisor.messages import TreeEvent, Up


class Restart(StrEnum):
    PERMANENT = "permanent"  # whatever way it ends, it is started again
    TRANSIENT = "transient"  # ... unless it ended by itself with exit 0
    TEMPORARY = "temporary"  # never started again


class OnTrip(StrEnum):
    """What happens when a child of the group failed more often than its intensity allows."""

    GIVE_UP = "give_up"  # page, stop everything, exit 70
    QUARANTINE_ITEMS = "quarantine_items"  # what it had in work is put aside, and it comes back
    QUARANTINE_CHILD = "quarantine_child"  # it rests, and is tried again slowly


class GroupSpec(msgspec.Struct, frozen=True):
    """More than `intensity` restarts of one child within `period_s` trip its breaker; each child counts alone."""

    name: str
    on_trip: OnTrip
    intensity: int
    period_s: float


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`factory` is `module:Class`, a `supervisor.worker.Worker`. Times in seconds, as `[tree]` names them."""

    name: str
    factory: str
    group: str
    restart: Restart = Restart.PERMANENT
    ready_within_s: float
    shutdown_s: float
    beat_within_s: float
    progress_within_s: float
    abort_grace_s: float
    modules: tuple[str, ...] = ()  # imported before the fork, besides the factory's own
    sockets: tuple[str, ...] = ()  # files of the runtime directory that it binds, looked after while it is READY


class Backoff(msgspec.Struct, frozen=True):
    """Delays before a restart: `first_s`, then from `base_s` doubling up to `max_s`; from the start after `reset_s`."""

    first_s: float
    base_s: float
    max_s: float
    reset_s: float


class TreeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tree. Children stand in start order; `listener` is the child that is told of every tree event."""

    groups: tuple[GroupSpec, ...]
    children: tuple[ChildSpec, ...]
    backoff: Backoff
    quarantine_retry_s: float
    beat_s: float
    listener: str = ""


# --- state ---


class Phase(StrEnum):
    WAITING = "waiting"  # its turn in the start order has not come
    STARTING = "starting"  # forked (`pid` is 0 until the root says so), not READY yet
    READY = "ready"
    STOPPING = "stopping"  # ordered to stop
    ABORTING = "aborting"  # hung: SIGABRT was sent, so that its stacks go to the log
    KILLING = "killing"  # SIGKILL was sent
    BACKOFF = "backoff"  # dead, started again at `deadline_s`
    QUARANTINED = "quarantined"  # dead, tried again at `deadline_s`
    ENDED = "ended"  # dead for good


class Then(StrEnum):
    """What comes after a child's death, if not what its restart type says."""

    STAY = "stay"
    LEAVE = "leave"  # it is in the tree no more
    AGAIN = "again"  # it was ordered to stop so that it starts anew; no failure


ITEMS_MAX = 4096  # of one child: in work, suspect, quarantined
FAILURES_S = 600.0  # how far back a child's failures are told

LIVE = frozenset({Phase.STARTING, Phase.READY, Phase.STOPPING, Phase.ABORTING, Phase.KILLING})
SETTLED = frozenset({Phase.READY, Phase.QUARANTINED, Phase.ENDED})  # the next in order need not wait for it


class ChildState(msgspec.Struct, frozen=True, kw_only=True):
    """One child. `deadline_s` belongs to the phase; `beat_deadline_s` counts only while READY."""

    spec: ChildSpec
    phase: Phase = Phase.WAITING
    lives: int = 0
    incarnation: str = ""
    pid: int = 0
    deadline_s: float | None = None
    beat_deadline_s: float | None = None
    ready_at_s: float | None = None
    done: int = 0
    progress_s: float = 0.0  # when work was last seen to be finished, or none to be in hand
    hung_for: str = ""  # why the root is ending it
    streak: int = 0  # failures in a row, for the backoff
    stuck: int = 0  # lives in a row that the root had to end
    restarts_s: tuple[float, ...] = ()  # when it was started again, within the period and since the last trip
    probation: bool = False  # on trial after a quarantine: one failure puts it back
    then: Then = Then.STAY
    failures_s: tuple[float, ...] = ()  # within `FAILURES_S`
    items: frozenset[str] = frozenset()  # in work
    suspects: tuple[str, ...] = ()  # were in work at one death
    quarantined: tuple[str, ...] = ()  # were in work at two
    restarts: int = 0
    exit_text: str = ""  # of the last death
    last_words: str = ""


class Mode(StrEnum):
    RUNNING = "running"
    STOPPING = "stopping"
    OVER = "over"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`wake_by_s`: the root must call `step` again by then. One that comes later was itself not running."""

    tree: TreeSpec
    prefix: str
    children: dict[str, ChildState]
    mode: Mode = Mode.RUNNING
    announced: bool = False  # AllReady was given out
    exit_code: int = 0
    exit_reason: str = ""
    pager_deadline_s: float | None = None
    wake_by_s: float = float("inf")


# --- events: what the root tells the kernel ---


class Tick(msgspec.Struct, frozen=True):
    """The end of a turn of the root's loop. Only here do deadlines run out: every beat that came in counts first."""


class Forked(msgspec.Struct, frozen=True):
    child: str
    pid: int


class ForkFailed(msgspec.Struct, frozen=True):
    child: str
    error: str
    jitter: float


class Said(msgspec.Struct, frozen=True):
    """A child's message over its socket pair."""

    child: str
    incarnation: str
    message: Up


class Died(msgspec.Struct, frozen=True):
    """`exit_code` as multiprocessing has it: negative for a signal. `jitter` in [0, 1) spreads the restart."""

    child: str
    incarnation: str
    exit_code: int
    last_words: str
    jitter: float


class StopOrdered(msgspec.Struct, frozen=True):
    """Orderly: in reverse, each with its `shutdown_s`."""


class KillOrdered(msgspec.Struct, frozen=True):
    """At once: SIGKILL to everything."""


class Refitted(msgspec.Struct, frozen=True):
    """Another tree is in force: who is new starts, who is gone stops, `again` are stopped and started anew."""

    tree: TreeSpec
    again: frozenset[str] = frozenset()


class Ousted(msgspec.Struct, frozen=True):
    """Another healctl holds what was ours: page, and end everything so that nothing of the other's is touched."""

    reason: str


class PagerEnded(msgspec.Struct, frozen=True):
    """The one-shot pager is over, whatever came of it."""


KernelEvent = Tick | Forked | ForkFailed | Said | Died | StopOrdered | KillOrdered | Refitted | Ousted | PagerEnded


# --- actions: what the kernel wants done ---


class Fork(msgspec.Struct, frozen=True):
    """Answered by Forked or ForkFailed."""

    child: str
    incarnation: str
    suspects: frozenset[str]
    quarantined: frozenset[str]


class Order(msgspec.Struct, frozen=True):
    """Stop: the message, SIGTERM, and SIGCONT for one that is stopped."""

    child: str


class Abort(msgspec.Struct, frozen=True):
    """SIGABRT, and SIGCONT so that a stopped one takes it."""

    child: str


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL to the child's process group."""

    child: str


class Report(msgspec.Struct, frozen=True):
    """To the log and to the listener; the root fills in `at_wall_s`."""

    event: TreeEvent


class Note(msgspec.Struct, frozen=True):
    """A line for the log: level, child (empty: root), text."""

    level: str
    child: str
    text: str


class Page(msgspec.Struct, frozen=True):
    """Start the one-shot pager; answered by PagerEnded."""

    text: str


class EndPager(msgspec.Struct, frozen=True):
    """Its deadline is over."""


class AllReady(msgspec.Struct, frozen=True):
    """Given once: every child is READY, or has been put aside."""


class Exit(msgspec.Struct, frozen=True):
    """Nothing lives any more; `reason` is empty after an orderly stop."""

    code: int
    reason: str


Action = Fork | Order | Abort | Kill | Report | Note | Page | EndPager | AllReady | Exit
