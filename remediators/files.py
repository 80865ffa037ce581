"""An operator's own runbooks: TOML files beside the configuration, to data over registered kinds (FR-003).

They are trusted with what the steps do, so that the directory and every file must be ours or root's and nobody else's
to write, and no link is followed. Every fault of every file is told at once, each with its line. Nothing here starts or
changes anything, and no text of a file ever becomes a part of a command: a step names a declared one.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from remediators import foreign, registry
from remediators.command import clean_environment
from remediators.foreign import Foreign
from remediators.run_command import RunCommand
from remediators.runbooks import RUNBOOKS
from supervisor import places
from supervisor.config import CommandSection, Config, Section
from supervisor.errors import ConfigError, HealError
from supervisor.incidents.model import SHIPPED, AnomalyType, Effect, ParamValue, Recipe, Runbook, StepSpec
from supervisor.incidents.world import OPEN_FAMILIES, open_family
from supervisor.keys import LineText, StepSpan
from supervisor.plugins import Part, Piece, told
from supervisor.schema import Key, Problem, Reader, near, report, shown
from supervisor.targets import open_families, targets
from supervisor.units import Duration

FILES_MAX = 200
FILE_BYTES_MAX = 64 * 1024
TOTAL_MAX = 2 * 1024 * 1024  # of all together: a reload must be over within seconds, a decision fit into a message
BAD_FILES_MAX = 20  # shown at once
LIST_MAX = 100
NUMBER_MAX = 2**53
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.toml")
# What can be wrong with our own parts: no runbook of anybody's can act on those.
_HOUSE = frozenset(list(AnomalyType)[list(AnomalyType).index(AnomalyType.WORKER_QUARANTINED) :])
_DEFAULT_RESOURCE = "service:{service}"

RunbookId = Annotated[
    str, msgspec.Meta(pattern="rb-[a-z0-9-]{1,60}", description='an id like "rb-clear-cache", of a-z, 0-9 and "-"')
]
StepId = Annotated[str, msgspec.Meta(pattern="[a-z0-9-]{0,60}", description="an id of a-z, 0-9 and '-'")]
Resource = Annotated[
    LineText,
    msgspec.Meta(
        pattern=r"(?:[a-z][a-z0-9-]*:(?:\{target\}|\{service\}|[^{}])+)?",
        description='what is locked, like "tree:/srv/cache", "service:{service}" or "disk:{target}"',
    ),
]
Lines = Annotated[tuple[LineText, ...], msgspec.Meta(max_length=LIST_MAX)]


class StepTable(Section, frozen=True):
    """`[[step]]`. What is not given is the kind's, or the command's."""

    kind: LineText
    id: StepId = ""  # default: the kind
    command: LineText = ""  # of a run-command: its [command.NAME]
    effect: Effect | None = None
    timeout: StepSpan | None = None
    idempotent: bool = False
    params: dict[str, Any] = msgspec.field(default_factory=dict)


class RunbookTable(Section, frozen=True):
    """One file."""

    id: RunbookId
    label: LineText
    step: Annotated[tuple[StepTable, ...], msgspec.Meta(min_length=1, max_length=registry.STEPS_MAX)]
    applies_to: Annotated[tuple[AnomalyType, ...], msgspec.Meta(max_length=LIST_MAX)] = ()
    targets: Lines = ()
    before: LineText = ""
    resource: Resource = ""  # default: what the shipped runbook for the same anomaly locks
    author: LineText = ""  # default: file:NAME
    verifies: bool = True
    summary: bool = False


def read(config: Config, folder: Path) -> dict[str, Runbook]:
    """The runbooks of `folder` by id, in the order of their files. Raises ConfigError with every fault."""
    found: dict[str, Runbook] = {}
    origin: dict[str, str] = {}
    texts, bad = _texts(folder)
    for name, text in texts.items():
        try:
            runbook = _runbook(text, folder, name, config, origin)
        except ConfigError as error:
            bad.append(str(error))
        else:
            found[runbook.id] = runbook
            origin[runbook.id] = name
    if bad:
        more = [f"{folder}: and {len(bad) - BAD_FILES_MAX} more files"] if len(bad) > BAD_FILES_MAX else []
        raise ConfigError("\n".join([*bad[:BAD_FILES_MAX], *more]))
    total = sum(_size(runbook) for runbook in found.values())
    if total > TOTAL_MAX:
        raise ConfigError(
            f"{folder}: {total} bytes in all its runbooks and their commands, expected at most {TOTAL_MAX}"
        )
    return found


def _size(runbook: Runbook) -> int:
    """What it adds to the messages that carry it; a command counts wherever it is named."""
    return len(msgspec.json.encode(runbook))


# --- files ---------------------------------------------------------------------------------------------------------


def _texts(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Each file's text by its name, and what is wrong with those that have none. Raises ConfigError for the folder."""
    texts: dict[str, str] = {}
    bad: list[str] = []
    directory = _open_folder(folder)
    try:
        for name in _names(directory, folder):
            try:
                texts[name] = _text(directory, folder, name)
            except ConfigError as error:
                bad.append(str(error))
    finally:
        os.close(directory)
    total = sum(len(text) for text in texts.values())
    if total > TOTAL_MAX:
        raise ConfigError(f"{folder}: {total} characters in all its files, expected at most {TOTAL_MAX}")
    return texts, bad


def _open_folder(folder: Path) -> int:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        why = "it is a symbolic link" if folder.is_symlink() else error.strerror
        hint = "see dir in [runbooks]: a directory of files *.toml, one runbook in each"
        raise ConfigError(f"{folder}: cannot be read as a directory of runbooks: {why}", hint) from error
    try:
        _refuse_others(str(folder), os.fstat(directory))
    except ConfigError:
        os.close(directory)
        raise
    return directory


def _refuse_others(path: str, found: os.stat_result) -> None:
    """Raises ConfigError when somebody else could have written it."""
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: belongs to user {found.st_uid}", "runbooks must be your own, or root's: chown it")
    if found.st_mode & OTHERS_WRITE:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise ConfigError(f"{path}: can be written by others (mode {mode})", f"chmod go-w {path}")


def _names(directory: int, folder: Path) -> list[str]:
    names = sorted(name for name in os.listdir(directory) if name.endswith(".toml") and not name.startswith("."))
    if len(names) > FILES_MAX:
        raise ConfigError(f"{folder}: {len(names)} runbooks, expected at most {FILES_MAX}")
    return names


def _text(directory: int, folder: Path, name: str) -> str:
    path = f"{folder}/{name}"
    if not _FILE_NAME.fullmatch(name):
        hint = "name it with letters, digits, '.', '_' and '-', ending in .toml"
        raise ConfigError(f"{folder}: found {shown(name)}, expected the name of a file", hint)
    hint = "a runbook is a file of its own, which you can read"
    try:
        # Without waiting: a FIFO in its place would keep us for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with open(name, "rb", opener=lambda file, _: os.open(file, flags, dir_fd=directory)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{path}: is not a regular file", hint)
            _refuse_others(path, found)
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        why = "it is a symbolic link" if os.path.islink(path) else error.strerror
        raise ConfigError(f"{path}: cannot be read: {why}", hint) from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: expected at most {FILE_BYTES_MAX} bytes")
    return places.decoded(raw, path)


# --- one file ------------------------------------------------------------------------------------------------------


def _runbook(text: str, folder: Path, name: str, config: Config, origin: dict[str, str]) -> Runbook:
    source = f"{folder}/{name}"
    reader = Reader()
    table = reader.struct(RunbookTable, places.toml(text, source), ())
    problems = reader.problems
    if table is not None:
        steps = [
            _step(table_of, ("step", str(number)), config, problems) for number, table_of in enumerate(table.step, 1)
        ]
        runbook = Runbook(
            id=table.id,
            label=table.label,
            applies_to=table.applies_to,
            steps=tuple(steps),
            resource=table.resource or _resource(table.applies_to),
            summary=table.summary,
            verifies=table.verifies and bool(table.applies_to),  # else no probe could ever agree
            author=table.author or f"file:{name}",
            targets=tuple(sorted(set(table.targets))),
            before=table.before,
        )
        problems += [*_contradictions(table, config, origin), *_new(registry.faults(runbook), problems)]
        if (size := _size(runbook)) > FILE_BYTES_MAX:
            said = f"is {size} bytes with the commands that it names, expected at most {FILE_BYTES_MAX}"
            problems.append(Problem(("step",), said, "move what is long into a script"))
        if not problems:
            return runbook
    raise ConfigError(report(problems, text, source))


def _new(found: Iterator[Problem], known: list[Problem]) -> Iterator[Problem]:
    """What follows from a fault that is told already is not told again."""
    keys = {problem.key for problem in known}
    return (problem for problem in found if not any(problem.key[: len(key)] == key for key in keys))


def _resource(applies_to: tuple[AnomalyType, ...]) -> str:
    """What the shipped runbook for the same anomaly locks: then the two never run at once."""
    same = (shipped.resource for shipped in RUNBOOKS if set(shipped.applies_to) & set(applies_to))
    return next(same, _DEFAULT_RESOURCE)


def _step(table: StepTable, key: Key, config: Config, problems: list[Problem]) -> StepSpec:
    """The step as data; what is wrong with it is added to `problems`."""
    kind = registry.KINDS.get(table.kind)
    least, timeout, params = kind.effect if kind is not None else Effect.DESTROY, Duration(30), table.params
    piece = config.piece.get(table.kind)
    if kind is Foreign:
        hint = "name the step itself, as its plugin calls it"
        problems.append(Problem((*key, "kind"), f"{table.kind} is what every step of a plugin is", hint))
    elif piece is not None and piece.part is Part.STEP:
        return _foreign(table, piece, key, config, problems)
    if kind is RunCommand:
        section = _command(table, key, config, problems)
        if section is not None:
            least, timeout, params = section.effect, section.timeout, _params_of(table.command, section, key, problems)
    elif table.command:
        hint = 'kind = "run-command" runs a declared command'
        problems.append(Problem((*key, "command"), f"a {shown(table.kind)} step has no command", hint))
    return StepSpec(
        step_id=table.id or table.kind,
        kind=table.kind,
        effect=table.effect or least,
        idempotent=table.idempotent,
        timeout_s=float(table.timeout if table.timeout is not None else timeout),
        params=tuple(sorted((name, _param(value, (*key, "params", name), problems)) for name, value in params.items())),
    )


def _foreign(table: StepTable, piece: Piece, key: Key, config: Config, problems: list[Problem]) -> StepSpec:
    """A plugin's step: its kind is what all of them are, and which one it is stands in its parameters."""
    given = {name: _param(value, (*key, "params", name), problems) for name, value in table.params.items()}
    least = Effect.DESTROY
    params: dict[str, Any] = {}
    try:
        least, params = foreign.params_of(piece, given, config)
    except HealError as error:
        problems.append(Problem((*key, "params"), error.message, error.hint))
    except Exception as error:  # noqa: BLE001 - its code is the plugin's; it is told as a fault of the file
        problems.append(Problem((*key, "params"), f"{piece.words}: {told(error)}"))
    return StepSpec(
        step_id=table.id or table.kind,
        kind=Foreign.kind,
        effect=table.effect or least,
        idempotent=table.idempotent,
        timeout_s=float(table.timeout if table.timeout is not None else Duration(30)),
        params=tuple(sorted(params.items())),
    )


def _command(table: StepTable, key: Key, config: Config, problems: list[Problem]) -> CommandSection | None:
    if table.params:
        hint = "a command is run as [command.NAME] declares it; nothing is put into it"
        problems.append(Problem((*key, "params"), "a run-command step has no parameters", hint))
    section = config.command.get(table.command)
    if section is None:
        text = f"there is no command {shown(table.command)}" if table.command else "is missing"
        hint = (
            near(table.command, config.command) or "add [command.NAME] with argv and effect to the configuration file"
        )
        problems.append(Problem((*key, "command"), text, hint))
    return section


def _params_of(name: str, section: CommandSection, key: Key, problems: list[Problem]) -> dict[str, Any]:
    """The whole command, its program found: what was approved is what runs, whatever PATH is later."""
    program, *words = section.argv
    if not os.path.isabs(program):
        path = clean_environment(Recipe(section.argv))["PATH"]
        found = shutil.which(program, path=path)
        if found is None or not os.path.isabs(found):
            text = f"its program {shown(program)} is not in {path}"
            problems.append(Problem((*key, "command"), text, f"give the whole path in argv of [command.{name}]"))
        program = found or program
    env = [f"{variable}={value}" for variable, value in sorted(section.env.items())]
    params: dict[str, Any] = {"command": name, "argv": [program, *words], "effect": str(section.effect)}
    more = {"description": section.description, "cwd": section.cwd, "env": env}
    return params | {word: value for word, value in more.items() if value}


def _param(value: object, key: Key, problems: list[Problem]) -> ParamValue:
    """TOML's value as a step's; the kind says later whether it is the right one."""
    if isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value):
        return tuple(value)
    if isinstance(value, str) and "\0" not in value:
        return value
    if isinstance(value, int | float) and abs(value) < NUMBER_MAX:  # not nan either, which no JSON can hold
        return value
    text = f"found {shown(value)}, expected a string, a number, true or false, or a list of strings"
    problems.append(Problem(key, text))
    return ""


def _contradictions(table: RunbookTable, config: Config, origin: dict[str, str]) -> Iterator[Problem]:
    """What no single key of the file can show."""
    shipped = {runbook.id: runbook for runbook in RUNBOOKS}
    if table.id in shipped:
        hint = f'choose another id; before = "{table.id}" has yours tried first'
        yield Problem(("id",), f"{table.id} comes with healctl and cannot be replaced", hint)
    elif table.id in origin:
        yield Problem(("id",), f'a second runbook "{table.id}"', f"{origin[table.id]} has that id: choose another")
    for anomaly in table.applies_to:
        if anomaly in _HOUSE:
            hint = "it is about healctl's own parts, on which no runbook can act"
            yield Problem(
                ("applies_to",), f"found {shown(str(anomaly))}, expected what can be wrong with a target", hint
            )
    found = {anomaly for piece in config.piece.values() for anomaly in piece.anomalies}
    for anomaly in table.applies_to:
        if "." in anomaly and anomaly not in found:
            hint = near(anomaly, found) or "see healctl check for what the plugins that are named can find"
            yield Problem(("applies_to",), f"no plugin finds {shown(str(anomaly))}", hint)
    if table.id in config.policy.auto_execute and any(step.kind in config.piece for step in table.step):
        hint = f"take it out of auto_execute in [policy], and approve it: healctl heal approve {table.id}"
        yield Problem(("id",), "a plugin's step never runs by the whitelist", hint)
    if table.author.startswith("file:") or table.author.casefold() == SHIPPED:
        yield Problem(("author",), f"found {shown(table.author)}, expected who wrote it", "or remove it")
    if table.before:
        yield from _contradictions_of_place(table, shipped)
    known = {target.target_id for target in targets(config)}
    found_by_themselves = {*OPEN_FAMILIES.values(), *open_families(config)}
    for name in table.targets:
        if name not in known and open_family(name) not in found_by_themselves:
            yield Problem(("targets",), f"there is no target {shown(name)}", near(name, known) or "see healctl check")


def _contradictions_of_place(table: RunbookTable, shipped: dict[str, Runbook]) -> Iterator[Problem]:
    first = shipped.get(table.before)
    if first is None:
        hint = near(table.before, shipped) or f"shipped: {', '.join(shipped)}"
        yield Problem(("before",), f"no shipped runbook has the id {shown(table.before)}", hint)
        return
    if not set(first.applies_to) & set(table.applies_to):
        text = f"{first.id} is for {', '.join(first.applies_to) or 'no anomaly'}, this one is not"
        yield Problem(("before",), text, "remove before: they never meet")
    for behind in RUNBOOKS[RUNBOOKS.index(first) :]:
        protects = all(step.effect in (Effect.OBSERVE, Effect.PROTECT) for step in behind.steps)
        if protects and set(behind.applies_to) & set(table.applies_to):
            text = f"it would stand in front of {behind.id}, which only tells or protects and always comes first"
            yield Problem(("before",), text, "what protects never waits for an approval: one file for each anomaly")
