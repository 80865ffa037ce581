"""`healctl probe`: a fresh reading of one target at somebody's request, and what it means (DESIGN §6).

It is a reading of our own like any other, so that the engine sees it, too; what is shown beside it is what it would
mean by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.bus import Hub
from supervisor.errors import BusError, HealError, UnknownId, UsageError
from supervisor.incidents import looks
from supervisor.incidents.model import Instant
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.world import World
from supervisor.messages import Body, Nack, ProbeNow, Readings

WITHIN_S = 10.5  # a reading takes up to 5 s (R9), and one for an earlier question may have to end first


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target_id: str


class Fresh:
    """`answer` gets the request's token and the answer, `seen` every reading that came in."""

    def __init__(
        self,
        hub: Hub,
        world: World,
        now: Callable[[], Instant],
        answer: Callable[[str, dict[str, Any] | Exception], None],
        seen: Callable[[tuple[HealthReading, ...]], None],
    ) -> None:
        self._hub = hub
        self._world = world
        self._now = now
        self._answer = answer
        self._seen = seen

    def ask(self, token: str, args: bytes) -> None:
        try:
            target = self._world.target(msgspec.json.decode(args, type=_Args).target_id)
            if target is None:
                raise UnknownId("no target of that name is watched", "see `healctl check`")
            future = self._hub.request(target.family, ProbeNow(target.target_id))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._answer(token, UsageError(f"probe: {error}"))
        except (UnknownId, BusError) as error:
            self._answer(token, error)
        else:
            asyncio.get_running_loop().call_later(WITHIN_S, future.cancel)
            future.add_done_callback(lambda done: self._answered(token, target.family, done))

    def _answered(self, token: str, family: str, done: asyncio.Future[Body]) -> None:
        if done.cancelled():
            error = HealError(f"the {family} worker did not answer within {WITHIN_S:g} s", "see `healctl status`")
            self._answer(token, error)
            return
        body = done.result()
        if isinstance(body, Readings):
            self._seen(body.readings)
            now = self._now()
            (look,) = (
                looks.judged(reading, now, self._world.stages.get(reading.target_id)) for reading in body.readings
            )
            self._answer(token, looks.look_json(look))
        elif isinstance(body, Nack):
            kind = UnknownId if body.exit_code == UnknownId.exit_code else HealError
            self._answer(token, kind(body.message, body.hint))
        else:
            self._answer(token, HealError(f"the {family} worker answered with a {type(body).__name__}"))
