"""The configuration: TOML in, frozen structs out (DESIGN §7). Every key has a default but those marked required.

`load` never starts anything; an error names file, line, key, what was found and what was expected (exit 78). A bare
number is no duration, an unknown key is an error with a suggestion, `~` is expanded and a relative path refused. The
operator's own runbooks are a part of it: what is in force is so as a whole (`Accepted`). Nothing here may write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from supervisor import keys, places
from supervisor.errors import ConfigError
from supervisor.incidents.model import Effect, Runbook
from supervisor.places import Dirs
from supervisor.plugins import Piece
from supervisor.units import OFF, Form, LogFormat
from supervisor.units import Duration as Duration
from supervisor.units import Size as Size

# Target ids of our own (DESIGN §7); a [database.NAME] may configure the first three.
OWN_DATABASES = ("brain-db", "metrics-db", "ledger")
MEMORY_TARGET = "system-memory"
RESERVED = frozenset({*OWN_DATABASES, MEMORY_TARGET, "healctl"})


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table."""


class HealctlSection(Section, frozen=True):
    state_dir: keys.PathText = ""  # default: XDG state, /var/lib/healctl as root
    runtime_dir: keys.PathText = ""  # default: XDG runtime, /run/healctl as root
    log_level: keys.LogLevel = "info"  # debug | info | warning | error
    log_format: LogFormat = LogFormat.AUTO
    plugins: tuple[keys.LineText, ...] = ()  # distributions whose probes, steps and channels are loaded; no other is
    record: Size = Size(0)  # so much of what the engine is given and decides is kept, for `healctl replay`; 0: nothing


class StoreSection(Section, frozen=True):
    brain_db: keys.PathText = ""  # default: brain.db in state_dir
    metrics_db: keys.PathText = ""  # default: metrics.db in state_dir
    ledger_max: Size = Size(1024**3)  # reported when four fifths of it are used; then less is kept
    keep: keys.Keep = Duration(90 * 86400)  # what was over for longer goes to archive-YYYY.db in state_dir


class TreeSection(Section, frozen=True):
    core_intensity: keys.Count = 10  # failures of store or healer within the period: then healctl exits 70
    core_period: keys.Span = Duration(60)
    hands_intensity: keys.Count = 10
    hands_period: keys.Span = Duration(60)
    probes_intensity: keys.Count = 10  # counted per family
    probes_period: keys.Span = Duration(60)
    quarantine_retry: keys.Span = Duration(300)  # a quarantined worker is tried again this often
    backoff_first: keys.Pause = Duration(0)  # before the first restart
    backoff_base: keys.Pause = Duration(0.1)  # before the second, doubling
    backoff_max: keys.Pause = Duration(3)
    backoff_reset: keys.Span = Duration(60)  # this long READY: the next failure counts as the first
    ready_within: keys.Span = Duration(10)
    beat: keys.Span = Duration(5)
    beat_within: keys.Span = Duration(20)  # no beat for this long: the worker hangs
    progress_within: keys.Span = Duration(120)  # its oldest work is older than this and nothing gets done: it hangs
    abort_grace: keys.Span = Duration(1)  # between SIGABRT (stacks go to the log) and SIGKILL
    shutdown: keys.Span = Duration(5)  # between the order to stop and SIGKILL


class PolicySection(Section, frozen=True):
    confidence_auto_execute: keys.Share = 0.8
    auto_execute: tuple[str, ...] = ("rb-rotate-logs", "rb-gc-trigger")  # NFR-001's whitelist
    dry_run_graduation_count: keys.Count = 3  # R4: dry runs in a row that predict the cure
    dismiss_window: keys.Span = Duration(86400)
    page_hold: keys.Pause = Duration(60)
    verify_within: keys.Span = Duration(30)
    settle: keys.Pause = Duration(1)
    clear_readings: keys.Count = 3
    clear_interval: keys.Span = Duration(30)
    act_after: keys.Pause = Duration(2)  # R8: a service of systemd or PM2 is left to its manager for so long
    breaker_per_target: keys.Count = 3
    breaker_total: keys.Count = 20
    breaker_window: keys.Span = Duration(3600)


class RestartSection(Section, frozen=True):
    """How a service is started again: exactly one of argv, systemd and pm2."""

    argv: tuple[keys.Word, ...] = ()
    systemd: str = ""  # the name of a unit
    user: bool = False  # a unit of the user manager
    pm2: str = ""  # the name of a PM2 process


class ProcessSection(Section, frozen=True):
    """`[process.NAME]`. One of pid_file, match, endpoint is required."""

    pid_file: keys.PathText = ""
    match: keys.Regex = ""  # regular expression, searched in the command line (arguments joined by one space)
    endpoint: keys.EndpointText = ""  # http://..., tcp://host:port, unix:/path
    stop_file: keys.PathText = ""
    interval: keys.Interval = Duration(60)
    critical: bool = True  # rb-force-gc never ends it, nor what it has started
    auto_restart: bool = False
    restart: RestartSection | None = None
    restart_cwd: keys.PathText = ""
    restart_env: dict[str, str] = {}
    restart_output: keys.PathText = ""  # where stdout and stderr go; default: output/NAME.log in state_dir


class TradingSection(Section, frozen=True):
    """`[trading.NAME]`: a live signal file, and the trades that should agree with it."""

    signal_file: keys.PathText
    max_age: keys.Span = Duration(300)
    timestamp_keys: keys.NonEmpty = ("updated_at", "timestamp")
    trades_db: keys.PathText = ""
    table: keys.TableText = "trades"
    process: str = ""  # the [process.NAME] that should be writing the signal
    interval: keys.Interval = Duration(60)


class GatewaySection(Section, frozen=True):
    """`[gateway.NAME]`."""

    status: keys.Argv  # the command that tells its state as JSON; it runs in the background (R9)
    restart: tuple[keys.Word, ...] = ()
    restart_timeout: keys.RestartTime = Duration(90)  # it takes 18 to 36 s, or twice that; then it is ended
    health_url: keys.HttpText = ""
    auto_restart: bool = False
    failures: keys.Count = 2  # in a row, before it counts as unresponsive
    interval: keys.Interval = Duration(120)


class PipelineSection(Section, frozen=True):
    """`[pipeline.NAME]`: the tasks of a pipeline's state file."""

    state_file: keys.PathText
    stage_done: keys.Argv  # the command that marks a stage; stage, task, result and message are appended (R11)
    stuck_after: keys.Span = Duration(3600)
    interval: keys.Interval = Duration(120)


class FleetHost(Section, frozen=True):
    """`[fleet.hosts.NAME]`."""

    address: str
    port: keys.Port = 22


class FleetSection(Section, frozen=True):
    """`[fleet]`: hosts that must be reachable over SSH."""

    hosts_file: keys.PathText = ""  # {"hosts": [{"name", "host"}]} or the bare list (SITE.md); read when it changes
    interval: keys.Interval = Duration(300)
    timeout: Annotated[Duration, msgspec.Meta(ge=0.1, le=5)] = Duration(5)
    retries: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3  # before somebody is told
    retry_interval: Annotated[Duration, msgspec.Meta(ge=0.1, le=45)] = Duration(30)
    user: str = ""  # default: who runs healctl
    identity_file: keys.PathText = ""  # default: the agent, then the usual keys
    known_hosts: keys.PathText = ""  # default: ~/.ssh/known_hosts
    hosts: dict[keys.TargetName, FleetHost] = {}


def _usual_mounts() -> tuple[str, ...]:
    return ("/", os.path.expanduser("~"))


class DiskSection(Section, frozen=True):
    mounts: tuple[keys.PathText, ...] = msgspec.field(default_factory=_usual_mounts)  # always read; [] turns it off
    discover: bool = True  # and every other real file system that can be written
    pressure: keys.Share = 0.85
    critical: keys.Share = 0.95
    interval: keys.Interval = Duration(600)


class MemorySection(Section, frozen=True):
    pressure: Size = Size(512 * 1024**2)
    critical: Size = Size(256 * 1024**2)
    interval: keys.Interval = Duration(300)
    protect: tuple[keys.Regex, ...] = ()  # rb-force-gc never ends what has one of these in its command line


class DatabaseSection(Section, frozen=True):
    """`[database.NAME]`: an SQLite file whose integrity is checked in the background (R9)."""

    path: keys.PathText
    interval: keys.Interval = Duration(900)


class LogsSection(Section, frozen=True):
    """`[logs.NAME]`."""

    paths: Annotated[tuple[keys.PathText, ...], msgspec.Meta(min_length=1)]  # globs
    max_size: Size = Size(100 * 1024**2)
    archive_after: keys.Span = Duration(7 * 86400)  # FR-003: rb-rotate-logs archives what was not written for longer
    interval: keys.Interval = Duration(1800)


class CleanupSection(Section, frozen=True):
    """`[cleanup]`: the only places where rb-emergency-cleanup removes anything. Empty: it removes nothing."""

    tmp_dirs: tuple[keys.PathText, ...] = ()  # what lies below them and is older
    pycache_dirs: tuple[keys.PathText, ...] = ()  # below them, what is older in folders called __pycache__
    older_than: Annotated[Duration, msgspec.Meta(ge=60)] = Duration(86400)


def _usual_logs() -> dict[keys.TargetName, LogsSection]:
    return {"log-files": LogsSection(paths=("/var/log/*", "/var/log/*/*"))}


class CommandSection(Section, frozen=True):
    """`[command.NAME]`: a program that a step of kind `run-command` in an operator's own runbook may run (R11)."""

    argv: keys.Argv  # as it stands: nothing is ever put into it
    effect: Effect  # what it does to the system, as its owner declares it (R3)
    description: keys.LineText = ""
    timeout: keys.StepSpan = Duration(30)
    cwd: keys.PathText = ""
    env: dict[keys.EnvName, str] = {}


class RunbooksSection(Section, frozen=True):
    dir: keys.PathText = ""  # default: runbooks.d beside the configuration file, should there be one


class SignalSection(Section, frozen=True):
    transports: tuple[keys.TransportText, ...] = ()  # step 1: "http://127.0.0.1:8080"
    account: str = ""
    recipient: str = ""
    approvers: tuple[Annotated[str, msgspec.Meta(extra={"form": Form.PERSON})], ...] = ()  # whose replies count


class SynapseSection(Section, frozen=True):
    transport: keys.SynapseText = "brain_db"  # or "http://127.0.0.1:8031"
    sender: str = msgspec.field(name="from", default="helios")
    to: str = "all"


class ChannelSection(Section, frozen=True):
    """`[notify.channel.NAME]`: what a plugin's channel is told."""

    from_tier: Annotated[int, msgspec.Meta(ge=1, le=3)] = 1  # R1: 1 everything that Synapse is told, 3 pages alone


class NotifySection(Section, frozen=True):
    signal: SignalSection = SignalSection()
    synapse: SynapseSection = SynapseSection()
    channel: dict[keys.TargetName, ChannelSection] = {}  # by the name of a plugin's channel


class EscalationSection(Section, frozen=True):
    page_healed_critical: bool = True
    undelivered_after: keys.Span = Duration(600)  # nothing arrives over a channel for so long: said over the other
    timezone: keys.LineText = ""  # of the times in messages: an IANA name; default: this machine's own
    host: keys.LineText = ""  # how messages call this machine; "": they do not name it
    quiet_hours: Annotated[str, msgspec.Meta(extra={"form": Form.QUIET})] = OFF  # or "22:00-07:00", local time
    dead_man_url: keys.PingText = ""  # pinged while the engine goes round; a secret
    dead_man_every: keys.Interval = Duration(300)


class McpSection(Section, frozen=True):
    """Agents that use `healctl mcp`, the OpenClaw plugin or `heal --agent`."""

    trusted: bool = False  # true: their `approve` and `execute` count like a person's


class MetricsSection(Section, frozen=True):
    """`[metrics]`: what Prometheus may read. Whoever can reach the address can read it, without a password."""

    listen: keys.ListenText = OFF  # or "127.0.0.1:9464"


class DrillSection(Section, frozen=True):
    """`[drill]`: a drill by itself; `at` or `every`, not both."""

    at: keys.TimeText = ""  # each day, by this host's clock; "" is never
    every: keys.Pause = Duration(0)  # 0 is never
    timeout: Annotated[Duration, msgspec.Meta(ge=0.1, le=600)] = Duration(60)  # not through by then: it has failed


class Tables(Section, frozen=True):
    """What a configuration file holds; where it came from is `places.locate`'s answer."""

    healctl: HealctlSection = HealctlSection()
    store: StoreSection = StoreSection()
    tree: TreeSection = TreeSection()
    policy: PolicySection = PolicySection()
    process: dict[keys.TargetName, ProcessSection] = {}
    trading: dict[keys.TargetName, TradingSection] = {}
    gateway: dict[keys.TargetName, GatewaySection] = {}
    pipeline: dict[keys.TargetName, PipelineSection] = {}
    fleet: FleetSection = FleetSection()
    disk: DiskSection = msgspec.field(default_factory=DiskSection)  # its home is that of whoever reads it
    memory: MemorySection = MemorySection()
    database: dict[keys.TargetName, DatabaseSection] = {}  # and our own
    logs: dict[keys.TargetName, LogsSection] = msgspec.field(default_factory=_usual_logs)
    cleanup: CleanupSection = CleanupSection()
    notify: NotifySection = NotifySection()
    escalation: EscalationSection = EscalationSection()
    mcp: McpSection = McpSection()
    metrics: MetricsSection = MetricsSection()
    drill: DrillSection = DrillSection()
    command: dict[keys.TargetName, CommandSection] = {}
    runbooks: RunbooksSection = RunbooksSection()
    plugin: dict[keys.TargetName, dict[str, Any]] = {}  # what a piece of a plugin is to know, which knows the keys


class Config(Tables, frozen=True):
    """A whole configuration: the file's tables, the runbooks of its directory by their ids, in their order, and what
    the plugins bring, by name."""

    runbook: dict[str, Runbook] = {}
    piece: dict[str, Piece] = {}


class Accepted(msgspec.Struct, frozen=True):
    """A configuration as every process of one daemon takes it: in one piece, each command's program resolved once."""

    text: str
    runbooks: tuple[Runbook, ...]
    pieces: tuple[Piece, ...] = ()


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration in force (`places.locate`). Raises ConfigError with every fault that was found."""
    file = places.locate(path, env)
    return Config() if file is None else accept(places.read(file), file)


def accept(text: str, file: Path) -> Config:
    """The `text` of `file`, the plugins that it names, and the runbooks that belong to it, checked to their last step.
    Raises ConfigError."""
    config = parse(text, str(file))
    if config.healctl.plugins:
        from supervisor.examining import examine

        return _put_together(config, examine(text, file.absolute()))
    return with_runbooks(config, file)


def with_runbooks(config: Config, file: Path) -> Config:
    """And the runbooks that belong to it. Raises ConfigError."""
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
    return _put_together(parse(found.text, str(path)), found)


def _put_together(config: Config, found: Accepted) -> Config:
    runbooks = {runbook.id: runbook for runbook in found.runbooks}
    return msgspec.structs.replace(config, runbook=runbooks, piece={piece.name: piece for piece in found.pieces})


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
