"""One ping of the operator's dead man's switch outside, for each word of the healer that the engine has gone round.

Who waits there raises the alarm when pings stay away, so that nothing here may make one up: no word, no ping, and none
is tried again by itself. The address is a secret: of it only its scheme and host are ever said. It must not keep a
message from leaving, however it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from supervisor import __version__, clock, http
from supervisor.messages import Pinged
from supervisor.units import parse_ping

log = logging.getLogger(__name__)

WITHIN_S = 10.0
AGENT = ("user-agent", f"healctl/{__version__}")


async def ping(url: str, within_s: float = WITHIN_S) -> str:
    """GETs it once: why it did not arrive, or nothing. What the answer says besides its status does not count."""
    address = parse_ping(url)
    if address is None:
        return "no dead_man_url is configured"
    origin, secret = address
    try:
        answer = await http.request(origin, path=secret, headers=(AGENT,), timeout_s=within_s)
    except http.ProtocolError as error:  # its words may quote what came, and an echo holds the secret
        broke = isinstance(error.__cause__, OSError)
        return str(error) if broke else f"{origin}: the connection ended early, or what came is not HTTP"
    except http.HttpError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  not foreseen, and no reason to end the worker that pages
        # Its own words may hold the address.
        return f"{origin}: {type(error).__name__}"
    if 300 <= answer.status < 400:
        return f"{origin}: answered {answer.status}, a redirect, which is not followed: give the address it leads to"
    return "" if 200 <= answer.status < 300 else f"{origin}: answered {answer.status}"


class DeadMan:
    """`url` is that of now; `answer` takes a body and, as `re`, the id of the frame that it answers."""

    def __init__(self, url: Callable[[], str], answer: Callable[..., None]) -> None:
        self._url = url
        self._answer = answer
        self._asked = ""
        self._answered = ("", Pinged())
        self._task: asyncio.Task[None] | None = None
        self._good_url = ""
        self._good_wall_s: float | None = None

    def take(self, frame_id: str) -> None:
        """A PingNow. While a ping is under way its outcome answers the newest; sent again after that, it gets the same
        answer again."""
        if frame_id == self._answered[0]:
            self._answer(self._answered[1], re=frame_id)
            return
        self._asked = frame_id
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="dead man's switch")

    async def _work(self) -> None:
        pinged: str | None = None
        error = ""
        while (url := self._url()) != pinged:  # another by now: what came of the old one is no answer
            if url != self._good_url:
                self._good_url, self._good_wall_s = url, None
            pinged, error = url, await ping(url)
            if error:
                log.warning("the dead man's switch was not pinged: %s", error)
            else:
                self._good_wall_s = clock.wall_s()
        self._answered = (self._asked, Pinged(error, self._good_wall_s))
        self._task = None
        self._answer(self._answered[1], re=self._asked)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
