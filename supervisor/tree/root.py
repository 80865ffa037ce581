"""The root process: forks, watches, restarts, stops; nothing else.

One thread, one loop over one epoll: the children's deaths (pidfd), what they say (socket pair), what they print (pipe),
and signals. What to do about it is decided by the kernel; the root only carries it out. It must never open a database,
make a ZeroMQ context or an asyncio loop, or wait for anything but its epoll: whatever it waited for, every child would
wait for too.
"""

from __future__ import annotations

import gc
import os
import random
import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import setproctitle
from msgspec.structs import replace

from supervisor import clock, worker
from supervisor.config import Config
from supervisor.errors import ConfigError
from supervisor.messages import Alarm, Down, Holds, Round, Stop, TreeEvent, TreeKind
from supervisor.tree import alarm, lock, model, pager, reload, sd_notify, spec, wording
from supervisor.tree.guard import Guard
from supervisor.tree.kernel import initial, step
from supervisor.tree.model import TreeSpec
from supervisor.tree.output import STDERR, Output
from supervisor.tree.reloading import Reloading
from supervisor.tree.spawn import SIGNALS, Child, assert_forkable
from supervisor.tree.turn import portions
from supervisor.tree.watchdog import Watchdog

# What is handled first when several are ready: a message that was sent before a death counts before it.
_SIGNAL, _UPLINK, _PIPE, _DEATH, _OUTPUT = range(5)


class Root:
    """One tree in this process. `on_ready` is called once, when every child is READY or put aside."""

    def __init__(
        self,
        tree: TreeSpec,
        config: Config,
        state_dir: Path,
        runtime_dir: Path,
        *,
        source: reload.Source | None = None,
        locks: list[lock.Lock] | None = None,
        output: Output | None = None,
        page: pager.Pager | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.factories = spec.preload(tree)
        self.config = config
        self._state_dir = state_dir
        self.runtime_dir = runtime_dir
        self._output = output or Output(STDERR)
        self._on_ready = on_ready
        self._notify = sd_notify.Notifier()
        self._page = page or pager.by_name(config, runtime_dir if self._notify.listens else None)
        self._selector = selectors.EpollSelector()
        self.children: dict[str, Child] = {}
        self._latest: dict[str, TreeEvent] = {}  # what a new listener is told first
        self.state = initial(tree, f"{os.getpid():x}-{os.urandom(4).hex()}")
        self._events: deque[model.KernelEvent] = deque()
        self.holds: tuple[str, ...] = ()
        self._interrupts = 0
        self._reloading = Reloading(self, source)
        self._alarm = alarm.Alarm(self, self._page, os.getpid(), config.healctl.log_level)
        self._guard = Guard(self, locks or [])
        self._watchdog = Watchdog(self._notify, tree)
        self.exit_reason = ""

    def run(self) -> int:
        """Until the kernel says Exit. Whatever is raised here, no child is left alive."""
        setproctitle.setproctitle("healctl: root")
        assert_forkable()
        gc.collect()
        gc.freeze()
        assert_forkable()
        wakeup = self._take_signals()
        if warning := self._watchdog.warning(self.state.tree):
            self.log("warning", "root", warning)
        try:
            self.apply(model.Tick())
            self._send_all()
            while self.state.mode is not model.Mode.OVER:
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            wakeup[0].close()
            wakeup[1].close()
            for child in list(self.children.values()):
                child.kill_group()
                child.close()
            self._notify.close()
            self._selector.close()
        return self.state.exit_code

    # -- the loop --

    def _turn(self) -> None:
        now_s = clock.monotonic_s()
        reports = (c.capture.report_due_s for c in self.children.values() if c.capture.report_due_s is not None)
        due_s = min(self.state.wake_by_s, self._watchdog.due_s, self._reloading.due_s, self._alarm.due_s, *reports)
        ready = self._selector.select(max(0.0, due_s - now_s))
        for key, _ in sorted(ready, key=lambda pair: pair[0].data[0]):
            kind, child = key.data
            if kind == _SIGNAL:
                self._signals(key.fileobj)
            elif kind == _UPLINK:
                self._hear(child)
            elif kind == _PIPE and child.capture.fd >= 0:
                self._read_pipe(child)
            elif kind == _DEATH:
                self._bury(child)
            elif kind == _OUTPUT:
                self._output.flush()
        self.apply(model.Tick())
        self._send_all()
        self._housekeeping(clock.monotonic_s())

    def _housekeeping(self, now_s: float) -> None:
        for child in self.children.values():
            if child.capture.report_due_s is not None and now_s >= child.capture.report_due_s:
                child.capture.report(now_s)
        self._guard.look(now_s)
        self._alarm.look(now_s)
        if now_s >= self._reloading.due_s:
            self._reloading.too_late()
        self._say_to_systemd(self._watchdog.look(self.state.mode, now_s))
        self._watch_output()

    def _watch_output(self) -> None:
        watched = self._output.fd in self._selector.get_map()
        if self._output.blocked and not watched:
            self._selector.register(self._output.fd, selectors.EVENT_WRITE, (_OUTPUT, None))
        elif watched and not self._output.blocked:
            self._selector.unregister(self._output.fd)

    def _take_signals(self) -> tuple[socket.socket, socket.socket]:
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        for number in SIGNALS:
            signal.signal(number, _noted)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an inherited SIG_IGN would reap children behind our back
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, (_SIGNAL, None))
        return reading, writing

    def _signals(self, wakeup: Any) -> None:
        for number in wakeup.recv(64):
            if number == signal.SIGINT:
                self._interrupts += 1
            if number == signal.SIGINT and self._interrupts > 1:
                self.log("warning", "root", "interrupted again: ending everything at once")
                self.apply(model.KillOrdered())
            elif number == signal.SIGHUP and not self._reloading.terminal_is_gone():
                self._say_to_systemd(self._notify.reloading(clock.monotonic_s()))
                self._reloading.start()
            elif number in SIGNALS:
                self.log("info", "root", f"stopping ({signal.Signals(number).name})")
                self._say_to_systemd(self._notify.stopping())
                self.apply(model.StopOrdered())

    # -- children --

    def _hear(self, child: Child) -> None:
        malformed = child.malformed
        for message in child.heard():
            if child.name == reload.NAME:
                self._reloading.hear(message)
                continue
            if isinstance(message, Holds) and child.name == self.state.tree.listener:
                self._hold(message.databases)
            elif isinstance(message, Alarm):
                self._alarm.sound(child.name, message.text)
            elif isinstance(message, Round) and child.name == self.state.tree.listener:
                ready_at_s = self.state.children[child.name].ready_at_s
                self._say_to_systemd(self._watchdog.round(ready_at_s, clock.monotonic_s()))
            self.apply(model.Said(child.name, child.incarnation, message))
        if child.malformed and not malformed:
            self.log("warning", child.name, "sent the root something that is no message; dropped")
        if child.uplink_ended and child.uplink in self._selector.get_map():
            self._selector.unregister(child.uplink)

    def _hold(self, databases: tuple[str, ...]) -> None:
        """R10: a `hold` child for each of these, and no others. While it stops, there is none to start."""
        if databases == self.holds:
            return
        self.holds = databases
        tree = spec.healctl_tree(self.config, databases)
        try:
            self.factories = spec.preload(tree)
        except ConfigError as error:
            self.log("error", "root", f"the halted databases cannot be held: {error.message}")
        else:
            self.apply(model.Refitted(tree))

    def _read_pipe(self, child: Child) -> None:
        child.capture.read(clock.monotonic_s())
        if child.capture.ended:
            self._selector.unregister(child.capture.fd)

    def _bury(self, child: Child) -> None:
        self._hear(child)
        for watched in (child.uplink, child.capture.fd, child.pidfd):
            if watched in self._selector.get_map():
                self._selector.unregister(watched)
        code, last_words = child.reap(clock.monotonic_s())
        del self.children[child.name]
        if child.name == pager.NAME:
            self.log("info" if code == 0 else "error", "root", "paged" if code == 0 else "the page was not sent")
            self.apply(model.PagerEnded())
        elif child.name == reload.NAME:
            self._reloading.end(code)
        elif child.name == alarm.NAME:
            self._alarm.ended(code)
        else:
            self.apply(model.Died(child.name, child.incarnation, code, last_words, random.random()))

    def spawn(self, name: str, incarnation: str, main: Any) -> Child:
        child = Child(name, incarnation, main, self.log, clock.monotonic_s())
        self.children[name] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, (_DEATH, child))
        self._selector.register(child.uplink, selectors.EVENT_READ, (_UPLINK, child))
        self._selector.register(child.capture.fd, selectors.EVENT_READ, (_PIPE, child))
        return child

    def tell(self, child: Child, message: Down) -> None:
        dropped = child.dropped
        for part in portions(message) if isinstance(message, TreeEvent) else (message,):
            child.tell(part)
        if child.dropped and not dropped:
            self.log("warning", child.name, "does not take its messages: the oldest are dropped")

    def _send_all(self) -> None:
        """At the end of a turn: whoever listens is not to be woken before a replacement is forked."""
        for child in self.children.values():
            if child.uplink_ended:
                continue
            wanted = selectors.EVENT_READ if child.flush() else selectors.EVENT_READ | selectors.EVENT_WRITE
            if self._selector.get_key(child.uplink).events != wanted:
                self._selector.modify(child.uplink, wanted, (_UPLINK, child))

    # -- what the kernel wants --

    def apply(self, event: model.KernelEvent) -> None:
        self._events.append(event)
        while self._events:
            self.state, actions = step(self.state, self._events.popleft(), clock.monotonic_s())
            for action in actions:
                self._perform(action)

    def _perform(self, action: model.Action) -> None:
        match action:
            case model.Fork():
                self._fork(action)
            case model.Order(name):
                child = self.children[name]
                self.tell(child, Stop())
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)
            case model.Abort(name):
                self.children[name].signal(signal.SIGABRT)
                self.children[name].signal(signal.SIGCONT)
            case model.Kill(name):
                self.children[name].kill_group()
            case model.Report(event):
                self._report(replace(event, at_wall_s=clock.wall_s()))
            case model.Note(level, name, text):
                self.log(level, name or "root", text)
            case model.Page(text):
                self._start_pager(text)
            case model.EndPager():
                if pager.NAME in self.children:
                    self.log("error", "root", "the page took too long")
                    self.children[pager.NAME].kill_group()
            case model.AllReady():
                self.log("info", "root", self._status())
                self._say_to_systemd(self._notify.ready(self._status()))
                if self._on_ready is not None:
                    self._on_ready()
            case model.Exit(code, reason):
                self.exit_reason = reason
                self.log("error" if reason else "info", "root", f"exit {code}" + (f": {reason}" if reason else ""))

    def _fork(self, action: model.Fork) -> None:
        boot = worker.Boot(
            name=action.child,
            incarnation=action.incarnation,
            config=self.config,
            state_dir=self._state_dir,
            runtime_dir=self.runtime_dir,
            root_pid=os.getpid(),
            suspects=action.suspects,
            quarantined=action.quarantined,
        )
        try:
            child = self.spawn(
                action.child, action.incarnation, partial(worker.run, self.factories[action.child], boot)
            )
        except OSError as error:
            self._events.append(model.ForkFailed(action.child, str(error), random.random()))
            return
        if action.child == self.state.tree.listener:
            for event in self._latest.values():
                self.tell(child, event)
            if self._reloading.newest is not None:
                self.tell(child, self._reloading.newest)
            for other in self.state.children.values():
                if other.quarantined and other.spec.name in self._latest:
                    event = self._latest[other.spec.name]
                    self.tell(child, replace(event, kind=TreeKind.ITEM_QUARANTINED, items=other.quarantined))
        self._events.append(model.Forked(action.child, child.pid))

    def _start_pager(self, text: str) -> None:
        level = self.config.healctl.log_level
        try:
            self.spawn(pager.NAME, "", partial(pager.main, self._page, text, os.getpid(), level))
        except OSError as error:
            self.log("error", "root", f"cannot start the pager: {error}")
            self._events.append(model.PagerEnded())

    def _report(self, event: TreeEvent) -> None:
        self.log(*wording.line_of(event))
        if event.kind is TreeKind.STOPPED:
            self._latest.pop(event.child, None)
        elif event.kind is not TreeKind.ITEM_QUARANTINED:
            self._latest[event.child] = event
        listener = self.children.get(self.state.tree.listener)
        if listener is not None:
            self.tell(listener, event)
        if self.state.announced:
            self._say_to_systemd(self._notify.status(self._status()))
        if not self.state.announced or self.state.mode is model.Mode.STOPPING:
            self._say_to_systemd(self._watchdog.moved())

    def _status(self) -> str:
        phases = [child.phase for child in self.state.children.values()]
        ready = sum(phase is model.Phase.READY for phase in phases)
        return f"{ready} of {len(phases)} workers ready"

    def ready_again(self) -> None:
        self._say_to_systemd(self._notify.ready(self._status()))

    def _say_to_systemd(self, fault: str) -> None:
        if fault:
            self.log("warning", "root", fault)

    def log(self, level: str, name: str, text: str) -> None:
        self._output.form = self.config.healctl.log_format  # a reload may have changed it
        self._output.write(level, name, text)


def _noted(number: int, frame: object) -> None:
    """The wakeup descriptor carries the signal's number; the handler itself has nothing to do."""
    del number, frame
