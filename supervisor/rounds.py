"""Whether the engine still goes round: at each beat a decision about nothing, which must become durable like any other.

One at a time. What has come round is told to whoever watches us: to the root, which passes it on to systemd, and to the
notifier, which pings the operator's dead man's switch. A heart that beat without the ledger would keep them quiet while
nothing is healed. It must not know a clock or a socket.
"""

from __future__ import annotations

from collections.abc import Callable

STUCK_S = 60.0  # the tree has replaced a hung store long before; the ledger's own trouble is told by the committer
STUCK = (
    "healctl's engine decides, but its decisions do not become durable, and nothing says why. Nothing is healed and no"
    " other page can leave; look at it: healctl status, and restart it"
)


class Rounds:
    """`begin` decides about nothing and calls back when that is durable; `over` is told of each time it was."""

    def __init__(
        self, begin: Callable[[Callable[[], None]], None], over: Callable[[], None], alarm: Callable[[str], None]
    ) -> None:
        self._begin = begin
        self._over = over
        self._alarm = alarm
        self._began_s: float | None = None  # the one that is under way
        self._told = False

    def beat(self, now_s: float, *, explained: bool) -> None:
        """At each beat. `explained`: somebody else tells why nothing becomes durable."""
        if self._began_s is None:
            self._began_s = now_s
            self._begin(self._came_round)
        elif now_s - self._began_s > STUCK_S and not self._told and not explained:
            self._told = True
            self._alarm(STUCK)

    def _came_round(self) -> None:
        self._began_s = None
        self._told = False
        self._over()
