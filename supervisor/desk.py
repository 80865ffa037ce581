"""Where people's requests are answered: the healer's control socket (FR-007, DESIGN §6).

A request is known by its frame's id: sent again while it is at work, it waits for the same answer; sent again after
the answer, it gets the same one. So no order is carried out twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.bus import Hub, nack_of
from supervisor.errors import BusError, UsageError
from supervisor.messages import Body, Frame, Reply, Request

ANSWERS_KEPT_MAX = 1_000  # for callers whose answer got lost
ANSWER_BYTES_KEPT_MAX = 64 * 1024  # a longer one is a mere view: it is made anew


class Desk:
    """Callers and their answers. `order` hands a request to the engine; `views` are answered on the spot."""

    def __init__(self, order: Callable[[str, Request], None], views: dict[str, Callable[[], dict[str, Any]]]) -> None:
        self._order = order
        self._views = views
        self._hub: Hub | None = None
        self._callers: dict[str, str] = {}  # frame id -> who asked
        self._answers: OrderedDict[str, Body] = OrderedDict()

    def open(self, hub: Hub) -> None:
        self._hub = hub

    def receive(self, batch: list[tuple[str, Frame]]) -> None:
        for source, frame in batch:
            if not isinstance(frame.body, Request):
                error = UsageError(f"the control socket takes requests, not {type(frame.body).__name__}")
                self._send(source, frame.id, nack_of(error))
                continue
            known = self._answers.get(frame.id)
            if known is not None:
                self._send(source, frame.id, known)
                continue
            at_work = frame.id in self._callers
            self._callers[frame.id] = source
            if at_work:
                continue
            view = self._views.get(frame.body.action)
            if view is not None:
                self.answer(frame.id, view())
            else:
                self._order(frame.id, frame.body)

    def answer(self, token: str, result: dict[str, Any] | Exception) -> None:
        """The answer to the request `token`: a JSON object, or an error that the caller may see."""
        body = nack_of(result) if isinstance(result, Exception) else Reply(msgspec.json.encode(result))
        if not isinstance(body, Reply) or len(body.body) <= ANSWER_BYTES_KEPT_MAX:
            self._answers[token] = body
            if len(self._answers) > ANSWERS_KEPT_MAX:
                self._answers.popitem(last=False)
        source = self._callers.pop(token, None)
        if source is not None:
            self._send(source, token, body)

    def _send(self, to: str, token: str, body: Body) -> None:
        assert self._hub is not None
        try:
            self._hub.send(to, body, re=token)
        except BusError as error:  # larger than a message may be
            self._hub.send(to, nack_of(error), re=token)
