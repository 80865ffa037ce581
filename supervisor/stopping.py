"""Whoever is at work on what a person cancels is told to stop it; what it says goes to the engine (R15)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.bus import Hub
from supervisor.errors import BusError, UnknownId
from supervisor.incidents.effects import TellCancel
from supervisor.incidents.events import CancelTold
from supervisor.messages import Ack, Body, Cancel, Nack

WITHIN_S = 8.0


class Stopping:
    """`decide` gets what came of it."""

    def __init__(self, hub: Hub, decide: Callable[[CancelTold], None]) -> None:
        self._hub = hub
        self._decide = decide

    def tell(self, effect: TellCancel) -> None:
        """The executor is told, or the probe where no execution is meant; either may refuse."""
        worker = "executor" if effect.execution_id else "database"

        def told(goes_on: str = "", unsure: str = "", hint: str = "") -> None:
            asked = (effect.token, effect.actor, effect.target_id, effect.execution_id)
            self._decide(CancelTold(*asked, goes_on, unsure, hint))

        try:
            future = self._hub.request(worker, Cancel(effect.actor, effect.execution_id, effect.target_id))
        except BusError as error:
            told(unsure=str(error))
            return
        asyncio.get_running_loop().call_later(WITHIN_S, future.cancel)

        def answered(done: asyncio.Future[Body]) -> None:
            body = None if done.cancelled() else done.result()
            if isinstance(body, Ack):
                told()
            elif isinstance(body, Nack) and body.code != UnknownId.code:
                told(goes_on=body.message, hint=body.hint)
            elif isinstance(body, Nack):
                told(unsure=body.message, hint=body.hint)
            else:
                told(unsure=f"the {worker} has not said within {WITHIN_S:g} s that it stops it")

        future.add_done_callback(answered)
