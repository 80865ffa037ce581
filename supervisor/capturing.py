"""A file in the runtime directory that stands while an incident is open, and for a moment after: a shell's hook looks
for it before it starts anything (FR-006), so that capturing costs a prompt nothing while all is well. It must never
fail a decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from supervisor.incidents.drill_run import FAMILY
from supervisor.incidents.learning import LATE_S, OWN_FAMILY
from supervisor.incidents.world import World
from supervisor.places import CAPTURING

log = logging.getLogger(__name__)


class Capturing:
    def __init__(self, runtime_dir: Path) -> None:
        self._path = runtime_dir / CAPTURING
        self._stands: bool | None = None
        self._ending: asyncio.TimerHandle | None = None

    def look(self, world: World) -> None:
        """After each decision: does anything stand open that a person's command could be about?"""
        wanted = any(incident.family not in (OWN_FAMILY, FAMILY) for incident in world.incidents.values())
        if wanted and self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if wanted is self._stands:
            return
        self._stands = wanted
        if wanted:
            self._change(lambda: self._path.touch(mode=0o600))
        elif self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(LATE_S, self._end)

    def _end(self) -> None:
        self._ending = None
        self._change(lambda: self._path.unlink(missing_ok=True))

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            log.warning("%s: %s; hooks may capture no commands", self._path, error.strerror)
