"""The rules of the tree as one pure function, `step(state, event, now_s) -> (state, actions)`.

Start. Children are started left to right. The next is forked only when every earlier one is READY, quarantined or
ended; one that is not READY within `ready_within_s` is treated as hung. When all are settled, AllReady is given once.

Stop. In reverse order, one after the other: the order to stop, then after `shutdown_s` SIGKILL. A killed process that
the kernel does not let go of within another `shutdown_s` is left behind, with a note, so that a stop always ends.
KillOrdered skips the orders.

Death. A permanent child is started again however it ended, a transient one unless it ended with exit 0, a temporary
one never. Exit 78 means "never restart": the child ends for good; in a GIVE_UP group the tree stops with 78.

Restart. The first failure is followed by a restart after `first_s`, the next after `base_s`, doubling up to `max_s`,
spread by a number that comes in with the event. A child that had been READY for `reset_s` begins anew.

Intensity. A failure that would need more than `intensity` restarts within `period_s`, each child counted alone, trips
the breaker of its group (a restart counts when it is made: its delay, or a late root, is no way around the limit):
GIVE_UP pages, stops everything and exits 70; QUARANTINE_ITEMS puts aside what the child had in work and starts it
again after `max_s`; QUARANTINE_CHILD lets it rest for `quarantine_retry_s`. A child that had nothing in work is
quarantined too. One that fails on trial after a quarantine goes back at once. Since the root's own deadlines may be
longer than any period, `STUCK_MAX` lives in a row that the root had to end trip the breaker as well.

Hang. Two deadlines while READY: no beat for `beat_within_s`; or beats that show no finished work for
`progress_within_s` while the oldest work in hand is older than that. Then SIGABRT (the stacks go to the log), after
`abort_grace_s` SIGKILL of the group.

Another tree. Who is new in it waits for its turn in the start order; who is gone is ordered to stop, and killed if it
does not; who is to start anew is stopped and then waits for its turn again, which is no failure. Who rests in
quarantine is tried at once if it is to start anew; who ended for good (exit 78) is tried in any case, since it asked
for another configuration. Everybody else goes on, with the new limits.

Late root. Every step promises by when the next one comes (`wake_by_s`). If it comes later by more than `LATE_S`, the
root was not running (a suspended machine, a stopped process), and every deadline moves by the gap.

Poison. What a child has in work when it dies is suspect; what was there at two deaths is quarantined, and the child
never touches it again. Work that gets finished is suspect no more.

It must never read a clock, draw a random number, or touch a process.
"""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.messages import Beat, Finished, Ready, TreeKind, Up, Working
from supervisor.tree.model import (
    ITEMS_MAX,
    LIVE,
    SETTLED,
    Abort,
    Action,
    AllReady,
    Backoff,
    ChildState,
    Died,
    EndPager,
    Exit,
    Fork,
    Forked,
    ForkFailed,
    KernelEvent,
    Kill,
    KillOrdered,
    Mode,
    OnTrip,
    Order,
    Ousted,
    Page,
    PagerEnded,
    Phase,
    Refitted,
    Report,
    Restart,
    Said,
    State,
    StopOrdered,
    Then,
    Tick,
    TreeSpec,
)
from supervisor.tree.refit import Refitting
from supervisor.tree.turn import dead, tree_event
from supervisor.tree.wording import exit_text as exit_text

EXIT_GAVE_UP = 70  # sysexits.h EX_SOFTWARE
EXIT_NEVER_RESTART = 78  # sysexits.h EX_CONFIG
EXIT_KILLED = 1
STUCK_MAX = 5
PAGER_WITHIN_S = 20.0


def initial(tree: TreeSpec, prefix: str) -> State:
    """Nothing started yet; the first Tick starts the first child. `prefix` makes incarnations unique for ever."""
    return State(tree=tree, prefix=prefix, children={spec.name: ChildState(spec=spec) for spec in tree.children})


def step(state: State, event: KernelEvent, now_s: float) -> tuple[State, tuple[Action, ...]]:
    """One event at one time. Never raises for an event of a process that is no more: such a one changes nothing."""
    if state.mode is Mode.OVER:
        return state, ()
    turn = _Rules(state, now_s)
    turn.allow_for_a_late_root()
    match event:
        case Tick():
            turn.expire()
        case Forked(name, pid):
            turn.forked(name, pid)
        case ForkFailed(name, error, jitter):
            turn.failed(turn.children[name], f"cannot fork: {error}", jitter)
        case Said(name, incarnation, message):
            turn.said(name, incarnation, message)
        case Died(name, incarnation, _, _, _):
            child = turn.children.get(name)
            if child is not None and child.incarnation == incarnation and child.phase in LIVE:
                turn.died(child, event)
        case StopOrdered():
            turn.stop(0, "")
        case KillOrdered():
            turn.kill_all()
        case Refitted(tree, again):
            turn.refit(tree, again)
        case Ousted(reason):
            turn.oust(reason)
        case PagerEnded():
            turn.pager_deadline_s = None
    turn.advance()
    return turn.result()


def backoff_s(backoff: Backoff, streak: int, jitter: float) -> float:
    """The delay before the restart that follows failure number `streak` in a row (1, 2, ...)."""
    if streak <= 1:
        return backoff.first_s
    full = min(backoff.max_s, backoff.base_s * 2.0 ** min(streak - 2, 30))
    return full * (0.5 + 0.5 * jitter)


class _Rules(Refitting):
    """What each event means."""

    # -- time --

    def expire(self) -> None:
        for child in list(self.children.values()):
            if child.deadline_s is not None and self.now_s >= child.deadline_s:
                self._expire_phase(child)
            elif child.beat_deadline_s is not None and self.now_s >= child.beat_deadline_s:
                self.hung(child, f"no beat for {child.spec.beat_within_s:g} s")
        if self.pager_deadline_s is not None and self.now_s >= self.pager_deadline_s:
            self.pager_deadline_s = self.now_s + PAGER_WITHIN_S
            self.actions.append(EndPager())

    def _expire_phase(self, child: ChildState) -> None:
        match child.phase:
            case Phase.STARTING:
                self.hung(child, f"not ready within {child.spec.ready_within_s:g} s")
            case Phase.BACKOFF:
                self.fork(child)
            case Phase.QUARANTINED:
                self.fork(replace(child, probation=True))
            case Phase.STOPPING | Phase.ABORTING:
                self.kill(child)
            case Phase.KILLING:
                self.note("error", child, f"pid {child.pid} did not die of SIGKILL and is left behind")
                self.put(dead(child, Phase.ENDED))

    def hung(self, child: ChildState, reason: str) -> None:
        grace_s = self.now_s + child.spec.abort_grace_s
        child = replace(child, phase=Phase.ABORTING, deadline_s=grace_s, beat_deadline_s=None, hung_for=reason)
        self.put(child)
        self.actions.append(Report(tree_event(TreeKind.HUNG, replace(child, exit_text=reason, last_words=""))))
        self.actions.append(Abort(child.spec.name))

    def kill(self, child: ChildState) -> None:
        # Only a stop may leave a process behind: as long as the tree runs, no second one may be started beside it.
        until_s = self.now_s + child.spec.shutdown_s if self.mode is Mode.STOPPING else None
        self.put(replace(child, phase=Phase.KILLING, deadline_s=until_s, beat_deadline_s=None))
        self.actions.append(Kill(child.spec.name))

    # -- life --

    def fork(self, child: ChildState) -> None:
        """A start; a restart unless its turn in the start order has just come."""
        again = child.phase is not Phase.WAITING
        child = replace(
            child,
            phase=Phase.STARTING,
            lives=child.lives + 1,
            incarnation=f"{child.spec.name}.{self.state.prefix}.{child.lives + 1}",
            restarts=child.restarts + again,
            restarts_s=(*child.restarts_s, self.now_s) if again else child.restarts_s,
            deadline_s=self.now_s + child.spec.ready_within_s,
        )
        self.put(child)
        suspects, quarantined = frozenset(child.suspects), frozenset(child.quarantined)
        self.actions.append(Fork(child.spec.name, child.incarnation, suspects, quarantined))

    def forked(self, name: str, pid: int) -> None:
        child = self.put(replace(self.children[name], pid=pid))
        self.report(TreeKind.STARTED, child)
        if child.then is not Then.STAY:
            self.order_out(child)

    def said(self, name: str, incarnation: str, message: Up) -> None:
        child = self.children.get(name)
        if child is None or child.incarnation != incarnation or child.phase not in LIVE:
            return
        match message:
            case Ready():
                self._is_ready(child)
            case Beat(done, oldest_s):
                self._beat(child, done, oldest_s)
            case Working(item):
                if len(child.items) >= ITEMS_MAX and item not in child.items:
                    self.note("warning", child, f"{ITEMS_MAX} items in work; {item} is not tracked")
                else:
                    self.put(replace(child, items=child.items | {item}))
            case Finished(item):
                suspects = tuple(other for other in child.suspects if other != item)
                self.put(replace(child, items=child.items - {item}, suspects=suspects))

    def _is_ready(self, child: ChildState) -> None:
        if child.phase is not Phase.STARTING:
            return
        child = replace(
            child,
            phase=Phase.READY,
            deadline_s=None,
            beat_deadline_s=self.now_s + child.spec.beat_within_s,
            ready_at_s=self.now_s,
            progress_s=self.now_s,
            done=0,
        )
        self.report(TreeKind.READY, self.put(child))

    def _beat(self, child: ChildState, done: int, oldest_s: float) -> None:
        if child.phase is not Phase.READY:
            return
        moved = done != child.done or oldest_s <= 0
        child = replace(
            child,
            beat_deadline_s=self.now_s + child.spec.beat_within_s,
            done=done,
            progress_s=self.now_s if moved else child.progress_s,
        )
        self.put(child)
        limit_s = child.spec.progress_within_s
        if oldest_s > limit_s and self.now_s - child.progress_s > limit_s:
            self.hung(child, f"nothing finished for {limit_s:g} s, oldest work {oldest_s:.0f} s old")

    # -- death --

    def died(self, child: ChildState, event: Died) -> None:
        text = exit_text(event.exit_code)
        if child.hung_for:
            text = f"{child.hung_for}; {text}"
        child = self.put(replace(child, exit_text=text, last_words=event.last_words))
        if self.mode is Mode.STOPPING:
            self._end(child, TreeKind.STOPPED)
            return
        if child.then is not Then.STAY:
            self.is_out(child)
            return
        asked = event.exit_code == 0 and not child.hung_for
        if child.spec.restart is Restart.TEMPORARY or (child.spec.restart is Restart.TRANSIENT and asked):
            self._end(child, TreeKind.STOPPED)
        elif event.exit_code == EXIT_NEVER_RESTART:
            self.report(TreeKind.EXITED, child, items=tuple(sorted(child.items)))
            self._end(child, TreeKind.QUARANTINED)
            if self.groups[child.spec.group].on_trip is OnTrip.GIVE_UP:
                self.give_up(EXIT_NEVER_RESTART, child, "says that it must not be started again")
        else:
            self.failed(child, text, event.jitter)

    def _end(self, child: ChildState, kind: TreeKind) -> None:
        self.report(kind, child)
        self.put(dead(child, Phase.ENDED))

    def failed(self, child: ChildState, text: str, jitter: float) -> None:
        """It ended although it should live on: put poison aside, then start it again or trip the breaker."""
        child = replace(child, exit_text=text)
        if self.mode is Mode.STOPPING:
            self._end(child, TreeKind.STOPPED)
            return
        if child.then is not Then.STAY:
            self.is_out(child)
            return
        child = self.count_failure(child)
        self.report(TreeKind.EXITED, child, items=tuple(sorted(child.items)))
        in_work = child.items
        child = self.put_poison_aside(child, in_work & set(child.suspects))
        group = self.groups[child.spec.group]
        steady = child.ready_at_s is not None and self.now_s - child.ready_at_s >= self.tree.backoff.reset_s
        recent = tuple(at for at in child.restarts_s if at > self.now_s - group.period_s)
        child = replace(
            dead(child, Phase.BACKOFF),
            streak=1 if steady else child.streak + 1,
            stuck=child.stuck + 1 if child.hung_for else 0,
            restarts_s=recent,
            probation=child.probation and not steady,
        )
        if len(recent) >= group.intensity or child.stuck >= STUCK_MAX or child.probation:
            self._trip(child, in_work)
            return
        delay_s = backoff_s(self.tree.backoff, child.streak, jitter)
        self.put(replace(child, deadline_s=self.now_s + delay_s))
        if delay_s > 0:
            self.report(TreeKind.BACKOFF, child, delay_s=delay_s)

    def _trip(self, child: ChildState, in_work: frozenset[str]) -> None:
        group = self.groups[child.spec.group]
        why = f"failed {len(child.restarts_s) + 1} times in {group.period_s:g} s"
        if child.stuck >= STUCK_MAX:
            why = f"had to be ended {child.stuck} times in a row"
        child = replace(child, restarts_s=(), stuck=0)
        fresh = in_work - set(child.quarantined)
        if group.on_trip is OnTrip.GIVE_UP:
            self.put(replace(child, phase=Phase.ENDED))
            self.give_up(EXIT_GAVE_UP, child, why)
        elif group.on_trip is OnTrip.QUARANTINE_ITEMS and in_work and not child.probation:
            child = self.put_poison_aside(replace(child, items=fresh), fresh)
            delay_s = self.tree.backoff.max_s
            self.put(replace(child, items=frozenset(), deadline_s=self.now_s + delay_s))
            self.report(TreeKind.BACKOFF, child, delay_s=delay_s)
        else:
            delay_s = self.tree.quarantine_retry_s
            self.put(replace(child, phase=Phase.QUARANTINED, deadline_s=self.now_s + delay_s))
            self.report(TreeKind.QUARANTINED, child, delay_s=delay_s)

    # -- the whole tree --

    def give_up(self, code: int, child: ChildState, why: str) -> None:
        reason = f"{child.spec.name} {why}; last: {child.exit_text}"
        if child.last_words:
            reason += f"\n{child.last_words}"
        if self.announced or code == EXIT_GAVE_UP:  # bad configuration at the start is told to whoever starts it
            self.pager_deadline_s = self.now_s + PAGER_WITHIN_S
            self.actions.append(Page(f"healctl gave up: {reason}"))
        self.stop(code, reason)

    def oust(self, reason: str) -> None:
        """Killed, not ordered: an orderly end would remove the sockets that are the other's now."""
        if self.mode is Mode.RUNNING:
            self.pager_deadline_s = self.now_s + PAGER_WITHIN_S
            self.actions.append(Page(f"healctl gave up: {reason}"))
            self.stop(EXIT_GAVE_UP, reason)
            self.kill_living()

    def stop(self, code: int, reason: str) -> None:
        if self.mode is Mode.STOPPING:
            return
        self.mode, self.exit_code, self.exit_reason = Mode.STOPPING, code, reason
        for child in list(self.children.values()):
            if child.phase not in LIVE:
                self.put(dead(child, Phase.ENDED))
            elif child.phase is Phase.KILLING:
                self.put(replace(child, deadline_s=self.now_s + child.spec.shutdown_s))

    def kill_all(self) -> None:
        self.stop(0, "")
        if self.exit_code == 0:
            self.exit_code, self.exit_reason = EXIT_KILLED, "ended at once, as ordered"
        self.kill_living()
        if self.pager_deadline_s is not None:
            self.actions.append(EndPager())

    def kill_living(self) -> None:
        for child in list(self.children.values()):
            if child.pid and child.phase in LIVE and child.phase is not Phase.KILLING:
                self.kill(child)

    def advance(self) -> None:
        """The next start, or the next stop."""
        if self.mode is Mode.STOPPING:
            self._stop_next()
            return
        for child in self.children.values():
            if child.phase is Phase.WAITING:
                self.fork(child)
                return
            if child.phase not in SETTLED and child.then is not Then.LEAVE:
                return
        if not self.announced:
            self.announced = True
            self.actions.append(AllReady())

    def _stop_next(self) -> None:
        for child in reversed(list(self.children.values())):
            if child.phase is Phase.ENDED:
                continue
            if child.phase in (Phase.STARTING, Phase.READY) and child.pid:
                until_s = self.now_s + child.spec.shutdown_s
                self.put(replace(child, phase=Phase.STOPPING, deadline_s=until_s, beat_deadline_s=None))
                self.actions.append(Order(child.spec.name))
            return
        if self.pager_deadline_s is None:
            self.mode = Mode.OVER
            self.actions.append(Exit(self.exit_code, self.exit_reason))
