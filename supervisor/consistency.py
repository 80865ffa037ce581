"""What no single key of a configuration can show: keys that need, exclude or contradict one another."""

from __future__ import annotations

import os
import re

from supervisor import zones
from supervisor.config import OWN_DATABASES, RESERVED, CommandSection, Config, ProcessSection, RestartSection
from supervisor.schema import Key, Problem, shown
from supervisor.targets import own_databases
from supervisor.transports import Kind, parse

_PLACEHOLDER = re.compile(r"\{(?:target|service)\}")  # a runbook's resource knows them; a command must not


def contradictions(config: Config) -> list[Problem]:
    """What no single key can show: keys that need or exclude one another."""
    problems: list[Problem] = []
    for name, section in config.process.items():
        problems += _process_contradictions(("process", name), section)
    for name, command in config.command.items():
        problems += _command_contradictions(("command", name), command)
    problems += _name_clashes(config)
    problems += _other_files(config)
    problems += _limit_contradictions(config)
    problems += _cleanup_contradictions(config)
    if config.drill.at and config.drill.every:
        problems.append(Problem(("drill", "every"), "found at, too, expected one of the two", "remove at or every"))
    if 0 < config.drill.every < 1:
        problems.append(Problem(("drill", "every"), "found less than a second, which a drill takes", "e.g. 24h"))
    signal = config.notify.signal
    if signal.transports and not signal.recipient:
        hint = 'add recipient = "+15550100" (who is paged), or remove transports'
        problems.append(Problem(("notify", "signal", "recipient"), "is missing, transports are given", hint))
    if not signal.account and any(parse(text).kind is Kind.SIGNAL_CLI for text in signal.transports):
        hint = 'add account = "+15550100" (who sends); without a daemon signal-cli must be told'
        problems.append(Problem(("notify", "signal", "account"), 'is missing, "signal-cli" is a transport', hint))
    zone = config.escalation.timezone
    if zone and not zones.known(zone):
        text = f"found {shown(zone)}, expected an IANA name that this machine knows"
        problems.append(Problem(("escalation", "timezone"), text, 'like "Europe/Berlin" or "UTC"'))
    if signal.approvers and not any(parse(text).kind.is_daemon for text in signal.transports):
        text = "are given, but no transport can receive: only signal-cli's daemon does"
        hint = 'add "http://127.0.0.1:8080" (signal-cli daemon --http) to transports, or remove approvers'
        problems.append(Problem(("notify", "signal", "approvers"), text, hint))
    tree = config.tree
    if tree.beat_within <= tree.beat:
        hint = f"a worker beats every {float(tree.beat):g} s; allow several beats to be late"
        text = f"found {float(tree.beat_within):g} s, expected more than tree.beat"
        problems.append(Problem(("tree", "beat_within"), text, hint))
    return problems


def _command_contradictions(key: Key, section: CommandSection) -> list[Problem]:
    """R11: one program, named so that nobody else can become it, and nothing that looks as if it would be filled in."""
    problems: list[Problem] = []
    program = section.argv[0]
    if not os.path.isabs(program) and (not program or "/" in program or program.startswith("-")):
        text = f"found {shown(program)}, expected the absolute path of a program, or its bare name"
        problems.append(Problem((*key, "argv"), text, "a bare name is looked up once, when the configuration is read"))
    for word in section.argv:
        if placeholder := _PLACEHOLDER.search(word):
            text = f"{placeholder[0]} stands in {shown(word)}: a command is run as it stands"
            problems.append(Problem((*key, "argv"), text, "write out what is meant; one [command.NAME] for each"))
    return problems


def _process_contradictions(key: Key, section: ProcessSection) -> list[Problem]:
    problems: list[Problem] = []
    if not (section.pid_file or section.match or section.endpoint):
        hint = "add pid_file (best), match (a regular expression for its command line) or endpoint"
        problems.append(Problem(key, "nothing tells whether it lives", hint))
    if section.restart is not None:
        problems += _restart_contradictions((*key, "restart"), section.restart)
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


def _restart_contradictions(key: Key, section: RestartSection) -> list[Problem]:
    ways = [name for name in ("argv", "systemd", "pm2") if getattr(section, name)]
    if len(ways) != 1:
        text = f"names {' and '.join(ways)}" if ways else "names no way to restart it"
        return [Problem(key, text, 'give exactly one of argv = ["..."], systemd = "unit", pm2 = "name"')]
    if section.user and not section.systemd:
        return [Problem((*key, "user"), "is true, but only a systemd unit can be a user's", "remove it")]
    words = [section.systemd or section.pm2] if ways[0] != "argv" else []
    if any(word.startswith("-") for word in words):
        return [Problem((*key, ways[0]), f'found "{words[0]}", expected a name', "a name cannot begin with '-'")]
    return []


def _name_clashes(config: Config) -> list[Problem]:
    """Target ids are unique over all tables."""
    taken: dict[str, Key] = {}
    problems: list[Problem] = []
    named: list[tuple[str, Key]] = []
    for table in ("process", "gateway", "database", "logs"):
        named += [(name, (table, name)) for name in getattr(config, table)]
    paths = {section.path for section in config.database.values()}
    for name, trading in config.trading.items():
        named += [(f"{name}-signals", ("trading", name)), (f"{name}-positions", ("trading", name))]
        if trading.trades_db and trading.trades_db not in paths:  # else it is watched under that table's name
            named.append((f"{name}-trades", ("trading", name)))
    for target_id, key in named:
        if target_id in RESERVED and (key[0] != "database" or target_id not in OWN_DATABASES):
            problems.append(
                Problem(key, f'the name "{target_id}" is a target of healctl\'s own', "choose another name")
            )
        elif target_id in taken:
            hint = f"[{'.'.join(taken[target_id])}] has it already: choose another name"
            problems.append(Problem(key, f'a second target of the name "{target_id}"', hint))
        taken.setdefault(target_id, key)
    for name, section in config.trading.items():
        if section.process and section.process not in config.process:
            hint = f"add [process.{section.process}], or remove process: then the signal is always expected"
            problems.append(Problem(("trading", name, "process"), f'there is no process "{section.process}"', hint))
    return problems


def _other_files(config: Config) -> list[Problem]:
    """Under the name of a database of our own another one would be watched, and ours by nobody."""
    return [
        Problem(("database", name, "path"), f"healctl's own {name} is {path}", "choose another name for this one")
        for name, path in own_databases(config).items()
        if name in config.database and config.database[name].path != path
    ]


def _limit_contradictions(config: Config) -> list[Problem]:
    """Of two limits the critical one lies behind the other."""
    problems: list[Problem] = []
    if config.disk.critical <= config.disk.pressure:
        text = f"found {config.disk.critical:g}, expected more than disk.pressure ({config.disk.pressure:g})"
        problems.append(Problem(("disk", "critical"), text, "e.g. pressure = 0.85, critical = 0.95"))
    if config.memory.critical >= config.memory.pressure:
        text = "is not less than memory.pressure"
        problems.append(Problem(("memory", "critical"), text, 'e.g. pressure = "512MiB", critical = "256MiB"'))
    for pattern in config.memory.protect:
        if re_matches_all(pattern):
            hint = "rb-force-gc could then end nothing: name programs, e.g. protect = ['^/usr/lib/postgresql/']"
            problems.append(Problem(("memory", "protect"), "matches every command line", hint))
    for name, section in config.gateway.items():
        if section.auto_restart and not section.restart:
            hint = 'add restart = ["/path/to/program", "argument"], or set auto_restart = false'
            problems.append(
                Problem(("gateway", name, "auto_restart"), "is true, but there is no restart command", hint)
            )
    return problems


# What no cleanup may be let loose on as a whole: the system's own folders, and all that lie above them.
_TOP = "bin boot dev etc home lib lib32 lib64 libx32 media mnt opt proc root run sbin snap srv sys usr var"
SYSTEM_FOLDERS = frozenset(_TOP.split(" "))
_SYSTEM_BELOW = frozenset({"/var/lib", "/var/log", "/var/spool", "/var/run", "/var/mail", "/var/backups", "/var/opt"})


def _cleanup_contradictions(config: Config) -> list[Problem]:
    """A place in which things are removed is a folder of its own: no system's, and no home as a whole."""
    problems: list[Problem] = []
    for field in ("tmp_dirs", "pycache_dirs"):
        for path in getattr(config.cleanup, field):
            if reason := _too_much(path, tmp=field == "tmp_dirs"):
                hint = "name the folder itself, like /tmp or ~/project/build"
                problems.append(Problem(("cleanup", field), f'found "{path}", which is {reason}', hint))
    return problems


def _too_much(path: str, *, tmp: bool) -> str:
    """Why it may not be a place for the cleanup; "" when it may."""
    plain = os.path.normpath(path).replace("//", "/")
    parts = plain.strip("/").split("/")
    if plain == "/":
        return "the whole machine"
    if plain != path.rstrip("/"):
        return "not written plainly"
    if len(parts) == 1 and parts[0] in SYSTEM_FOLDERS:
        return "a folder of the system"
    if plain in _SYSTEM_BELOW or (tmp and parts[0] in ("bin", "boot", "dev", "etc", "lib", "proc", "sys", "usr")):
        return "a folder of the system"
    home = os.path.normpath(os.path.expanduser("~"))
    if plain == home or (len(parts) == 2 and parts[0] == "home"):
        return "a home as a whole"
    return ""


def re_matches_all(pattern: str) -> bool:
    """Whether `pattern` is found in an empty text, and so in every one."""
    return re.search(pattern, "") is not None
