"""Deaths as the kernel tells them: one pidfd per watched process in the event loop (R8, pidfd_open(2)).

It never polls, never signals and never waits for a child. A pidfd becomes readable when every thread of its process
has ended, whoever the parent is and whether or not it reaps; a recycled number cannot be mistaken for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable

from supervisor import proc
from supervisor.incidents.readings import ProcessRef

log = logging.getLogger(__name__)

DESCRIPTORS = 65_536  # wished for: one per watched process, and what the bus and the endpoint checks need


class PidWatch:
    """Holds at most one process per key and calls `on_death(key)` once when it is gone."""

    def __init__(self, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._held: dict[str, tuple[ProcessRef, int]] = {}
        self._complained = False
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wish = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < wish:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wish, hard))

    def hold(self, key: str, process: ProcessRef) -> None:
        """From now on `process` is watched for `key`, in place of any other. One that is gone already is told at
        once; one that cannot be watched (too many descriptors) is left to the polls, with a word in the log."""
        held = self._held.get(key)
        if held is not None and held[0] == process:
            return
        self.release(key)
        try:
            fd = proc.open_pidfd(process)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("%s: process %d cannot be watched, only polled: %s", key, process.pid, error)
            return
        if fd is None:
            self._loop.call_soon(self._on_death, key)
            return
        self._held[key] = (process, fd)
        self._loop.add_reader(fd, self._died, key)

    def holds(self, key: str, process: ProcessRef) -> bool:
        """Is it watched, and has its death not been told?"""
        held = self._held.get(key)
        return held is not None and held[0] == process

    def release(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._loop.remove_reader(held[1])
            os.close(held[1])

    def close(self) -> None:
        for key in list(self._held):
            self.release(key)

    def _died(self, key: str) -> None:
        self.release(key)
        self._on_death(key)
