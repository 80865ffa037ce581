"""The configuration: TOML in, frozen structs out (DESIGN §7). Every key has a default but those marked required.

`load` never starts anything; an error names file, line, key, what was found and what was expected (exit 78). A bare
number is no duration, an unknown key is an error with a suggestion, `~` is expanded and a relative path refused.
Nothing here may write: `make_state_dir`, called by `healctl start` alone, is the one exception.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from supervisor import places
from supervisor.errors import ConfigError
from supervisor.places import Dirs
from supervisor.units import Duration as Duration
from supervisor.units import Form
from supervisor.units import Size as Size

if TYPE_CHECKING:
    from supervisor.incidents.model import Target
    from supervisor.schema import Key, Problem

PROBLEMS_MAX = 20  # shown at once; more of them would hide the first
RESERVED = frozenset({"brain-db", "system-memory", "healctl"})  # target ids of our own (DESIGN §7)

NonEmpty = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
PathText = Annotated[str, msgspec.Meta(extra={"form": Form.PATH})]
Regex = Annotated[str, msgspec.Meta(extra={"form": Form.REGEX})]
EndpointText = Annotated[str, msgspec.Meta(extra={"form": Form.ENDPOINT})]
TransportText = Annotated[str, msgspec.Meta(extra={"form": Form.TRANSPORT})]
SynapseText = Annotated[str, msgspec.Meta(extra={"form": Form.SYNAPSE})]
LogLevel = Annotated[str, msgspec.Meta(extra={"form": Form.LOG_LEVEL})]
TargetName = Annotated[str, msgspec.Meta(extra={"form": Form.TARGET_NAME})]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Pause = Annotated[Duration, msgspec.Meta(ge=0)]
Span = Annotated[Duration, msgspec.Meta(ge=0.01)]
Interval = Annotated[Duration, msgspec.Meta(ge=0.1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table."""


class HealctlSection(Section, frozen=True):
    state_dir: PathText = ""  # default: XDG state, /var/lib/healctl as root
    runtime_dir: PathText = ""  # default: XDG runtime, /run/healctl as root
    log_level: LogLevel = "info"  # debug | info | warning | error


class StoreSection(Section, frozen=True):
    brain_db: PathText = ""  # default: brain.db in state_dir
    metrics_db: PathText = ""  # default: metrics.db in state_dir


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
    dismiss_window: Span = Duration(86400)
    page_hold: Pause = Duration(60)
    verify_within: Span = Duration(30)
    settle: Pause = Duration(1)
    clear_readings: Count = 3
    clear_interval: Span = Duration(30)
    breaker_per_target: Count = 3
    breaker_total: Count = 20
    breaker_window: Span = Duration(3600)


class RestartSection(Section, frozen=True):
    argv: NonEmpty


class ProcessSection(Section, frozen=True):
    """`[process.NAME]`. One of pid_file, match, endpoint is required."""

    pid_file: PathText = ""
    match: Regex = ""  # regular expression, searched in the command line (arguments joined by one space)
    endpoint: EndpointText = ""  # http://..., tcp://host:port, unix:/path
    stop_file: PathText = ""
    interval: Interval = Duration(60)
    auto_restart: bool = False
    restart: RestartSection | None = None
    restart_cwd: PathText = ""
    restart_env: dict[str, str] = {}
    restart_output: PathText = ""  # where the service's stdout and stderr go; default: output/NAME.log in state_dir


class SignalSection(Section, frozen=True):
    transports: tuple[TransportText, ...] = ()  # step 1: "http://127.0.0.1:8080"
    account: str = ""
    recipient: str = ""


class SynapseSection(Section, frozen=True):
    transport: SynapseText = "brain_db"  # or "http://127.0.0.1:8031"
    sender: str = msgspec.field(name="from", default="helios")
    to: str = "all"


class NotifySection(Section, frozen=True):
    signal: SignalSection = SignalSection()
    synapse: SynapseSection = SynapseSection()


class EscalationSection(Section, frozen=True):
    page_healed_critical: bool = True


class Config(Section, frozen=True):
    """A whole configuration; where it came from is `places.locate`'s answer."""

    healctl: HealctlSection = HealctlSection()
    store: StoreSection = StoreSection()
    tree: TreeSection = TreeSection()
    policy: PolicySection = PolicySection()
    process: dict[TargetName, ProcessSection] = {}
    notify: NotifySection = NotifySection()
    escalation: EscalationSection = EscalationSection()


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration in force (`places.locate`). Raises ConfigError with every fault that was found."""
    file = places.locate(path, env)
    return Config() if file is None else parse(places.read(file), str(file))


def parse(text: str, source: str) -> Config:
    """`text` as a Config; `source` names it in errors."""
    from supervisor.schema import Reader

    reader = Reader()
    config = reader.struct(Config, places.toml(text, source), ())
    problems = reader.problems
    if config is not None:
        problems = _contradictions(config)
    if config is None or problems:
        raise ConfigError(_report(problems, text, source))
    return config


def _report(problems: list[Problem], text: str, source: str) -> str:
    from supervisor.schema import dotted, line_of, lines

    where = lines(text)
    at = sorted((line_of(problem.key, where), index) for index, problem in enumerate(problems))
    out = []
    for line, index in at[:PROBLEMS_MAX]:
        problem = problems[index]
        out.append(f"{source}:{line}: key {dotted(problem.key)}: {problem.text}")
        if problem.hint:
            out.append(f"  {problem.hint}")
    if len(at) > PROBLEMS_MAX:
        out.append(f"{source}: and {len(at) - PROBLEMS_MAX} more")
    return "\n".join(out)


def _contradictions(config: Config) -> list[Problem]:
    """What no single key can show: keys that need or exclude one another."""
    from supervisor.schema import Problem

    problems: list[Problem] = []
    for name, section in config.process.items():
        problems += _process_contradictions(("process", name), section)
    signal = config.notify.signal
    if signal.transports and not signal.recipient:
        hint = 'add recipient = "+15550100" (who is paged), or remove transports'
        problems.append(Problem(("notify", "signal", "recipient"), "is missing, transports are given", hint))
    tree = config.tree
    if tree.beat_within <= tree.beat:
        hint = f"a worker beats every {float(tree.beat):g} s; allow several beats to be late"
        text = f"found {float(tree.beat_within):g} s, expected more than tree.beat"
        problems.append(Problem(("tree", "beat_within"), text, hint))
    return problems


def _process_contradictions(key: Key, section: ProcessSection) -> list[Problem]:
    from supervisor.schema import Problem

    problems: list[Problem] = []
    if key[-1] in RESERVED:
        problems.append(Problem(key, f'the name "{key[-1]}" is a target of healctl\'s own', "choose another name"))
    if not (section.pid_file or section.match or section.endpoint):
        hint = "add pid_file (best), match (a regular expression for its command line) or endpoint"
        problems.append(Problem(key, "nothing tells whether it lives", hint))
    if section.auto_restart and section.restart is None:
        hint = 'add restart = { argv = ["/path/to/program", "argument"] }, or set auto_restart = false'
        problems.append(Problem((*key, "auto_restart"), "is true, but there is no restart recipe", hint))
    elif section.auto_restart and not (section.pid_file or section.match):
        text = "is true, but an endpoint alone cannot tell that nothing is running"
        hint = "add pid_file or match: starting a service that hangs would run it twice"
        problems.append(Problem((*key, "auto_restart"), text, hint))
    if section.match and re_matches_all(section.match):
        hint = "name the program and its script, e.g. match = 'python3? .*/worker\\.py'"
        problems.append(Problem((*key, "match"), "matches every command line", hint))
    return problems


def re_matches_all(pattern: str) -> bool:
    """Whether `pattern` is found in an empty text, and so in every one."""
    import re

    return re.search(pattern, "") is not None


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


def targets(config: Config) -> tuple[Target, ...]:
    """What the engine watches, in the order of the file."""
    from supervisor.incidents.model import Recipe, Target

    out = []
    for name, section in config.process.items():
        recipe = None
        if section.restart is not None:
            recipe = Recipe(
                argv=section.restart.argv,
                cwd=section.restart_cwd,
                env=tuple(sorted(section.restart_env.items())),
                output=section.restart_output,
            )
        out.append(
            Target(
                target_id=name,
                family="process",
                auto_restart=section.auto_restart,
                recipe=recipe,
                pid_file=section.pid_file,
                match=section.match,
            )
        )
    return tuple(out)
