"""Readings and insights from outside: the server of `feed.sock`, inside the healer's process (NFR-004, R16, SITE.md).

JSON lines over a UNIX stream socket (mode 0600), one object a line, each answered by one line: {"ok": true, ...} or
{"ok": false, "error": ..., "hint"?: ...}. A line is a SourceReading, which goes to the worker of its family; or an
insight (`type` "anomaly" or "alert"), which is no verdict: our own probe is asked. Everything is limited, and whoever
reaches a limit is told. It must never decide anything, and never let what it was given end the healer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from supervisor import clock
from supervisor.bus import Hub
from supervisor.config import Config
from supervisor.errors import HealError, Refused, UnknownId, UsageError
from supervisor.incidents.model import Target
from supervisor.incidents.readings import SourceReading
from supervisor.messages import Nack, Outside, Resync
from supervisor.stamps import BadStamp, wall_s_of
from supervisor.targets import source_family, source_target

log = logging.getLogger(__name__)

SOCKET = "feed.sock"
LINE_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 16
LINES_A_SECOND_MAX = 100  # of one connection
IDLE_S = 600.0  # a connection on which no line comes is closed
LINE_S = 10.0  # from a line's first byte to its end, and for an answer to be taken
ANSWER_S = 5.0  # a worker that does not take a reading by then is absent or busy
RESYNC_S = 30.0  # an insight about all of a family makes it read everything at most this often
ID_CHARS_MAX = 200
ERROR_CHARS_MAX = 500
FRESHNESS_MS_MAX = 24 * 3600 * 1000
NESTING_MAX = 32
INTEGER_MAX = 2**63
INSIGHTS = ("anomaly", "alert")
READING_FORM = "expected {source_id, captured_at, freshness_ms, data, available, error?}"
CAPTURED_FORM = "expected an ISO 8601 time, or seconds or milliseconds since the epoch"
TOO_FAST = "too_fast"  # the word by which a client knows to send the same line again


class _Line(msgspec.Struct):
    """What both kinds of lines may have; the rest of an insight is for people."""

    type: str = ""
    source_id: str = ""
    target_id: str = ""
    captured_at: float | str | None = None
    freshness_ms: float | None = None
    available: bool | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


class Insight(msgspec.Struct, frozen=True):
    """Somebody saw something odd about this target, or source of many (R16)."""

    about: str


def parse(raw: bytes) -> SourceReading | Insight:
    """One line, checked for its form. Raises UsageError."""
    try:
        line = msgspec.json.decode(raw, type=_Line)
        _check_nesting(msgspec.json.decode(line.data))
    except RecursionError as error:
        raise UsageError(f"it is nested deeper than {NESTING_MAX}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not such an object: {error}", READING_FORM) from error
    for name in (line.source_id, line.target_id):
        if len(name) > ID_CHARS_MAX or not name.isprintable():
            raise UsageError(f"a name is longer than {ID_CHARS_MAX} characters, or not printable")
    if line.type:
        about = line.target_id or line.source_id
        if line.type not in INSIGHTS or not about:
            raise UsageError(f"an insight of type {line.type!r}", "anomaly and alert are taken, with a target_id")
        return Insight(about)
    if not line.source_id or line.captured_at is None or line.freshness_ms is None or line.available is None:
        raise UsageError("source_id, captured_at, freshness_ms or available is missing", READING_FORM)
    if not 0 < line.freshness_ms <= FRESHNESS_MS_MAX:
        raise UsageError(f"freshness_ms {line.freshness_ms:g}", f"expected more than 0, at most {FRESHNESS_MS_MAX}")
    return SourceReading(
        source_id=line.source_id,
        captured_wall_s=_captured(line.captured_at),
        freshness_ms=math.ceil(line.freshness_ms),
        available=line.available,
        data_json=bytes(line.data),
        error=(line.error or "")[:ERROR_CHARS_MAX],
    )


def _captured(at: float | str) -> float:
    try:
        return wall_s_of(at)
    except BadStamp as error:
        raise UsageError(f"captured_at: {error}", CAPTURED_FORM) from error


def _check_nesting(data: object) -> None:
    """Raises UsageError for what a worker might stumble over: too deep, or a number that is none of a sensor."""
    level = [data]
    for _ in range(NESTING_MAX):
        deeper: list[object] = []
        for each in level:
            if isinstance(each, dict):
                deeper += each.values()
            elif isinstance(each, list):
                deeper += each
            elif isinstance(each, int) and abs(each) >= INTEGER_MAX:
                raise UsageError("an integer in data does not fit into 64 bits")
        if not deeper:
            return
        level = deeper
    raise UsageError(f"data is nested deeper than {NESTING_MAX}")


class FeedServer:
    """`hint` is told the target that our own probe shall look at."""

    def __init__(
        self, runtime_dir: Path, hub: Hub, config: Callable[[], Config], hint: Callable[[Target], None]
    ) -> None:
        self._path = runtime_dir / SOCKET
        self._hub = hub
        self._config = config
        self._hint = hint
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._resynced_s: dict[str, float] = {}

    async def open(self) -> None:
        """Binds the socket; what an earlier healer left in its place is removed."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(self._accept, self._path, limit=LINE_BYTES_MAX)
        os.chmod(self._path, 0o600)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= 2 * CONNECTIONS_MAX:
            writer.transport.abort()  # not even time to tell them
            return
        full = len(self._connections) >= CONNECTIONS_MAX
        serving: Coroutine[Any, Any, None] = _turn_away(writer) if full else self._serve(reader, writer)
        task = asyncio.get_running_loop().create_task(serving)
        self._connections.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection to %s ended", SOCKET, exc_info=error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        second_s, lines = loop.time(), 0
        try:
            while (raw := await _line(reader)) is not None:
                if isinstance(raw, str):
                    await _say(writer, {"ok": False, "error": raw})
                    return
                if loop.time() - second_s >= 1.0:
                    second_s, lines = loop.time(), 0
                lines += 1
                if lines > LINES_A_SECOND_MAX:
                    error = f"more than {LINES_A_SECOND_MAX} lines a second"
                    await _say(writer, {"ok": False, "error": error, "code": TOO_FAST, "hint": "send it again"})
                    await asyncio.sleep(max(0.0, second_s + 1.0 - loop.time()))
                elif raw.strip():
                    await _say(writer, await self._take(raw))
        except (OSError, TimeoutError) as error:
            log.info("a connection to %s: %s", SOCKET, error or "its answers were not taken")
            writer.transport.abort()
        finally:
            await _part(writer)

    async def _take(self, raw: bytes) -> dict[str, Any]:
        try:
            return {"ok": True, **await self._route(parse(raw))}
        except HealError as error:
            refusal = {"ok": False, "error": error.message, "code": error.code}
            return {**refusal, "hint": error.hint} if error.hint else refusal

    async def _route(self, said: SourceReading | Insight) -> dict[str, Any]:
        """Raises HealError with why it was not taken."""
        source_id = said.about if isinstance(said, Insight) else said.source_id
        family = source_family(self._config(), source_id)
        if family is None:
            raise UnknownId(f"nothing of this configuration is called {source_id!r}", "see `healctl check`")
        if isinstance(said, SourceReading):
            async with _within(family):
                answer = await self._hub.request(family, Outside(said))
            if isinstance(answer, Nack):
                raise UnknownId(answer.message, answer.hint) if answer.exit_code == 4 else Refused(answer.message)
            return {"source_id": source_id, "family": family}
        target = source_target(self._config(), source_id)
        if target is not None:
            self._hint(target)
            return {"probing": target.target_id}
        now_s = clock.monotonic_s()
        if now_s - self._resynced_s.get(family, -RESYNC_S) >= RESYNC_S:
            self._resynced_s[family] = now_s
            async with _within(family):
                await self._hub.request(family, Resync())
        return {"probing": family}


@contextlib.asynccontextmanager
async def _within(family: str) -> Any:
    try:
        async with asyncio.timeout(ANSWER_S):  # it also cancels the question, so that nobody sends it again
            yield
    except TimeoutError as error:
        raise Refused(f"the {family} worker did not answer within {ANSWER_S:g} s", "try again") from error


async def _line(reader: asyncio.StreamReader) -> bytes | str | None:
    """The next line; None when there is no more; why the connection ends, in words."""
    try:
        async with asyncio.timeout(IDLE_S):
            first = await reader.read(1)
        if first in (b"", b"\n"):
            return first or None
        async with asyncio.timeout(LINE_S):
            return first + await reader.readuntil()
    except TimeoutError:
        return f"no whole line came within {IDLE_S:g} s, or it took longer than {LINE_S:g} s"
    except asyncio.IncompleteReadError:
        return "the last line has no end"
    except asyncio.LimitOverrunError:
        return f"a line is longer than {LINE_BYTES_MAX} bytes"


async def _say(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    """Raises TimeoutError when nobody takes it."""
    writer.write(msgspec.json.encode(answer) + b"\n")
    async with asyncio.timeout(LINE_S):
        await writer.drain()


async def _turn_away(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        await _say(writer, {"ok": False, "error": f"{CONNECTIONS_MAX} connections are open already"})
    await _part(writer)


async def _part(writer: asyncio.StreamWriter) -> None:
    """Closes it once the last answer has left; one that nobody takes is not waited for."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINE_S):
            await writer.wait_closed()
    writer.transport.abort()
