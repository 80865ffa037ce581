"""The configuration: TOML in, frozen structs out (DESIGN §7). Every key has a default but those marked required.

`load` never starts anything; an error names file, line, key, what was found and what was expected (exit 78). A bare
number is no duration, an unknown key is an error with a suggestion, `~` is expanded and a relative path refused. The
operator's own runbooks are a part of it: what is in force is so as a whole (`Accepted`).
Nothing here may write: `make_state_dir`, called by `healctl start` alone, is the one exception.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from supervisor import places
from supervisor.errors import ConfigError
from supervisor.incidents.model import Effect, Runbook
from supervisor.places import Dirs
from supervisor.units import OFF, Form
from supervisor.units import Duration as Duration
from supervisor.units import Size as Size

# Target ids of our own (DESIGN §7); a [database.NAME] may configure the first three.
OWN_DATABASES = ("brain-db", "metrics-db", "ledger")
MEMORY_TARGET = "system-memory"
RESERVED = frozenset({*OWN_DATABASES, MEMORY_TARGET, "healctl"})

Word = Annotated[str, msgspec.Meta(extra={"form": Form.WORD})]
NonEmpty = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Argv = Annotated[tuple[Word, ...], msgspec.Meta(min_length=1)]
PathText = Annotated[str, msgspec.Meta(extra={"form": Form.PATH})]
Regex = Annotated[str, msgspec.Meta(extra={"form": Form.REGEX})]
EndpointText = Annotated[str, msgspec.Meta(extra={"form": Form.ENDPOINT})]
TransportText = Annotated[str, msgspec.Meta(extra={"form": Form.TRANSPORT})]
SynapseText = Annotated[str, msgspec.Meta(extra={"form": Form.SYNAPSE})]
LogLevel = Annotated[str, msgspec.Meta(extra={"form": Form.LOG_LEVEL})]
ListenText = Annotated[str, msgspec.Meta(extra={"form": Form.LISTEN})]
HttpText = Annotated[str, msgspec.Meta(extra={"form": Form.HTTP})]
TableText = Annotated[str, msgspec.Meta(extra={"form": Form.TABLE})]
TargetName = Annotated[str, msgspec.Meta(extra={"form": Form.TARGET_NAME})]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Pause = Annotated[Duration, msgspec.Meta(ge=0)]
Span = Annotated[Duration, msgspec.Meta(ge=0.01)]
Keep = Annotated[Duration, msgspec.Meta(ge=86400)]
RestartTime = Annotated[Duration, msgspec.Meta(ge=1, le=3600)]
Interval = Annotated[Duration, msgspec.Meta(ge=0.1)]
StepSpan = Annotated[Duration, msgspec.Meta(ge=0.01, le=3600)]
LineText = Annotated[str, msgspec.Meta(extra={"form": Form.LINE})]
EnvName = Annotated[
    str, msgspec.Meta(pattern="[A-Za-z_][A-Za-z0-9_]{0,99}", description="the name of an environment variable")
]

TimeText = Annotated[
    str, msgspec.Meta(pattern="(([01][0-9]|2[0-3]):[0-5][0-9])?", description='a time of day like "03:30"')
]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table."""


class HealctlSection(Section, frozen=True):
    state_dir: PathText = ""  # default: XDG state, /var/lib/healctl as root
    runtime_dir: PathText = ""  # default: XDG runtime, /run/healctl as root
    log_level: LogLevel = "info"  # debug | info | warning | error
    record: Size = Size(0)  # so much of what the engine is given and decides is kept, for `healctl replay`; 0: nothing


class StoreSection(Section, frozen=True):
    brain_db: PathText = ""  # default: brain.db in state_dir
    metrics_db: PathText = ""  # default: metrics.db in state_dir
    ledger_max: Size = Size(1024**3)  # reported when four fifths of it are used; then less is kept
    keep: Keep = Duration(90 * 86400)  # what was over for longer goes to archive-YYYY.db in state_dir


class TreeSection(Section, frozen=True):
    core_intensity: Count = 10  # failures of store or healer within the period: then healctl exits 70
    core_period: Span = Duration(60)
    hands_intensity: Count = 10
    hands_period: Span = Duration(60)
    probes_intensity: Count = 10  # counted per family
    probes_period: Span = Duration(60)
    quarantine_retry: Span = Duration(300)  # a quarantined worker is tried again this often
    backoff_first: Pause = Duration(0)  # before the first restart
    backoff_base: Pause = Duration(0.1)  # before the second, doubling
    backoff_max: Pause = Duration(3)
    backoff_reset: Span = Duration(60)  # this long READY: the next failure counts as the first
    ready_within: Span = Duration(10)
    beat: Span = Duration(5)
    beat_within: Span = Duration(20)  # no beat for this long: the worker hangs
    progress_within: Span = Duration(120)  # its oldest work is older than this and nothing gets done: it hangs
    abort_grace: Span = Duration(1)  # between SIGABRT (stacks go to the log) and SIGKILL
    shutdown: Span = Duration(5)  # between the order to stop and SIGKILL


class PolicySection(Section, frozen=True):
    confidence_auto_execute: Share = 0.8
    auto_execute: tuple[str, ...] = ("rb-rotate-logs", "rb-gc-trigger")  # NFR-001's whitelist
    dry_run_graduation_count: Count = 3  # R4: dry runs in a row that predict the cure
    dismiss_window: Span = Duration(86400)
    page_hold: Pause = Duration(60)
    verify_within: Span = Duration(30)
    settle: Pause = Duration(1)
    clear_readings: Count = 3
    clear_interval: Span = Duration(30)
    act_after: Pause = Duration(2)  # R8: a service of systemd or PM2 is left to its manager for so long
    breaker_per_target: Count = 3
    breaker_total: Count = 20
    breaker_window: Span = Duration(3600)


class RestartSection(Section, frozen=True):
    """How a service is started again: exactly one of argv, systemd and pm2."""

    argv: tuple[Word, ...] = ()
    systemd: str = ""  # the name of a unit
    user: bool = False  # a unit of the user manager
    pm2: str = ""  # the name of a PM2 process


class ProcessSection(Section, frozen=True):
    """`[process.NAME]`. One of pid_file, match, endpoint is required."""

    pid_file: PathText = ""
    match: Regex = ""  # regular expression, searched in the command line (arguments joined by one space)
    endpoint: EndpointText = ""  # http://..., tcp://host:port, unix:/path
    stop_file: PathText = ""
    interval: Interval = Duration(60)
    critical: bool = True  # rb-force-gc never ends it, nor what it has started
    auto_restart: bool = False
    restart: RestartSection | None = None
    restart_cwd: PathText = ""
    restart_env: dict[str, str] = {}
    restart_output: PathText = ""  # where the service's stdout and stderr go; default: output/NAME.log in state_dir


class TradingSection(Section, frozen=True):
    """`[trading.NAME]`: a live signal file, and the trades that should agree with it."""

    signal_file: PathText
    max_age: Span = Duration(300)
    timestamp_keys: NonEmpty = ("updated_at", "timestamp")
    trades_db: PathText = ""
    table: TableText = "trades"
    process: str = ""  # the [process.NAME] that should be writing the signal
    interval: Interval = Duration(60)


class GatewaySection(Section, frozen=True):
    """`[gateway.NAME]`."""

    status: Argv  # the command that tells its state as JSON; it runs in the background (R9)
    restart: tuple[Word, ...] = ()
    restart_timeout: RestartTime = Duration(90)  # it takes 18 to 36 s, on a busy machine twice that; then it is ended
    health_url: HttpText = ""
    auto_restart: bool = False
    failures: Count = 2  # in a row, before it counts as unresponsive
    interval: Interval = Duration(120)


class PipelineSection(Section, frozen=True):
    """`[pipeline.NAME]`: the tasks of a pipeline's state file."""

    state_file: PathText
    stage_done: Argv  # the command that marks a stage; stage, task, result and message are appended (R11)
    stuck_after: Span = Duration(3600)
    interval: Interval = Duration(120)


class FleetHost(Section, frozen=True):
    """`[fleet.hosts.NAME]`."""

    address: str
    port: Port = 22


class FleetSection(Section, frozen=True):
    """`[fleet]`: hosts that must be reachable over SSH."""

    hosts_file: PathText = ""  # {"hosts": [{"name", "host"}]} or the bare list (SITE.md); read again when it changes
    interval: Interval = Duration(300)
    timeout: Annotated[Duration, msgspec.Meta(ge=0.1, le=5)] = Duration(5)
    retries: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3  # before somebody is told
    retry_interval: Annotated[Duration, msgspec.Meta(ge=0.1, le=45)] = Duration(30)
    user: str = ""  # default: who runs healctl
    identity_file: PathText = ""  # default: the agent, then the usual keys
    known_hosts: PathText = ""  # default: ~/.ssh/known_hosts
    hosts: dict[TargetName, FleetHost] = {}


def _usual_mounts() -> tuple[str, ...]:
    return ("/", os.path.expanduser("~"))


class DiskSection(Section, frozen=True):
    mounts: tuple[PathText, ...] = msgspec.field(default_factory=_usual_mounts)  # always read; [] turns it off
    discover: bool = True  # and every other real file system that can be written
    pressure: Share = 0.85
    critical: Share = 0.95
    interval: Interval = Duration(600)


class MemorySection(Section, frozen=True):
    pressure: Size = Size(512 * 1024**2)
    critical: Size = Size(256 * 1024**2)
    interval: Interval = Duration(300)
    protect: tuple[Regex, ...] = ()  # rb-force-gc never ends what has one of these in its command line


class DatabaseSection(Section, frozen=True):
    """`[database.NAME]`: an SQLite file whose integrity is checked in the background (R9)."""

    path: PathText
    interval: Interval = Duration(900)


class LogsSection(Section, frozen=True):
    """`[logs.NAME]`."""

    paths: Annotated[tuple[PathText, ...], msgspec.Meta(min_length=1)]  # globs
    max_size: Size = Size(100 * 1024**2)
    archive_after: Span = Duration(7 * 86400)  # FR-003: rb-rotate-logs archives what was not written for longer
    interval: Interval = Duration(1800)


class CleanupSection(Section, frozen=True):
    """`[cleanup]`: the only places where rb-emergency-cleanup removes anything. Empty: it removes nothing."""

    tmp_dirs: tuple[PathText, ...] = ()  # what lies below them and is older
    pycache_dirs: tuple[PathText, ...] = ()  # below them, what is older in folders called __pycache__
    older_than: Annotated[Duration, msgspec.Meta(ge=60)] = Duration(86400)


def _usual_logs() -> dict[TargetName, LogsSection]:
    return {"log-files": LogsSection(paths=("/var/log/*", "/var/log/*/*"))}


class CommandSection(Section, frozen=True):
    """`[command.NAME]`: a program that a step of kind `run-command` in an operator's own runbook may run (R11)."""

    argv: Argv  # as it stands: nothing is ever put into it
    effect: Effect  # what it does to the system, as its owner declares it (R3)
    description: LineText = ""
    timeout: StepSpan = Duration(30)
    cwd: PathText = ""
    env: dict[EnvName, str] = {}


class RunbooksSection(Section, frozen=True):
    dir: PathText = ""  # default: runbooks.d beside the configuration file, should there be one


class SignalSection(Section, frozen=True):
    transports: tuple[TransportText, ...] = ()  # step 1: "http://127.0.0.1:8080"
    account: str = ""
    recipient: str = ""
    approvers: tuple[Annotated[str, msgspec.Meta(extra={"form": Form.PERSON})], ...] = ()  # whose replies count


class SynapseSection(Section, frozen=True):
    transport: SynapseText = "brain_db"  # or "http://127.0.0.1:8031"
    sender: str = msgspec.field(name="from", default="helios")
    to: str = "all"


class NotifySection(Section, frozen=True):
    signal: SignalSection = SignalSection()
    synapse: SynapseSection = SynapseSection()


class EscalationSection(Section, frozen=True):
    page_healed_critical: bool = True
    undelivered_after: Span = Duration(600)  # nothing arrives over a channel for so long: said over the other
    timezone: LineText = ""  # of the times in messages: an IANA name; default: this machine's own
    host: LineText = ""  # how messages call this machine; "": they do not name it


class McpSection(Section, frozen=True):
    """Agents that use `healctl mcp`, the OpenClaw plugin or `heal --agent`."""

    trusted: bool = False  # true: their `approve` and `execute` count like a person's


class MetricsSection(Section, frozen=True):
    """`[metrics]`: what Prometheus may read. Whoever can reach the address can read it, without a password."""

    listen: ListenText = OFF  # or "127.0.0.1:9464"


class DrillSection(Section, frozen=True):
    """`[drill]`: a drill by itself; `at` or `every`, not both."""

    at: TimeText = ""  # each day, by this host's clock; "" is never
    every: Pause = Duration(0)  # 0 is never
    timeout: Annotated[Duration, msgspec.Meta(ge=0.1, le=600)] = Duration(60)  # not through by then: it has failed


class Tables(Section, frozen=True):
    """What a configuration file holds; where it came from is `places.locate`'s answer."""

    healctl: HealctlSection = HealctlSection()
    store: StoreSection = StoreSection()
    tree: TreeSection = TreeSection()
    policy: PolicySection = PolicySection()
    process: dict[TargetName, ProcessSection] = {}
    trading: dict[TargetName, TradingSection] = {}
    gateway: dict[TargetName, GatewaySection] = {}
    pipeline: dict[TargetName, PipelineSection] = {}
    fleet: FleetSection = FleetSection()
    disk: DiskSection = msgspec.field(default_factory=DiskSection)  # its home is that of whoever reads it
    memory: MemorySection = MemorySection()
    database: dict[TargetName, DatabaseSection] = {}  # and our own
    logs: dict[TargetName, LogsSection] = msgspec.field(default_factory=_usual_logs)
    cleanup: CleanupSection = CleanupSection()
    notify: NotifySection = NotifySection()
    escalation: EscalationSection = EscalationSection()
    mcp: McpSection = McpSection()
    metrics: MetricsSection = MetricsSection()
    drill: DrillSection = DrillSection()
    command: dict[TargetName, CommandSection] = {}
    runbooks: RunbooksSection = RunbooksSection()


class Config(Tables, frozen=True):
    """A whole configuration: the file's tables, and the runbooks of its directory by their ids, in their order."""

    runbook: dict[str, Runbook] = {}


class Accepted(msgspec.Struct, frozen=True):
    """A configuration as every process of one daemon takes it: in one piece, each command's program resolved once."""

    text: str
    runbooks: tuple[Runbook, ...]


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration in force (`places.locate`). Raises ConfigError with every fault that was found."""
    file = places.locate(path, env)
    return Config() if file is None else accept(places.read(file), file)


def accept(text: str, file: Path) -> Config:
    """The `text` of `file`, and the runbooks that belong to it, checked to their last step. Raises ConfigError."""
    config = parse(text, str(file))
    folder = Path(config.runbooks.dir) if config.runbooks.dir else file.absolute().parent / "runbooks.d"
    if not config.runbooks.dir and not os.path.lexists(folder):
        return config
    from remediators.files import read

    return msgspec.structs.replace(config, runbook=read(config, folder))


def accepted(path: Path) -> Config:
    """What `Accepted` in this file says, without another look at anything else. Raises ConfigError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Accepted)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    config = parse(found.text, str(path))
    return msgspec.structs.replace(config, runbook={runbook.id: runbook for runbook in found.runbooks})


def parse(text: str, source: str) -> Config:
    """`text` alone as a Config, without runbooks; `source` names it in errors."""
    from supervisor.consistency import contradictions
    from supervisor.schema import Reader, report

    reader = Reader()
    tables = reader.struct(Tables, places.toml(text, source), ())
    problems = reader.problems
    if tables is not None:
        config = Config(**msgspec.structs.asdict(tables))
        problems = contradictions(config)
        if not problems:
            return config
    raise ConfigError(report(problems, text, source))


def dirs(config: Config) -> Dirs:
    """Where state and sockets live. Creates nothing."""
    return places.dirs(config.healctl.state_dir, config.healctl.runtime_dir)


def make_state_dir(path: Path) -> None:
    """Creates it 0700. Raises ConfigError when it cannot be made, is not ours, or others may write it.

    (The runtime directory is the lock's: `supervisor.tree.lock` makes and checks it.)
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        hint = "set state_dir in [healctl] to a directory that you may write"
        raise ConfigError(f"{path} cannot be used as state_dir: {error.strerror}", hint) from error
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to user {found.st_uid}", "set state_dir in [healctl] to one of your own")
    if found.st_mode & 0o022:
        raise ConfigError(f"{path} can be written by others (mode {found.st_mode & 0o7777:04o})", f"chmod 700 {path}")
