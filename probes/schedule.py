"""When each target is read: polls, wishes and questions, one read at a time per target. Pure: `now_s` comes in.

* **Polls** are the backstop (R8). They stand on a grid of slots, 5 s apart, over which the targets of one interval are
  spread evenly: they do not all fire at once, and a wake serves every target of its slot, so an idle worker wakes
  rarely. A poll that was missed (a suspended machine) is not made up for.
* **Wishes** (`soon`) bring the next read forward; they never put it off.
* **Holds** (`hold`) put polls off while somebody else's reading is fresh (NFR-004), but never for ever: a feeder that
  is wrong must not blind us. Wishes and questions are read as ever.
* **Questions** (`ask`) are answered by the first read that *began* at or after the question. A read under way when a
  question comes in may have looked before it: it does not answer, and a new read follows.

A read that nobody asked for by name is `owed` to everybody; one that only questions caused is theirs alone.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping

import msgspec

SLOT_S = 5.0
QUESTIONS_MAX = 64  # waiting for one target
HOLD_MAX_S = 3600.0  # however long others go on reading for us, we look ourselves this often


class Finished(msgspec.Struct, frozen=True):
    """A read has ended: the questions it answers, and whether it also counts as a poll or event (`owed`)."""

    answers: tuple[str, ...]
    owed: bool


class _Target(msgspec.Struct):
    interval_s: float
    poll_s: float
    read_s: float  # when our own read began last
    soon_s: float = math.inf
    began_s: float | None = None
    owed: bool = False
    asked: dict[str, float] = {}

    def due_s(self) -> float:
        asked_s = min(self.asked.values()) if self.asked else math.inf
        return min(self.poll_s, self.soon_s, asked_s)


class Schedule:
    """Every target is read at once at the start, then by its interval (seconds)."""

    def __init__(self, intervals: Mapping[str, float], now_s: float) -> None:
        self._targets: dict[str, _Target] = {}
        self._heap: list[tuple[float, str]] = []
        self._put: Counter[float] = Counter()  # targets that came later, by interval: each takes the next slot
        by_interval: dict[float, list[str]] = {}
        for name, interval_s in intervals.items():
            by_interval.setdefault(interval_s, []).append(name)
        for interval_s, names in by_interval.items():
            slots = max(1, min(len(names), math.floor(interval_s / SLOT_S)))
            slot_s = SLOT_S * math.floor(interval_s / SLOT_S / slots) if interval_s >= SLOT_S else interval_s
            for index, name in enumerate(names):
                poll_s = now_s + interval_s - slot_s * (slots - 1 - index % slots)
                self._targets[name] = _Target(interval_s, poll_s, now_s, soon_s=now_s)
                self._push(name)

    def put(self, name: str, interval_s: float, now_s: float) -> None:
        """A target more, read at once; or another interval for one that is there, whose next poll never moves away."""
        target = self._targets.get(name)
        if target is None:
            # Many come together (a file of hosts): they must not all be polled together ever after.
            slots = max(1, math.floor(interval_s / SLOT_S))
            poll_s = now_s + interval_s - SLOT_S * (self._put[interval_s] % slots)
            self._put[interval_s] += 1
            self._targets[name] = _Target(interval_s, poll_s, now_s, soon_s=now_s)
        elif target.interval_s != interval_s:
            target.interval_s, target.poll_s = interval_s, min(target.poll_s, now_s + interval_s)
        else:
            return
        self._push(name)

    def drop(self, name: str) -> tuple[str, ...]:
        """No longer a target; the questions that nobody will answer. Not for one that is being read."""
        target = self._targets.pop(name)
        assert target.began_s is None, name
        return tuple(target.asked)

    def hold(self, name: str, until_s: float) -> None:
        """Somebody else's reading stands in for our polls until then."""
        target = self._targets[name]
        until_s = min(until_s, target.read_s + max(HOLD_MAX_S, target.interval_s))
        if until_s > target.poll_s:
            target.poll_s = until_s
            self._push(name)

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def next_s(self) -> float | None:
        """When something is due next; None while there are no targets (those being read count when they end)."""
        while self._heap:
            due_s, name = self._heap[0]
            target = self._targets.get(name)
            if target is not None and target.began_s is None and target.due_s() == due_s:
                return due_s
            heapq.heappop(self._heap)
        return None

    def take(self, now_s: float, room: int) -> list[str]:
        """At most `room` targets whose read is due; their reads begin now."""
        taken: list[str] = []
        while len(taken) < room and (due_s := self.next_s()) is not None and due_s <= now_s:
            _, name = heapq.heappop(self._heap)
            taken.append(name)
            self.begin(name, now_s)
        return taken

    def begin(self, name: str, now_s: float) -> None:
        """This target's read begins now, whether it is due or not."""
        target = self._targets[name]
        target.began_s = target.read_s = now_s
        target.owed = min(target.poll_s, target.soon_s) <= now_s
        if target.soon_s <= now_s:
            target.soon_s = math.inf
        if target.poll_s <= now_s:
            missed = math.floor((now_s - target.poll_s) / target.interval_s) + 1
            target.poll_s += missed * target.interval_s

    def soon(self, name: str, at_s: float) -> None:
        """Read it at `at_s` at the latest."""
        target = self._targets[name]
        if at_s < target.soon_s:
            target.soon_s = at_s
            self._push(name)

    def ask(self, name: str, key: str, now_s: float) -> bool:
        """A question; asking again with the same key changes nothing. False: too many wait already."""
        target = self._targets[name]
        if key in target.asked:
            return True
        if len(target.asked) >= QUESTIONS_MAX:
            return False
        target.asked[key] = now_s
        self._push(name)
        return True

    def asked_s(self, name: str) -> float | None:
        """Since when the oldest question waits, None when none does."""
        return min(self._targets[name].asked.values(), default=None)

    def serves_nobody(self, name: str) -> bool:
        """A read is under way that answers no question, though one waits: it began too early."""
        target = self._targets[name]
        began_s = target.began_s
        if began_s is None or not target.asked:
            return False
        return all(asked_s > began_s for asked_s in target.asked.values())

    def abandon(self, name: str, now_s: float) -> None:
        """The read under way was given up and must begin anew, for all that it was to serve."""
        target = self._targets[name]
        if target.began_s is None:
            return
        target.began_s = None
        if target.owed:
            target.soon_s = min(target.soon_s, now_s)
        self._push(name)

    def end(self, name: str) -> Finished:
        """The read that `take` began is over."""
        target = self._targets[name]
        assert target.began_s is not None, name
        began_s, target.began_s = target.began_s, None
        answers = tuple(key for key, asked_s in target.asked.items() if asked_s <= began_s)
        for key in answers:
            del target.asked[key]
        self._push(name)
        return Finished(answers, target.owed)

    def _push(self, name: str) -> None:
        """Entries that no longer hold are left in the heap, and dropped when they come up or grow too many."""
        target = self._targets[name]
        if target.began_s is None:
            heapq.heappush(self._heap, (target.due_s(), name))
        if len(self._heap) > 4 * len(self._targets) + 64:
            self._heap = [(each.due_s(), key) for key, each in self._targets.items() if each.began_s is None]
            heapq.heapify(self._heap)
