"""Files that tell of an event by POLLPRI (poll(2)): the mount table, a trigger for memory stalls.

asyncio waits for "readable" alone, and these always are. An epoll of their own is the way: it waits for POLLPRI, and is
itself readable when that has come (epoll(7)), so that the loop can wait for it.

An event is told once: looking for it takes it away. So a wake is the event, whatever a second look finds, and whoever
is told reads the file then. Edge-triggered, so that a file that has gone bad does not wake the loop for ever.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class Exceptional:
    """Calls `on_event` in the running loop whenever the file tells of one. Owns `fd`. Raises OSError."""

    def __init__(self, fd: int, on_event: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._on_event = on_event
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLPRI | select.EPOLLERR | select.EPOLLET)
        self._loop.add_reader(self._epoll.fileno(), self._woken)

    def _woken(self) -> None:
        self._epoll.poll(0)
        self._on_event()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._fd)
