"""The configuration: TOML in, frozen structs out (DESIGN §7). Every key has a default but those marked required.

`load` never starts anything; an error names file, line, key, what was found and what was expected (exit 78).
"""

from __future__ import annotations

from typing import Annotated

import msgspec


class Duration(float):
    """Seconds; written in TOML as a string with a unit: "250ms", "60s", "5m", "24h", "7d"."""


class Size(int):
    """Bytes; written in TOML as a string with a unit: "512MiB", "100MB"."""


NonEmpty = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table."""


class HealctlSection(Section, frozen=True):
    state_dir: str = ""  # default: XDG state, /var/lib/healctl as root
    runtime_dir: str = ""  # default: XDG runtime, /run/healctl as root
    log_level: str = "info"  # debug | info | warning | error


class StoreSection(Section, frozen=True):
    brain_db: str = ""  # default: brain.db in state_dir
    metrics_db: str = ""  # default: metrics.db in state_dir


class TreeSection(Section, frozen=True):
    core_intensity: int = 10  # failures of store or healer within the period: then healctl exits 70
    core_period: Duration = Duration(60)
    hands_intensity: int = 10
    hands_period: Duration = Duration(60)
    probes_intensity: int = 10  # counted per family
    probes_period: Duration = Duration(60)
    quarantine_retry: Duration = Duration(300)  # a quarantined worker is tried again this often
    backoff_first: Duration = Duration(0)  # before the first restart
    backoff_base: Duration = Duration(0.1)  # before the second, doubling
    backoff_max: Duration = Duration(3)
    backoff_reset: Duration = Duration(60)  # this long READY: the next failure counts as the first
    ready_within: Duration = Duration(10)
    beat: Duration = Duration(5)
    beat_within: Duration = Duration(20)  # no beat for this long: the worker hangs
    progress_within: Duration = Duration(120)  # its oldest work is older than this and nothing gets done: it hangs
    abort_grace: Duration = Duration(1)  # between SIGABRT (stacks go to the log) and SIGKILL
    shutdown: Duration = Duration(5)  # between the order to stop and SIGKILL


class PolicySection(Section, frozen=True):
    confidence_auto_execute: float = 0.8
    auto_execute: tuple[str, ...] = ("rb-rotate-logs", "rb-gc-trigger")  # NFR-001's whitelist
    dismiss_window: Duration = Duration(86400)
    page_hold: Duration = Duration(60)
    verify_within: Duration = Duration(30)
    settle: Duration = Duration(1)
    clear_readings: int = 3
    clear_interval: Duration = Duration(30)
    breaker_per_target: int = 3
    breaker_total: int = 20
    breaker_window: Duration = Duration(3600)


class RestartSection(Section, frozen=True):
    argv: NonEmpty


class ProcessSection(Section, frozen=True):
    """`[process.NAME]`. One of pid_file, match, endpoint is required."""

    pid_file: str = ""
    match: str = ""  # regular expression, searched in the command line (arguments joined by one space)
    endpoint: str = ""  # http://..., tcp://host:port, unix:/path
    stop_file: str = ""
    interval: Duration = Duration(60)
    auto_restart: bool = False
    restart: RestartSection | None = None
    restart_cwd: str = ""
    restart_env: dict[str, str] = {}
    restart_output: str = ""  # where the service's stdout and stderr go; default: output/NAME.log in state_dir


class SignalSection(Section, frozen=True):
    transports: tuple[str, ...] = ()  # step 1: "http://127.0.0.1:8080"
    account: str = ""
    recipient: str = ""


class SynapseSection(Section, frozen=True):
    transport: str = "brain_db"  # or "http://127.0.0.1:8031"
    sender: str = msgspec.field(name="from", default="helios")
    to: str = "all"


class NotifySection(Section, frozen=True):
    signal: SignalSection = SignalSection()
    synapse: SynapseSection = SynapseSection()


class EscalationSection(Section, frozen=True):
    page_healed_critical: bool = True


class Config(Section, frozen=True):
    """A whole configuration. `source` is the file it came from, empty for the built-in defaults."""

    healctl: HealctlSection = HealctlSection()
    store: StoreSection = StoreSection()
    tree: TreeSection = TreeSection()
    policy: PolicySection = PolicySection()
    process: dict[str, ProcessSection] = {}
    notify: NotifySection = NotifySection()
    escalation: EscalationSection = EscalationSection()
