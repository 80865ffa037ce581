"""Waiting for a descriptor inside the event loop, with nothing else: no polling, no threads."""

from __future__ import annotations

import asyncio


async def readable(fd: int) -> None:
    """Returns once `fd` has data, is at its end, or (a pidfd) its process has ended. One waiter for a descriptor."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await future
    finally:
        loop.remove_reader(fd)
