"""Virtual time: an asyncio loop that never waits, a machine's clocks that it moves, and processes that can be killed.

The real workers run on this loop. Each simulated process is a context (`contextvars`) that its tasks, timers and
callbacks inherit; what belongs to a dead process is simply not run any more, like the code of a process after kill -9.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from heapq import heappop, heappush
from typing import Any

MONO_START_S = 1_000.0
WALL_START_S = 1_800_000_000.0
STEADY_AHEAD_S = WALL_START_S - MONO_START_S  # of the steady clock before the monotonic one, all through a run
TICK_EVENTS_MAX = 400_000  # callbacks of one run: more is a loop without an end


class Killed(BaseException):
    """Unwinds the stack of a simulated process that was killed at a crash point."""


class Stuck(Exception):
    """Virtual time does not get on."""


class Proc:
    """One simulated process. `context` is what everything that belongs to it runs in."""

    def __init__(self, name: str, incarnation: str) -> None:
        self.name = name
        self.incarnation = incarnation
        self.alive = True
        self.frozen: list[Any] | None = None  # it hangs: what it should run waits here
        self.context = contextvars.Context()
        self.context.run(CURRENT.set, self)


CURRENT: contextvars.ContextVar[Proc | None] = contextvars.ContextVar("sim process", default=None)


class Timer(list[Any]):
    """What `call_at` gives: as much of asyncio's handle as anybody asks of it.

    [when_s, nth, callback, args, context], so that the heap compares it in C; without a callback it is cancelled.
    """

    __slots__ = ()

    def cancel(self) -> None:
        self[2] = None

    def cancelled(self) -> bool:
        return self[2] is None

    def when(self) -> float:
        return self[0]  # type: ignore[no-any-return]


class VirtualLoop(asyncio.BaseEventLoop):
    """`_now` is CLOCK_MONOTONIC of the simulated machine; it jumps from timer to timer. Ties keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self._now = MONO_START_S
        self.wall_offset_s = STEADY_AHEAD_S
        self.end_s = float("inf")
        self.count = 0
        self._heap: list[Timer] = []
        self._soon: deque[Timer] = deque()
        self._nth = 0
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]

    get_debug = staticmethod(bool)  # type: ignore[assignment]  # False, and without a frame: every future asks

    def __del__(self) -> None:
        """It holds nothing of the kernel's, so it need not be closed."""

    def time(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self.wall_offset_s

    def run_until(self, end_s: float) -> None:
        """Everything that happens up to this moment."""
        self.end_s = end_s
        _set_running_loop(self)
        try:
            self._run_all()
        finally:
            _set_running_loop(None)
            self._stopping = False
        self._now = max(self._now, end_s)

    def let_go(self) -> None:
        """It is over: whatever still waits is forgotten."""
        self._heap.clear()
        self._soon.clear()

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        self._nth += 1
        timer = Timer((when, self._nth, callback, args, copy_context() if context is None else context))
        heappush(self._heap, timer)
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        self._nth += 1
        when_s = self._now + delay
        timer = Timer((when_s, self._nth, callback, args, copy_context() if context is None else context))
        heappush(self._heap, timer)
        return timer

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        timer = Timer((self._now, 0, callback, args, copy_context() if context is None else context))
        self._soon.append(timer)
        return timer

    call_soon_threadsafe = call_soon

    def _run_all(self) -> None:
        """What is to be run soon, then what is due first, until nothing more is due or somebody has called `stop`."""
        soon, heap = self._soon, self._heap
        while True:
            if soon:
                timer = soon.popleft()
            elif self._stopping or not heap or heap[0][0] > self.end_s:
                return
            else:
                timer = heappop(heap)
                if timer[2] is None:
                    continue
                if timer[0] > self._now:
                    self._now = timer[0]
                self.count += 1
                if self.count > TICK_EVENTS_MAX:
                    late_s = self._now - MONO_START_S
                    raise Stuck(f"{TICK_EVENTS_MAX} timers, and virtual time is only {late_s:.1f} s on")
            _, _, callback, args, context = timer
            if callback is None:
                continue
            proc = context.get(CURRENT)
            if proc is not None and (not proc.alive or proc.frozen is not None):
                if proc.alive:
                    proc.frozen.append(timer)
                continue
            try:
                context.run(callback, *args)
            except (SystemExit, KeyboardInterrupt, Stuck):
                raise
            except BaseException as error:  # noqa: BLE001 - told to the loop's handler, as asyncio does
                self.call_exception_handler({"message": "a callback failed", "exception": error})

    # What BaseEventLoop wants of a real one.
    def _process_events(self, event_list: object) -> None:
        raise AssertionError("a virtual loop has no events of the kernel")

    def _write_to_self(self) -> None:
        pass

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        raise AssertionError("a virtual loop reads no descriptor")


class MachineTime:
    """Stands in for the `time` module in `supervisor.clock`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic = loop.time
        self.time = loop.wall


@contextmanager
def replaced(*pairs: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of modules that are others as long as the block runs."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in pairs]
    try:
        for owner, name, value in pairs:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
