"""The `trading` family: how old is the live signal, and do the open trades agree with it? (FR-001, FR-002, R8, R9)

`NAME-signals` is a file that a program writes again and again; `NAME-positions` the open rows of its trades database.
A signal that cannot be read, or whose time cannot be, or lies in the future, is no signal: never fresh, never stale.
The database is opened read-only. A trade that a signal does not account for counts after it was seen so for some
seconds: whoever changes the signal needs a moment to close the trade.

It must never write, and never call a trade a phantom by a signal that is not fresh or cannot be compared.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from probes.base import (
    Began,
    Events,
    Probe,
    Refused,
    Source,
    begin,
    begin_outside,
    stop_file_stands,
)
from probes.inotify import FileWatch
from probes.look import Look
from supervisor import clock
from supervisor.config import Config, TradingSection
from supervisor.incidents.readings import (
    HealthReading,
    Position,
    PositionsData,
    SignalData,
    SourceReading,
    Stamp,
    Unavailable,
)
from supervisor.jsonfile import BadJson, CannotRead
from supervisor.positions import Book, account, open_trades
from supervisor.signals import SIGNAL_BYTES_MAX, Signal, decode, signal_of
from supervisor.signals import read as read_signal
from supervisor.stamps import CLOCKS_APART_S

STALE_MARGIN_S = 0.05  # the read at the limit comes just after it
CHANGED_S = 0.01  # not 0: a file that changes all the time must not keep its own read from ending
ANSWER_S = 0.1  # of the deadline, for telling that nothing came
SETTLE_S = 5.0  # a trade without a signal is a phantom when it was seen so for this long


class _Live(msgspec.Struct, frozen=True):
    """What the file said. `signal` None: `failure` says why there is none."""

    meant_to_stop: bool
    signal: Signal | None = None
    failure: tuple[Unavailable, str] = (Unavailable.NONE, "")


class _Known(msgspec.Struct):
    """What this probe remembers of one section."""

    signals: Look[_Live]
    trades: Look[Book]
    meant_to_stop: bool = False
    says: tuple[str, str] | None = None  # the signal's symbol and side
    unaccounted: dict[str, float] = {}  # trade -> since when (monotonic seconds)


class TradingProbe(Probe):
    """Reads the `[trading.NAME]` targets."""

    family = "trading"

    def __init__(self, config: Config) -> None:
        self._sections: dict[str, TradingSection] = {}
        self._stop_files: dict[str, str] = {}
        self._known: dict[str, _Known] = {}
        self._events: Events | None = None
        self._watch: FileWatch | None = None
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """What is known of an unchanged section stays known, its watch included."""
        sections, changed = dict(config.trading), set()
        stop_files = {n: config.process[s.process].stop_file if s.process else "" for n, s in sections.items()}
        for name, section in sections.items():
            if (section, stop_files[name]) != (self._sections.get(name), self._stop_files.get(name)):
                changed.add(name)
                self._known[name] = _Known(
                    Look(f"{name}-signals", partial(self._look, section, stop_files[name])),
                    Look(f"{name}-positions", partial(open_trades, section.trades_db, section.table)),
                )
        self._known = {name: self._known[name] for name in sections}
        self._sections, self._stop_files = sections, stop_files
        if self._watch is not None:
            self._watch.keep(section.signal_file for section in sections.values())
        if self._events is not None:
            for name in changed:  # nobody watches its file until it has been read
                self._events.read_soon(f"{name}-signals", 0.0)
                self._events.read_soon(f"{name}-positions", 0.0)

    def sources(self) -> tuple[Source, ...]:
        return tuple(
            self._source(name, kind)
            for name, section in self._sections.items()
            for kind in ("signals", "positions")
            if kind == "signals" or section.trades_db
        )

    def watch(self, events: Events) -> None:
        self._events = events
        self._watch = FileWatch(self._on_change)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        name, _, kind = target_id.rpartition("-")
        section = self._sections.get(name)
        if section is None:
            return begin(Source(target_id, 0, 0), self.family).cannot(Unavailable.ERROR, "it is not watched any more")
        began = begin(self._source(name, kind), self.family)
        try:
            async with asyncio.timeout(deadline_s - ANSWER_S):
                return await (self._signals(name, began) if kind == "signals" else self._positions(name, began))
        except TimeoutError:
            path = section.signal_file if kind == "signals" else f"{section.trades_db} or {section.signal_file}"
            return began.cannot(Unavailable.DEADLINE, f"{path} could not be read within {deadline_s:g} s: it hangs")
        except OSError as error:
            return began.cannot(Unavailable.ERROR, f"it cannot be looked at: {error}")

    def _source(self, name: str, kind: str) -> Source:
        interval_ms = round(float(self._sections[name].interval) * 1000)
        return Source(f"{name}-{kind}", interval_ms, interval_ms)

    def _on_change(self, path: str) -> None:
        assert self._events is not None
        for name, section in self._sections.items():
            if section.signal_file == path:
                self._events.read_soon(f"{name}-signals", CHANGED_S)

    # -- the live signal --

    def _look(self, section: TradingSection, stop_file: str) -> _Live:
        """In a thread. The watch comes first, so that nothing happens between it and the read."""
        if self._watch is not None:
            self._watch.hold(section.signal_file)
        try:
            meant_to_stop = stop_file_stands(stop_file)
        except (OSError, ValueError) as error:
            reason = Unavailable.PERMISSION if isinstance(error, PermissionError) else Unavailable.ERROR
            return _Live(meant_to_stop=False, failure=(reason, f"nobody can tell whether {stop_file} exists: {error}"))
        try:
            return _Live(meant_to_stop, read_signal(section.signal_file, section.timestamp_keys))
        except CannotRead as error:
            text = "the signal file does not exist" if error.reason is Unavailable.MISSING else str(error)
            return _Live(meant_to_stop, failure=(error.reason, text))

    async def _signals(self, name: str, began: Began) -> HealthReading:
        section, known = self._sections[name], self._known[name]
        live = await known.signals.now()
        known.meant_to_stop = live.meant_to_stop
        if live.signal is None:
            if not live.meant_to_stop:
                return began.cannot(*live.failure)
            # Nobody expects one: that it cannot be read is no matter.
            none = SignalData(0.0, float(section.max_age), Stamp.NONE, section.process, True, detail=live.failure[1])
            return began.tells(none)
        age_s = max(clock.wall_s() - live.signal.wall_s, 0.0)
        if self._events is not None:
            self._plan(name, known, live.signal, age_s)
        return began.tells(_data(section, live.signal, age_s, meant_to_stop=live.meant_to_stop))

    def _plan(self, name: str, known: _Known, signal: Signal, age_s: float) -> None:
        """A threshold in time has its own timer (R8); another signal means other trades, in a moment."""
        assert self._events is not None
        section = self._sections[name]
        left_s = float(section.max_age) - age_s
        if left_s > 0:
            self._events.read_soon(f"{name}-signals", left_s + STALE_MARGIN_S)
        says, known.says = known.says, (signal.symbol, signal.side)
        if section.trades_db and says is not None and says != known.says:
            self._events.read_soon(f"{name}-positions", SETTLE_S)

    # -- positions --

    async def _positions(self, name: str, began: Began) -> HealthReading:
        section, known = self._sections[name], self._known[name]
        live, book = await asyncio.gather(known.signals.now(), known.trades.now())
        if book.reason is not Unavailable.NONE:
            return began.cannot(book.reason, book.detail)
        signal = live.signal
        why = live.failure[1]
        if signal is not None and clock.wall_s() - signal.wall_s > float(section.max_age):
            signal, why = None, "the live signal is stale"
        if signal is not None and (why := signal.incomparable()):
            signal = None
        if signal is None:
            known.unaccounted.clear()
            return began.tells(PositionsData(signal_fresh=False, open_trades=len(book.trades), detail=why))
        unaccounted, detail = account(book, signal)
        standing = self._standing(name, known, unaccounted)
        return began.tells(
            PositionsData(
                signal_fresh=True,
                open_trades=len(book.trades),
                phantoms=standing or unaccounted,
                settling=bool(unaccounted) and not standing,
                detail=detail,
            )
        )

    def _standing(self, name: str, known: _Known, unaccounted: tuple[Position, ...]) -> tuple[Position, ...]:
        """Those that have had no signal for some seconds; the next read comes when the others will have."""
        now_s = clock.monotonic_s()
        since = {trade.trade_id: known.unaccounted.get(trade.trade_id, now_s) for trade in unaccounted}
        known.unaccounted = since
        waits_s = [since_s + SETTLE_S - now_s for since_s in since.values() if now_s - since_s < SETTLE_S]
        if waits_s and self._events is not None:
            self._events.read_soon(f"{name}-positions", min(waits_s) + STALE_MARGIN_S)
        return tuple(trade for trade in unaccounted if now_s - since[trade.trade_id] >= SETTLE_S)

    # -- from outside --

    def outside(self, given: SourceReading) -> tuple[HealthReading, ...]:
        """`NAME.signals` (the site's word) or `NAME-signals`; the data is the live signal as the file has it."""
        name = given.source_id[: -len(".signals")]
        if name not in self._sections or given.source_id not in (f"{name}.signals", f"{name}-signals"):
            raise Refused(f"{given.source_id!r} is not the live signal of any [trading.NAME]")
        if not given.available:
            raise Refused("it says that its source could not be read; our own reading will tell")
        section, known = self._sections[name], self._known[name]
        began = begin_outside(self._source(name, "signals"), self.family, given)
        if len(given.data_json) > SIGNAL_BYTES_MAX:
            raise Refused(f"a live signal has at most {SIGNAL_BYTES_MAX // 1024} KiB")
        try:
            by_s = given.captured_wall_s + CLOCKS_APART_S
            signal = signal_of(decode(given.data_json), section.timestamp_keys, None, by_s)
        except BadJson as error:
            raise Refused(f"the live signal {error}") from error
        age_s = given.captured_wall_s - signal.wall_s
        if age_s < -CLOCKS_APART_S:
            raise Refused(f"the time of the live signal lies {-age_s:.0f} s after it was captured")
        if self._events is not None:
            self._plan(name, known, signal, max(clock.wall_s() - signal.wall_s, 0.0))
        return (began.tells(_data(section, signal, max(age_s, 0.0), meant_to_stop=known.meant_to_stop)),)


def _data(section: TradingSection, signal: Signal, age_s: float, *, meant_to_stop: bool) -> SignalData:
    return SignalData(
        age_s=age_s,
        max_age_s=float(section.max_age),
        stamp=signal.stamp,
        process=section.process,
        meant_to_stop=meant_to_stop,
        symbol=signal.symbol,
        side=signal.side,
        detail=signal.detail,
    )
