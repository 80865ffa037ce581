"""When the operator's dead man's switch outside is pinged, and how that goes: the healer's side of it.

The notifier pings, and only on our word: that a round of the engine became durable, at most once in `dead_man_every`,
and one at a time. So the pings stop with the engine, the ledger, this process or the notifier, whichever dies. A healer
must have lived for a while first, or one that dies again and again would do for a healthy one (as in `tree.watchdog`).
Pings that fail are told once, by an incident of our own house.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from supervisor.bus import Hub
from supervisor.config import Config
from supervisor.errors import BusError
from supervisor.house import NO_DEAD_MAN
from supervisor.incidents import events as e
from supervisor.incidents import own, views
from supervisor.incidents.model import AnomalyType
from supervisor.incidents.world import World
from supervisor.messages import Body, Family, Pinged, PingNow, Sample
from supervisor.units import parse_ping

log = logging.getLogger(__name__)

STEADY_S = 30.0  # with the shipped WatchdogSec, as long as systemd's watchdog waits
IN_A_ROW = 3  # so many failures are no mere hiccup of the network


class Pinging:
    """`decide` hands the engine what it should know. Times are of the monotonic clock, in seconds."""

    def __init__(
        self, hub: Hub, config: Callable[[], Config], world: World, decide: Callable[[e.Event], None], now_s: float
    ) -> None:
        self._hub = hub
        self._config = config
        self._world = world
        self._decide = decide
        section = config().escalation
        self._url = section.dead_man_url
        self._due_s = now_s + min(STEADY_S, float(section.dead_man_every))
        self._asked: asyncio.Future[Body] | None = None
        self._failures = 0
        self._error = ""
        self._good_wall_s: float | None = None

    def came_round(self, now_s: float) -> None:
        """The engine has decided, and the ledger has it."""
        if not self._url or self._asked is not None or now_s < self._due_s:
            return
        try:
            self._asked = self._hub.request("notifier", PingNow())
        except BusError as error:
            log.warning("the dead man's switch is not pinged: %s", error)
            return
        self._due_s = now_s + float(self._config().escalation.dead_man_every)
        self._asked.add_done_callback(self._came_back)

    def reconfigured(self, now_s: float) -> None:
        """Another address is another watcher: it is pinged at the next round, and nothing is known of it yet."""
        section = self._config().escalation
        self._due_s = min(self._due_s, now_s + float(section.dead_man_every))
        if section.dead_man_url == self._url:
            return
        self._url, self._due_s = section.dead_man_url, now_s
        self._failures, self._error, self._good_wall_s = 0, "", None
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
        if not self._url:
            self._is_well(NO_DEAD_MAN)

    def _came_back(self, answer: asyncio.Future[Body]) -> None:
        if answer is not self._asked or answer.cancelled():  # of another address, or at our end
            return
        self._asked = None
        body = answer.result()
        error = body.error if isinstance(body, Pinged) else f"the notifier does not ping: {body}"
        if isinstance(body, Pinged) and body.good_wall_s is not None:
            self._good_wall_s = body.good_wall_s
        self._error = error
        self._failures = self._failures + 1 if error else 0
        if not error:
            self._is_well("a ping has arrived")
        elif self._failures >= IN_A_ROW:
            evidence = f"{self._failures} pings in a row have failed: {error}"
            self._decide(e.OwnPart(own.DEAD_MAN, AnomalyType.DEAD_MAN_FAILING, True, evidence))

    def _is_well(self, why: str) -> None:
        if (AnomalyType.DEAD_MAN_FAILING, own.DEAD_MAN) in self._world.by_key:
            self._decide(e.OwnPart(own.DEAD_MAN, AnomalyType.DEAD_MAN_FAILING, False, why))

    # -- what is shown --

    def view(self) -> dict[str, Any] | None:
        """For `healctl status`; None when there is nobody to ping. Of the address only who it belongs to."""
        address = parse_ping(self._url)
        if address is None:
            return None
        return {
            "address": f"{address[0]}/...",
            "last_ping": None if self._good_wall_s is None else views.stamp(self._good_wall_s),
            "failures": self._failures,
            "error": self._error or None,
        }

    def families(self) -> tuple[Family, ...]:
        """For Prometheus; samples only where there is somebody to ping."""
        good = () if self._good_wall_s is None or not self._url else (Sample((), self._good_wall_s),)
        failed = (Sample((), self._failures),) if self._url else ()
        last = "When a ping of the dead man's switch last arrived, Unix time."
        return (
            Family("heal_dead_man_last_success_timestamp_seconds", "gauge", last, good),
            Family("heal_dead_man_failures", "gauge", "Pings of it that have failed since, one after another.", failed),
        )
