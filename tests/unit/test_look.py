"""One look at a time at what may hang: what becomes of an exception that nobody awaits."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from probes.look import Look


@pytest.mark.req("R9")
def test_a_look_that_fails_while_another_question_waits_is_no_failure_of_the_loop() -> None:
    """The exception handler of a worker's loop ends the worker: the second question only waits for the first look."""
    begun, on = threading.Event(), threading.Event()
    unheard: list[object] = []

    def fail() -> None:
        begun.set()
        assert on.wait(60)
        raise OSError("no")

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))
        look: Look[None] = Look("x", fail)
        first = asyncio.ensure_future(look.now())
        assert await asyncio.to_thread(begun.wait, 10)
        second = asyncio.ensure_future(look.now())
        await asyncio.sleep(0)
        on.set()
        assert [type(found) for found in await asyncio.gather(first, second, return_exceptions=True)] == [OSError] * 2
        gc.collect()

    asyncio.run(ask())
    assert unheard == []
