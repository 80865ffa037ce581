"""The step that closes phantom positions in a trades database, and opens them again when it is undone (FR-003, R15).

What it writes the store writes, in one transaction: here the database and the live signal are only read, afresh. A row
is closed only if the last reading called it a phantom for long enough, and the signal of this moment still does.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from remediators.base import Context, Outcome, Step, StepFailed
from supervisor import clock, positions, signals, stamps
from supervisor.aside import aside
from supervisor.config import TradingSection
from supervisor.errands import Cell, GuardedRow
from supervisor.incidents.model import Effect, StepResult
from supervisor.incidents.readings import PositionsData
from supervisor.jsonfile import CannotRead
from supervisor.messages import Ack, GuardedWrite, Nack, StepPlan
from supervisor.sqlite_file import CannotOpen

SUFFIX = "-positions"
STATUS, CLOSED_AT, CLOSED = "status", "closed_at", "closed"
AGAIN_S = 0.25  # between two tries, while another program has the database locked
LATEST_S = 4.0  # of the step's time: kept for the store's last word
ANSWER_S = 3.0
NAMED_MAX = 5


class _Done(msgspec.Struct, frozen=True):
    """`StepResult.undo`: what was written."""

    rows: tuple[GuardedRow, ...]


class ClearPhantom(Step):
    """Sets status and, where there is one, closed_at of every phantom of the target; all of them, or none."""

    kind = "clear-phantom"
    effect = Effect.CHANGE
    undoable = True

    def plan(self, ctx: Context) -> StepPlan:
        section = _section(ctx)
        try:
            rows = _phantoms(ctx, section)
        except StepFailed as error:
            return StepPlan(self.spec.step_id, f"close phantom trades: this would fail: {error.message}", False)
        if not rows:
            return StepPlan(self.spec.step_id, f"no trade in {section.trades_db} is a phantom: nothing to write", True)
        text = f"set status to {CLOSED!r}" + (f" and {CLOSED_AT} to now" if CLOSED_AT in rows[0].put else "")
        return StepPlan(self.spec.step_id, f"{text} in {section.trades_db}: {_named(rows)}", True)

    async def run(self, ctx: Context) -> Outcome:
        until_s = self._until_s()  # from here on: looking takes its part of the step's time
        section = _section(ctx)
        rows = await asyncio.wrap_future(aside(lambda: _phantoms(ctx, section), "phantoms"))
        if not rows:
            return Outcome("no trade is a phantom any more: nothing was written", changed=False)
        await self._write(ctx, rows, until_s)
        done = msgspec.json.encode(_Done(rows)).decode()
        return Outcome(f"closed {_named(rows)} in {section.trades_db}", undo=done)

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        rows = msgspec.json.decode(result.undo, type=_Done).rows
        back = tuple(
            GuardedRow(row.key, {**row.expect, **row.put}, {name: row.expect[name] for name in row.put}) for row in rows
        )
        await self._write(ctx, back, self._until_s())
        return Outcome(f"opened {_named(back)} again in {_section(ctx).trades_db}, as it was")

    def _until_s(self) -> float:
        """No write of this step begins later."""
        return clock.monotonic_s() + self.spec.timeout_s - LATEST_S

    async def _write(self, ctx: Context, rows: tuple[GuardedRow, ...], until_s: float) -> None:
        """Returns when it stands. Raises StepFailed when it does not, and says so where nobody can tell."""
        name = ctx.target.target_id.removesuffix(SUFFIX)
        wanted = GuardedWrite(name, positions.KEY, rows, until_s)
        while True:
            try:
                async with asyncio.timeout(max(0.0, until_s - clock.monotonic_s()) + ANSWER_S):
                    answer = await ctx.ask_store(wanted)
            except TimeoutError as error:
                raise StepFailed(
                    "the store did not say in time whether it was written; nothing more of it is begun"
                ) from error
            match answer:
                case Ack():
                    return
                case Nack("busy", message) if clock.monotonic_s() + AGAIN_S < until_s:
                    await asyncio.sleep(AGAIN_S)
                case Nack("busy", message):
                    raise StepFailed(f"{message}, all the time: nothing was written")
                case Nack(_, message):
                    raise StepFailed(message)
                case _:
                    raise StepFailed(f"the store answered with a {type(answer).__name__}")


def _section(ctx: Context) -> TradingSection:
    """Raises StepFailed for a target that is no trades database."""
    section = ctx.config.trading.get(ctx.target.target_id.removesuffix(SUFFIX))
    if section is None or not section.trades_db or not ctx.target.target_id.endswith(SUFFIX):
        raise StepFailed(f"{ctx.target.target_id} has no trades database", "see trades_db in [trading.NAME]")
    return section


def _phantoms(ctx: Context, section: TradingSection) -> tuple[GuardedRow, ...]:
    """What is to be written, in the order of the keys. Blocking. Raises StepFailed when nobody can tell."""
    reading = ctx.execution.reading
    seen = reading.data if reading is not None and isinstance(reading.data, PositionsData) else None
    if seen is None or seen.settling:
        raise StepFailed("no reading has yet called a trade a phantom for long enough: nothing was written")
    named = {position.trade_id for position in seen.phantoms}
    try:
        signal = signals.read(section.signal_file, section.timestamp_keys)
        found = positions.open_rows(section.trades_db, section.table)
    except (CannotRead, CannotOpen) as error:
        raise StepFailed(f"{error}: nothing was written") from error
    now_s = clock.wall_s()
    if why := "the live signal is stale" if now_s - signal.wall_s > float(section.max_age) else signal.incomparable():
        raise StepFailed(f"no trade can be compared: {why}; nothing was written")
    trades = [(row, row.position()) for row in found.rows if row.position().trade_id in named]
    phantoms, _ = positions.account(positions.Book(tuple(trade for _, trade in trades)), signal)
    closed_at = _closed_at(found, now_s)
    return tuple(_guarded(row, closed_at) for row, trade in trades if trade in phantoms)


def _guarded(row: positions.Row, closed_at: Cell) -> GuardedRow:
    cells: dict[str, Any] = dict(row.values)
    key = cells.pop(positions.KEY)
    odd = [name for name, value in cells.items() if not isinstance(value, int | float | str | None)]
    if odd or not isinstance(key, int | str):
        raise StepFailed(f"trade {row.position().trade_id} holds binary data: it was not touched")
    put: dict[str, Cell] = {STATUS: CLOSED}
    if CLOSED_AT in cells:
        put[CLOSED_AT] = closed_at
    return GuardedRow(key, cells, put)


def _closed_at(found: positions.OpenRows, now_s: float) -> Cell:
    """Now, as the times of this table are written: like its last closed trade, else like when one was opened."""
    opened = next((row.values.get("opened_at") for row in found.rows), None)
    for example in (found.closed_like, opened):
        try:
            return stamps.like(example, now_s)
        except stamps.BadStamp:
            continue
    return clock.local_naive_iso(now_s)


def _named(rows: tuple[GuardedRow, ...]) -> str:
    """For people: which trades, as they stood."""
    some = [f"{row.key!r} ({row.expect['symbol']} {row.expect['side']})" for row in rows[:NAMED_MAX]]
    more = f" and {len(rows) - NAMED_MAX} more" if len(rows) > NAMED_MAX else ""
    return f"trade {', '.join(some)}{more}"
