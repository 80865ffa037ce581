"""What the engine was given and what it decided, in a file: a flight recorder for `healctl replay` (DESIGN §2.5).

The engine is pure, so the same memory, events and instants give the same decisions, byte for byte, on any machine: a
recording shows what a decision rested on, and reproduces a fault, the event that killed the engine included. Off by
default (`[healctl] record`). A file begins with the engine's whole memory; a part that is full is followed by the next,
and the oldest are removed, so that all of them stay below the limit. Nothing is redacted, since a replay needs it as it
was: the files are closed to others (0600), and say what they hold. A recorder that cannot write stops, says so, and
keeps nobody from healing.

A file is a sequence of frames, each its length (4 bytes, big-endian) and msgpack; what a crash cut off is its end.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from supervisor import __version__
from supervisor.errors import HealError, UsageError
from supervisor.incidents import events as e
from supervisor.incidents.classify import Classifier
from supervisor.incidents.effects import Answer
from supervisor.incidents.engine import Engine
from supervisor.incidents.model import Instant
from supervisor.incidents.world import Decision, World

log = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "recordings"
PARTS = 4  # of the limit: so many files, at least
FRAME_BYTES_MAX = 1 << 30
HOLDS = (
    "everything that healctl's engine was given and decided: readings, command lines, outputs of steps, messages, what"
    " people ordered and the seeds of one-time codes, nothing redacted; read it before you hand it to anybody"
)


class Header(msgspec.Struct, frozen=True, array_like=True, tag="healctl-recording"):
    format: int
    version: str
    holds: str


class Memory(msgspec.Struct, frozen=True, array_like=True, tag="memory"):
    """The engine's world, by field, each as msgpack of its own."""

    fields: dict[str, bytes]


class Given(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """Written before it is handled."""

    kind: str
    at: Instant
    event: bytes


class Decided(msgspec.Struct, frozen=True, array_like=True, tag="decided"):
    decision: bytes


class Anew(msgspec.Struct, frozen=True, array_like=True, tag="anew"):
    """The ledger had to be begun anew: the engine's names come from another one."""

    ledger_id: str
    epoch: int


_Frame = Header | Memory | Given | Decided | Anew
EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(e.Event)}


def _plain(value: Any) -> Any:
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, Classifier):
        return value.counts
    if isinstance(value, HealError):
        return [value.code, value.message, value.hint]
    if isinstance(value, Exception):
        return [type(value).__name__, str(value)]
    raise NotImplementedError(f"a recording cannot hold a {type(value).__name__}")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(_Frame).decode


def memory(world: World) -> Memory:
    return Memory({field.name: _encode(getattr(world, field.name)) for field in fields(World)})


def remembered(held: Memory) -> World:
    """Raises msgspec.DecodeError, TypeError: of another version's engine."""
    values: dict[str, Any] = {}
    for name, kind in get_type_hints(World).items():
        raw = held.fields.get(name)
        if raw is None:
            raise UsageError(f"it does not hold the engine's {name}", "replay it with the healctl that made it")
        if get_origin(kind) is deque:
            values[name] = deque(msgspec.msgpack.decode(raw, type=list[get_args(kind)[0]]))  # type: ignore[misc]
        elif kind is Classifier:
            values[name] = Classifier(msgspec.msgpack.decode(raw, type=dict[str, int]))
        else:
            values[name] = msgspec.msgpack.decode(raw, type=kind)
    return World(**values)


def decision_bytes(decision: Decision) -> bytes:
    """The whole of it: records, effects, and what is to be probed."""
    effects = [
        [type(it).__name__, it.token, it.body, it.error] if isinstance(it, Answer) else [type(it).__name__, it]
        for it in decision.effects
    ]
    return _encode([decision.records, effects, decision.probes])


# --- writing -------------------------------------------------------------------------------------------------------


class Recorder:
    """Writes what `given` and `decided` are told; `limit` bytes in all, 0: nothing."""

    def __init__(self, folder: Path, limit: int, world: World) -> None:
        self._folder = folder
        self._limit = limit
        self._world = world
        self._fd: int | None = None
        self._size = self._base = 0
        self._part = 0
        if limit:
            self._begin()

    def given(self, event: e.Event, at: Instant) -> None:
        if self._fd is not None:
            self._write(Given(type(event).__name__, at, _encode(event)))

    def decided(self, decision: Decision) -> None:
        if self._fd is None:
            return
        self._write(Decided(decision_bytes(decision)))
        if self._size - self._base > self._limit // PARTS:
            self._begin()

    def anew(self) -> None:
        """The world's names were changed from outside."""
        if self._fd is not None:
            self._write(Anew(self._world.ledger_id, self._world.epoch))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _begin(self) -> None:
        """The next file, from the memory as it is now; the oldest go."""
        self.close()
        held = memory(self._world)
        if sum(map(len, held.fields.values())) > self._limit // 2:
            log.error("recording stops: the engine's memory alone takes more than half of [healctl] record")
            return
        self._part += 1
        path = self._folder / f"epoch-{self._world.epoch:06d}-{self._part:04d}.rec"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._make_room()
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fchmod(self._fd, 0o600)
        except OSError as error:
            log.error("nothing is recorded: %s: %s", path, error.strerror)
            return
        self._size = 0
        self._write(Header(FORMAT, __version__, HOLDS))
        self._write(held)
        self._base = self._size
        if self._part == 1:
            log.warning("recording into %s, up to %d bytes: it holds %s", self._folder, self._limit, HOLDS)

    def _make_room(self) -> None:
        """So that a new part fits below the limit."""
        files = sorted(self._folder.glob("epoch-*.rec"))
        sizes = {file: file.stat().st_size for file in files}
        for file in files:
            if sum(sizes.values()) <= self._limit - self._limit // PARTS:
                return
            file.unlink()
            del sizes[file]

    def _write(self, frame: _Frame) -> None:
        raw = _encode(frame)
        if self._fd is None:
            return
        try:
            whole = len(raw).to_bytes(4, "big") + raw
            if os.write(self._fd, whole) != len(whole):
                raise OSError(0, "the disk is full")
            self._size += len(whole)
        except OSError as error:
            log.error("recording stops: %s: %s", self._folder, error.strerror)
            self.close()


# --- reading -------------------------------------------------------------------------------------------------------


class Replayed(msgspec.Struct):
    """What became of a replay. `different`: the first decision that is another one. `died`: the last event has no
    decision; what it raises now, or empty when it raises nothing (then healctl was ended from outside)."""

    file: str
    version: str
    events: dict[str, int]
    decisions: int = 0
    records: int = 0
    same: bool = True
    cut_off: bool = False
    different: dict[str, Any] | None = None
    died: str | None = None


def frames(path: Path, read: Callable[[int], None] = lambda _: None) -> Iterator[_Frame | None]:
    """Every whole frame, then None if something was cut off. `read` is told of the bytes behind it. Raises UsageError:
    it is no recording; OSError."""
    with path.open("rb") as file:
        first = True
        while head := file.read(4):
            size = int.from_bytes(head, "big")
            raw = file.read(size) if len(head) == 4 and size <= FRAME_BYTES_MAX else b""
            try:
                frame = _decode(raw)
            except msgspec.DecodeError as error:
                if first or (len(raw) == size and len(head) == 4):
                    raise UsageError(f"{path} is no recording of healctl: {error}") from error
                yield None
                return
            if first != isinstance(frame, Header):
                raise UsageError(f"{path} is no recording of healctl: it begins otherwise")
            first = False
            read(file.tell())
            yield frame
        if first:
            raise UsageError(f"{path} is no recording of healctl: it is empty")


def replay(
    path: Path,
    show: Callable[[Given, Decision], None] | None = None,
    read: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Feeds the engine anew and compares every decision, up to the first that differs. `show` is told of each, `read`
    how many bytes of the file are behind it. Raises UsageError, OSError."""
    found = Replayed(str(path), "", {})
    counts: Counter[str] = Counter()
    try:
        _replay(frames(path, read), found, counts, show)
    except (msgspec.DecodeError, TypeError, KeyError) as error:
        hint = f"it was made by healctl {found.version}, this is {__version__}"
        raise UsageError(f"{path} cannot be replayed: {error}", hint) from error
    found.events = dict(sorted(counts.items()))
    return found


def _replay(
    held: Iterator[_Frame | None],
    found: Replayed,
    counts: Counter[str],
    show: Callable[[Given, Decision], None] | None,
) -> None:
    engine: Engine | None = None
    waiting: Given | None = None
    for frame in held:
        match frame:
            case None:
                found.cut_off = True
            case Header(format, version):
                found.version = version
                if format != FORMAT:
                    raise UsageError(f"{found.file} has format {format}, this healctl knows {FORMAT}")
            case Memory():
                engine = Engine(remembered(frame))
            case Anew(ledger_id, epoch):
                assert engine is not None
                engine.world.ledger_id, engine.world.epoch = ledger_id, epoch
            case Given(kind):
                counts[kind] += 1
                waiting = frame
            case Decided(recorded):
                assert engine is not None
                assert waiting is not None
                decision = _again(engine, waiting)
                found.decisions += 1
                if isinstance(decision, Exception):
                    found.same, found.different = False, _place(found.decisions, waiting) | {"replayed": repr(decision)}
                    return
                found.records += len(decision.records)
                if show is not None:
                    show(waiting, decision)
                replayed = decision_bytes(decision)
                if replayed != recorded:
                    difference = _difference(recorded, replayed)
                    found.same, found.different = False, _place(found.decisions, waiting) | difference
                    return
                waiting = None
    if waiting is not None and engine is not None:
        last = _again(engine, waiting)
        found.died = f"{waiting.kind}: {last!r}" if isinstance(last, Exception) else ""


def _again(engine: Engine, given: Given) -> Decision | Exception:
    """What the engine decides now, or what it dies of."""
    event = msgspec.msgpack.decode(given.event, type=EVENTS[given.kind])
    try:
        return engine.handle(event, given.at)
    except Exception as error:  # noqa: BLE001 whatever it is: that is what a replay is to find
        return error


def _place(number: int, given: Given) -> dict[str, Any]:
    return {"decision": number, "event": given.kind, "at_wall_s": given.at.wall_s}


def _difference(recorded: bytes, replayed: bytes) -> dict[str, Any]:
    """The first part of a decision that differs: of its records, its effects, its probes."""
    both = [msgspec.msgpack.decode(it) for it in (recorded, replayed)]
    parts = zip(("records", "effects", "probes"), *both, strict=True)
    name, then, now = next(part for part in parts if part[1] != part[2])
    at = next((n for n, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), min(len(then), len(now)))
    return {"part": name, "index": at, "recorded": then[at : at + 1], "replayed": now[at : at + 1]}
