"""A person cancels what is at work: whoever is at it is asked first, and may refuse; then the engine writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.bus import Hub
from supervisor.errors import BusError, HealError, Refused, UsageError
from supervisor.incidents import cancelling
from supervisor.incidents.events import Order
from supervisor.incidents.world import World
from supervisor.messages import Ack, Body, Cancel, Nack

WITHIN_S = 8.0


class Stopping:
    """`answer` gets a person's token and an error."""

    def __init__(self, hub: Hub, world: World, answer: Callable[[str, dict[str, Any] | Exception], None]) -> None:
        self._hub = hub
        self._world = world
        self._answer = answer

    def ask(self, order: Order, decide: Callable[[Order], None]) -> None:
        """`decide` gets the order once the executor, or the probe, was told to stop it, with arguments that name what
        was: another may be at work under the same name by then, and nobody has told that one."""
        token, actor = order.token, order.actor
        try:
            found = cancelling.find(self._world, msgspec.json.decode(order.args, type=cancelling.CancelArgs).id)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._answer(token, UsageError(f"cancel: {error}"))
            return
        except HealError as error:
            self._answer(token, error)
            return
        if found.drill:  # nobody is at it but the engine
            decide(order)
            return
        worker = "database" if found.execution is None else "executor"
        cancel = Cancel(actor, found.execution.id if found.execution is not None else "", found.target_id)
        named = cancelling.CancelArgs(cancel.execution_id or cancel.target_id, check=not cancel.execution_id)
        meant = msgspec.structs.replace(order, args=msgspec.json.encode(named))
        try:
            future = self._hub.request(worker, cancel)
        except BusError as error:
            self._answer(order.token, error)
            return
        asyncio.get_running_loop().call_later(WITHIN_S, future.cancel)

        def told(done: asyncio.Future[Body]) -> None:
            body = None if done.cancelled() else done.result()
            if isinstance(body, Ack):
                decide(meant)
            elif isinstance(body, Nack):
                self._answer(token, Refused(body.message, body.hint))
            else:
                text = f"the {worker} has not said within {WITHIN_S:g} s that it stops it"
                self._answer(token, Refused(text, "healctl status shows whether it runs; then ask again"))

        future.add_done_callback(told)
