"""What a probe saw, as frozen values: one struct of data for each kind of target, and the reading that carries it.

`HealthReading` is FR-001's record; `Unavailable` says why one has nothing to tell (R9).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ProcessRef(msgspec.Struct, frozen=True):
    """One process for ever: a pid alone is recycled, (boot, pid, start) is not (DESIGN §2.4).

    `start_ticks` is field 22 of /proc/PID/stat (proc(5)): clock ticks since boot.
    """

    boot_id: str
    pid: int
    start_ticks: int


class PidFile(StrEnum):
    """What the pid file says, against the process table. Only OK names a live service."""

    UNSET = "unset"
    OK = "ok"
    MISSING = "missing"
    MALFORMED = "malformed"
    STALE = "stale"  # no such process
    RECYCLED = "recycled"  # a process of that number, but another one (younger than the file, or `match` fails)
    UNREADABLE = "unreadable"


class Endpoint(StrEnum):
    """The answer to one round trip; a connect alone proves nothing (a stopped process still accepts)."""

    UNSET = "unset"
    OK = "ok"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    BAD_ANSWER = "bad_answer"


class Zombie(msgspec.Struct, frozen=True):
    """A process of this target in state Z, and the parent that does not reap it (R12)."""

    process: ProcessRef
    parent_pid: int
    parent_name: str
    seen_for_s: float


class ProcessData(msgspec.Struct, frozen=True, tag="process"):
    """A reading of one `[process.NAME]` target.

    `alive` is None when only an endpoint is configured: then nobody can tell whether a process exists.
    `process` is the live process that was judged. `meant_to_stop`: its stop file exists.
    """

    alive: bool | None
    process: ProcessRef | None = None
    pid_file: PidFile = PidFile.UNSET
    endpoint: Endpoint = Endpoint.UNSET
    endpoint_failures: int = 0  # consecutive, this reading included
    meant_to_stop: bool = False
    zombies: tuple[Zombie, ...] = ()
    detail: str = ""


ReadingData = ProcessData


class Unavailable(StrEnum):
    """Why a reading has nothing to say (R9). The classifier decides which of these are an anomaly of the family."""

    NONE = "none"
    DEADLINE = "deadline"
    PERMISSION = "permission"
    ERROR = "error"


class HealthReading(msgspec.Struct, frozen=True):
    """FR-001: what one probe saw of one target. Never an exception: `available=False` with a reason instead.

    `taken_mono_s` is CLOCK_MONOTONIC when the check *began* (comparable between processes of one boot): how old the
    reading is as grounds for an action counts from there. `external`: handed in from outside, never grounds (R7).
    """

    target_id: str
    family: str
    taken_mono_s: float
    taken_wall_s: float
    took_ms: float
    freshness_ms: int
    available: bool
    data: ReadingData | None = None
    reason: Unavailable = Unavailable.NONE
    error: str = ""
    external: bool = False
