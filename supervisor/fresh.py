"""A fresh reading of one target at somebody's request, and what it means: `healctl probe`, and a step that has to know
whether an anomaly is still there (DESIGN §6).

It is a reading of our own like any other, so that the engine sees it, too; what is told beside it is what it would
mean by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.bus import Hub, nack_of
from supervisor.errors import BusError, HealError, UnknownId, UsageError
from supervisor.incidents import looks
from supervisor.incidents.model import Instant, Status
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.world import World
from supervisor.messages import Body, Nack, ProbeNow, Readings, ReadSays
from supervisor.targets import worker_of

WITHIN_S = 10.5  # a reading takes up to 5 s (R9), and one for an earlier question may have to end first

Told = Callable[[looks.Look | HealError], None]


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target_id: str


class Fresh:
    """`answer` gets a person's token and the answer, `seen` every reading that came in."""

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
        self._steps: set[str] = set()  # questions of steps, by their frames, that are being answered

    def ask(self, token: str, args: bytes) -> None:
        """A person's question."""

        def told(found: looks.Look | HealError) -> None:
            self._answer(token, found if isinstance(found, HealError) else looks.look_json(found))

        try:
            target_id = msgspec.json.decode(args, type=_Args).target_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._answer(token, UsageError(f"probe: {error}"))
        else:
            self._look(target_id, told)

    def ask_for_step(self, frame_id: str, target_id: str, answer: Callable[[Body], None]) -> None:
        """A step's question; asked again while it is being answered, it is answered once."""
        if frame_id in self._steps:
            return
        self._steps.add(frame_id)

        def told(found: looks.Look | HealError) -> None:
            self._steps.discard(frame_id)
            answer(nack_of(found) if isinstance(found, HealError) else _says(found))

        self._look(target_id, told)

    def _look(self, target_id: str, told: Told) -> None:
        target = self._world.target(target_id)
        if target is None:
            told(UnknownId("no target of that name is watched", "see `healctl check`"))
            return
        try:
            future = self._hub.request(worker_of(target.family), ProbeNow(target.target_id))
        except BusError as error:
            told(error)
        else:
            asyncio.get_running_loop().call_later(WITHIN_S, future.cancel)
            future.add_done_callback(lambda done: self._answered(told, target.family, done))

    def _answered(self, told: Told, family: str, done: asyncio.Future[Body]) -> None:
        if done.cancelled():
            told(HealError(f"the {family} worker did not answer within {WITHIN_S:g} s", "see `healctl status`"))
            return
        body = done.result()
        if isinstance(body, Readings):
            self._seen(body.readings)
            now = self._now()
            (look,) = (
                looks.judged(reading, now, self._world.stages.get(reading.target_id)) for reading in body.readings
            )
            told(look)
        elif isinstance(body, Nack):
            kind = UnknownId if body.exit_code == UnknownId.exit_code else HealError
            told(kind(body.message, body.hint))
        else:
            told(HealError(f"the {family} worker answered with a {type(body).__name__}"))


def _says(look: looks.Look) -> ReadSays:
    def of(status: Status) -> tuple[Any, ...]:
        return tuple(verdict.anomaly for verdict in look.verdicts if verdict.status is status)

    return ReadSays(of(Status.FIRING), of(Status.CLEAR), look.says)
