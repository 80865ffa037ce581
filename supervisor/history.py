"""`healctl heal dry_run --history`: recorded incidents, fetched from the store a page at a time and replayed (R4).

Between two pages the healer does its other work. One replay at a time; it writes nothing, here or anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from supervisor.bus import Link
from supervisor.errors import HealError, Refused, StoreError, UnknownId, UsageError
from supervisor.incidents.model import Instant, Runbook
from supervisor.incidents.replay import Past, Replay
from supervisor.incidents.world import World
from supervisor.messages import FetchHistory, HistoryFound

_past = msgspec.json.Decoder(Past).decode


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runbook_id: str
    since_s: Annotated[float, msgspec.Meta(gt=0)]
    target_id: str | None = None


class History:
    """`answer` gets the request's token and the answer."""

    def __init__(
        self,
        store: Link,
        world: World,
        now: Callable[[], Instant],
        answer: Callable[[str, dict[str, Any] | Exception], None],
    ) -> None:
        self._store = store
        self._world = world
        self._now = now
        self._answer = answer
        self._work: asyncio.Task[None] | None = None

    def ask(self, token: str, args: bytes) -> None:
        try:
            parsed = msgspec.json.decode(args, type=_Args)
            runbook = self._world.runbooks.get(parsed.runbook_id)
            if runbook is None:
                raise UnknownId(f"no runbook {parsed.runbook_id!r}", "`healctl heal list_runbooks` lists them")
            if self._work is not None and not self._work.done():
                raise Refused("another replay is at work", "try again when it is over")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._answer(token, UsageError(f"history: {error}"))
        except (UnknownId, Refused) as error:
            self._answer(token, error)
        else:
            self._work = asyncio.get_running_loop().create_task(self._tell(token, runbook, parsed))

    async def _tell(self, token: str, runbook: Runbook, args: _Args) -> None:
        try:
            self._answer(token, await self._replay(runbook, args))
        except HealError as error:
            self._answer(token, error)
        except msgspec.DecodeError as error:
            self._answer(token, StoreError(f"a recorded incident cannot be read: {error}"))

    async def _replay(self, runbook: Runbook, args: _Args) -> dict[str, Any]:
        since_wall_s = self._now().wall_s - args.since_s
        replay = Replay(runbook, tuple(self._world.runbooks.values()))
        kinds = tuple(anomaly.value for anomaly in runbook.applies_to)
        asked = FetchHistory(kinds, args.target_id or "", since_wall_s)
        while True:
            found = await self._store.ask(asked)
            if not isinstance(found, HistoryFound):
                raise StoreError(f"the store did not give the history: {found}")
            for row in found.rows:
                past = _past(row)
                replay.take(past, self._world.target(past.incident.target_id))
            if found.passed_over:
                replay.passed_over(found.passed_over)
            if not found.more:
                return replay.body(since_wall_s, args.target_id)
            asked = msgspec.structs.replace(asked, source=found.source, after=found.after)

    def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
