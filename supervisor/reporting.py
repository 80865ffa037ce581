"""`healctl report`: what was recorded, fetched from the store a page at a time and added up (`incidents.report`).

Between two pages the healer does its other work, and so does the store; the sums over all of them, up to a second's
work, are made in a thread. One report at a time; it writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec

from supervisor.aside import aside
from supervisor.at_work import TELL_S
from supervisor.bus import Link
from supervisor.clock import monotonic_s
from supervisor.errors import HealError, Refused, StoreError, UsageError
from supervisor.incidents.model import Instant
from supervisor.incidents.report import By, Report
from supervisor.messages import AtWork, FetchReport, ReportFound
from supervisor.wire import HISTORY


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    since_s: Annotated[float, msgspec.Meta(gt=0)]
    by: By | None = None


class Reporting:
    """`answer` gets the request's token and the answer, `tell` how far it is."""

    def __init__(
        self,
        store: Link,
        now: Callable[[], Instant],
        answer: Callable[[str, dict[str, Any] | Exception], None],
        tell: Callable[[AtWork], None],
    ) -> None:
        self._store = store
        self._now = now
        self._answer = answer
        self._tell_progress = tell
        self._work: asyncio.Task[None] | None = None

    def ask(self, token: str, args: bytes) -> None:
        try:
            parsed = msgspec.json.decode(args, type=_Args)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._answer(token, UsageError(f"report: {error}"))
            return
        if self._work is not None and not self._work.done():
            self._answer(token, Refused("another report is being added up", "try again when it is there"))
            return
        self._work = asyncio.get_running_loop().create_task(self._tell(token, parsed))

    async def _tell(self, token: str, args: _Args) -> None:
        try:
            self._answer(token, await self._add_up(args))
        except HealError as error:
            self._answer(token, error)
        finally:
            self._tell_progress(AtWork(HISTORY, "", over=True))

    async def _add_up(self, args: _Args) -> dict[str, Any]:
        now_wall_s = self._now().wall_s
        since_wall_s = max(0.0, now_wall_s - args.since_s)
        report = Report(since_wall_s, now_wall_s)
        asked, tell_s = FetchReport(since_wall_s), monotonic_s() + TELL_S
        while True:
            found = await self._store.ask(asked)
            if not isinstance(found, ReportFound):
                raise StoreError(f"the store did not give the history: {found}")
            report.take(found.incidents, found.actions, found.pages, found.marks)
            if monotonic_s() >= tell_s:
                tell_s = monotonic_s() + TELL_S
                self._tell_progress(AtWork(HISTORY, found.stage, found.done, found.total, "rows", final=True))
            if found.oldest_wall_s is not None:
                report.reaches_back(found.oldest_wall_s)
            if found.passed_over:
                report.passed_over(found.passed_over)
            if not found.more:
                return await asyncio.wrap_future(aside(partial(report.body, args.by), "report"))
            asked = FetchReport(since_wall_s, found.source, found.table, found.after)

    def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
