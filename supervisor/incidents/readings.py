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


class Severity(StrEnum):
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Status(StrEnum):
    FIRING = "firing"
    CLEAR = "clear"
    PENDING = "pending"  # abnormal, but not yet long or often enough to be the anomaly
    UNKNOWN = "unknown"  # the reading says nothing about it


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


class Manager(StrEnum):
    """What the service manager of a target (systemd, PM2) says of it (R8)."""

    NONE = "none"  # it has none
    RUNNING = "running"
    RESTARTING = "restarting"  # it is at it: leave it alone
    STOPPED = "stopped"  # somebody told it to stop the service: leave it alone
    FAILED = "failed"  # it has given up, or has never started it
    UNKNOWN = "unknown"  # it cannot be asked


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
    stopped: bool = False  # state T: it exists, but does nothing until somebody continues it
    manager: Manager = Manager.NONE
    dead_for_s: float = 0.0  # how long nothing of it has been alive
    act_after_s: float = 0.0  # R8: a managed target is its manager's for so long
    sought: tuple[str, str] = ("", "")  # the pid_file and match by which it was looked for


class DiskData(msgspec.Struct, frozen=True, tag="disk"):
    """A reading of `disk:MOUNT`. Shares are as df counts them: used / (used + available), 0 to 1.

    `full_in_s` is what the growth since earlier readings predicts, None when it does not grow or nobody can tell yet.
    `pressure` and `critical` are the configured limits. `mounted` False: it was there before and is not any more, or
    (`detail`) is not watched any more.
    """

    mount: str
    pressure: float
    critical: float
    mounted: bool = True
    device: str = ""
    fs_type: str = ""
    size_bytes: int = 0
    available_bytes: int = 0
    used_share: float = 0.0
    inodes_used_share: float | None = None  # None: this file system does not count them
    full_in_s: float | None = None
    detail: str = ""


MEM_AVAILABLE = "MemAvailable"


class MemoryData(msgspec.Struct, frozen=True, tag="memory"):
    """A reading of `system-memory`: what can still be had, by MemAvailable or by our cgroup's limit when smaller.

    `stalled_share`: PSI's `full avg10` (0 to 1), None where the kernel does not tell.
    """

    available_bytes: int
    total_bytes: int
    pressure_bytes: int
    critical_bytes: int
    limited_by: str = MEM_AVAILABLE  # or the cgroup's file
    stalled_share: float | None = None
    detail: str = ""


class Stamp(StrEnum):
    """From where the time of a live signal was taken."""

    KEY = "key"
    MTIME = "mtime"  # no key of the file holds a time
    NONE = "none"  # there is no signal, and none is expected


class SignalData(msgspec.Struct, frozen=True, tag="signal"):
    """A reading of `NAME-signals`. What cannot be read as a signal, or lies in the future, is no data (R9).

    `process`: the id of the process target that should be writing it; "" when it is always expected.
    """

    age_s: float
    max_age_s: float
    stamp: Stamp
    process: str = ""
    meant_to_stop: bool = False  # by the stop file of that process
    symbol: str = ""
    side: str = ""  # "long" | "short" | "hold" | "flat" | "" when it cannot be told
    detail: str = ""


class Position(msgspec.Struct, frozen=True):
    """An open row of the trades database."""

    trade_id: str
    symbol: str
    side: str
    opened_at: str = ""


class PositionsData(msgspec.Struct, frozen=True, tag="positions"):
    """A reading of `NAME-positions`: the open trades against the live signal. Judged only while that is fresh, and can
    be compared.

    `settling`: none of the phantoms has been one for long; whoever changes the signal needs a moment to close a trade.
    """

    signal_fresh: bool
    open_trades: int
    phantoms: tuple[Position, ...] = ()  # open trades that the live signal does not account for
    settling: bool = False
    detail: str = ""


class GatewayData(msgspec.Struct, frozen=True, tag="gateway"):
    """A reading of a gateway. `endpoint` is the verdict; `failures` counts consecutive ones, this one included.

    `judged_by`: "health_url" or "status" (the command, which runs in the background: `checked_mono_s` of the reading).
    `runtime`: what the status command last said of the service: running, stopped, unknown; "" when it said nothing,
    of a gateway that fails since it last was well. `asking`: it is being asked just now.
    """

    endpoint: Endpoint
    failures: int
    failures_needed: int
    judged_by: str
    runtime: str = ""
    asking: bool = False
    latency_ms: float = 0.0
    detail: str = ""


class PipelineData(msgspec.Struct, frozen=True, tag="pipeline"):
    """A reading of `pipeline:TASK`. How long it has stood in its stage the engine knows (`StageEntry`), not the file.

    `moving` False: it is finished, blocked, or not in the file any more, so that it cannot be stuck.
    """

    task_id: str
    moving: bool
    stuck_after_s: float
    pipeline: str = ""  # the configured name
    stage: str = ""
    status: str = ""
    title: str = ""
    updated_wall_s: float | None = None  # what the file says of its last change
    message_wall_s: float | None = None  # the newest Synapse message about it that is not ours
    messages_known: bool = True  # False: the messages could not be read (then nothing can be called stuck)
    detail: str = ""


class FleetData(msgspec.Struct, frozen=True, tag="fleet"):
    """A reading of `fleet:HOST` that was reached; one that was not is `available=False` with its reason (FR-001).

    `listed` False: the host is in no hosts file any more.
    """

    address: str
    port: int
    listed: bool = True
    latency_ms: float = 0.0
    kept: bool = False  # over a connection that was already open
    detail: str = ""


class Integrity(StrEnum):
    """What the last finished check said of a database."""

    UNKNOWN = "unknown"  # none has finished yet
    OK = "ok"
    CORRUPT = "corrupt"


class DatabaseData(msgspec.Struct, frozen=True, tag="database"):
    """A reading of a database (R9): the last verdict, with its age, while the next check may be under way.

    `check` is the deepest check behind the verdict: "opening it", "quick_check" or "integrity_check". `progress`: 0 to
    1 of the one under way, None when none is.
    """

    path: str
    verdict: Integrity
    check: str = ""
    errors: tuple[str, ...] = ()
    header_destroyed: bool = False
    checked_wall_s: float | None = None  # when the check behind the verdict began
    took_s: float = 0.0
    progress: float | None = None
    size_bytes: int = 0
    detail: str = ""


class LogFile(msgspec.Struct, frozen=True):
    """One log file; `bytes` is what it really takes (a sparse file's holes do not count)."""

    path: str
    bytes: int
    growth_bytes_s: float | None = None


class LogsData(msgspec.Struct, frozen=True, tag="logs"):
    """A reading of `[logs.NAME]`: `largest` are its largest files, the largest first, without those that a rotation
    left behind; `denied` could not be looked at. `complete` False: a bound was reached, and there may be larger ones.
    """

    files: int
    total_bytes: int
    max_bytes: int
    largest: tuple[LogFile, ...] = ()
    denied: tuple[str, ...] = ()
    complete: bool = True
    detail: str = ""


class DrillData(msgspec.Struct, frozen=True, tag="drill"):
    """A reading of `healctl:drill`: the id of the drill whose made-up trouble is there; "" when none is."""

    staged: str = ""
    detail: str = ""


class Finding(msgspec.Struct, frozen=True):
    """What a plugin's probe says of one of the anomalies that it declares. `severity` is the declared one: it is put in
    where the reading is checked. `evidence` and `hint` are plain words for people."""

    anomaly: str
    status: Status
    evidence: str = ""
    hint: str = ""
    severity: Severity = Severity.HIGH


class CheckData(msgspec.Struct, frozen=True, tag="check"):
    """A reading of a plugin's probe: one finding for each anomaly that it declares, judged in its own process, since
    nothing of a plugin runs in the engine's. `figures` is what it saw, for people and programs that look."""

    findings: tuple[Finding, ...]
    figures: dict[str, str | int | float | bool | None] = {}
    detail: str = ""


ReadingData = (
    ProcessData
    | DiskData
    | MemoryData
    | SignalData
    | PositionsData
    | GatewayData
    | PipelineData
    | FleetData
    | DatabaseData
    | LogsData
    | DrillData
    | CheckData
)


class Unavailable(StrEnum):
    """Why a reading has nothing to say (R9). The classifier decides which of these are an anomaly of the family."""

    NONE = "none"
    DEADLINE = "deadline"
    PERMISSION = "permission"
    ERROR = "error"
    MISSING = "missing"
    LOCKED = "locked"
    BAD_DATA = "bad_data"  # it is there, but it is not what it should be
    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"  # no route, network down
    DNS = "dns"
    AUTHENTICATION = "authentication"
    HOST_KEY = "host_key"


class HealthReading(msgspec.Struct, frozen=True):
    """FR-001: what one probe saw of one target. Never an exception: `available=False` with a reason instead.

    `taken_mono_s` is CLOCK_MONOTONIC when the check *began* (comparable between processes of one boot): how old the
    reading is as grounds for an action counts from there. `checked_mono_s` differs from it where the verdict is a
    background check's (R9): when that one began. `external`: handed in from outside, never grounds (R7).
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
    checked_mono_s: float | None = None

    @property
    def basis_mono_s(self) -> float:
        """When the look began on which this reading rests: only what it followed can be proved by it (R6)."""
        return self.taken_mono_s if self.checked_mono_s is None else self.checked_mono_s


class SourceReading(msgspec.Struct, frozen=True):
    """What somebody else's poll saw (SITE.md, NFR-004), checked for its form only; `data_json` is JSON of any shape.

    It replaces our own poll of what it speaks of while it is fresh, and is never grounds for an action (R7).
    """

    source_id: str
    captured_wall_s: float
    freshness_ms: int
    available: bool
    data_json: bytes = b"null"
    error: str = ""
