"""Plugins: what another distribution adds to healctl by entry points, and how it is found and loaded (ADR 0010).

An installed distribution alone runs nothing: only what `[healctl] plugins` names is looked at, by its metadata, and
only a process that needs a piece imports it. Whoever loads one gets the class, checked against its contract, or
`BadPlugin` with distribution, version, attribute and exception.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from supervisor.errors import ConfigError
from supervisor.incidents import open_names
from supervisor.incidents.model import PLUGIN
from supervisor.schema import Key, Problem, Reader, dotted, near, shown
from supervisor.visible import visible

if TYPE_CHECKING:
    from importlib import metadata

    from supervisor.config import Config

API = 1  # of the contracts: what a plugin's class must say in `api`
ERROR_CHARS_MAX = 500
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class Part(StrEnum):
    """What a piece is: a probe family, a kind of step, a channel."""

    PROBE = "probe"
    STEP = "step"
    CHANNEL = "channel"

    @property
    def named_by(self) -> str:
        """The attribute that must repeat the entry point's name."""
        return {Part.PROBE: "family", Part.STEP: "kind", Part.CHANNEL: "channel"}[self]


GROUPS = {"healctl.probes": Part.PROBE, "healctl.steps": Part.STEP, "healctl.channels": Part.CHANNEL}
# Names that mean something of ours, where a worker, a target's id or an item of work begins with a name.
TAKEN = frozenset(
    "process trading gateway pipeline fleet host database logs metrics store healer executor notifier reload hold drill"
    " tree healctl disk worker messages copies reading outside outbox execution order reply report receipt event items"
    f" quiet out signal synapse all {PLUGIN}".split()
)


class BadPlugin(ConfigError):
    """A piece that cannot be used."""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table of a piece that has no keys."""


class Piece(msgspec.Struct, frozen=True):
    """One entry point of a distribution that the operator named. `entry` is "module:attribute"."""

    name: str
    part: Part
    distribution: str
    version: str
    entry: str
    anomalies: tuple[str, ...] = ()  # that a probe can find, as "FAMILY.NAME"; known once it was imported

    @property
    def words(self) -> str:
        """As an error names it."""
        return f"{self.distribution} {self.version}, {self.part} {self.name} = {self.entry}"


def find(names: tuple[str, ...]) -> tuple[dict[str, Piece], list[Problem]]:
    """The pieces of these distributions by name, in their order, from metadata alone: nothing of theirs is imported."""
    from importlib import metadata  # only here: most configurations name none

    pieces: dict[str, Piece] = {}
    problems: list[Problem] = []
    for name in dict.fromkeys(names):
        try:
            distribution = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):
            hint = near(name, installed()) or "install it into the environment of healctl itself (pipx inject, uv add)"
            problems.append(Problem(_KEY, f"no distribution {shown(name)} is installed here", hint))
            continue
        title = f"{distribution.name} {distribution.version}"
        ours = [entry for entry in distribution.entry_points if entry.group.startswith("healctl.")]
        if not ours:
            hint = f"its entry points must be in {', '.join(GROUPS)}"
            problems.append(Problem(_KEY, f"{title} has nothing for healctl", hint))
        for entry in sorted(ours, key=lambda it: ([*GROUPS, it.group].index(it.group), it.name)):
            fault = _fault(entry, pieces)
            if fault:
                problems.append(Problem(_KEY, f"{title}, {entry.group}: {entry.name} = {entry.value}: {fault}"))
            else:
                part = GROUPS[entry.group]
                pieces[entry.name] = Piece(entry.name, part, distribution.name, distribution.version, entry.value)
    return pieces, problems


_KEY: Key = ("healctl", "plugins")


def _fault(entry: metadata.EntryPoint, pieces: dict[str, Piece]) -> str:
    if entry.group not in GROUPS:
        return f"no such group, {near(entry.group, GROUPS) or 'known: ' + ', '.join(GROUPS)}"
    if not open_names.NAME.fullmatch(entry.name):
        return "expected a name of a-z, 0-9 and '-', at most 32 characters"
    if entry.name in TAKEN:
        return "that name is healctl's own"
    if entry.name in pieces:
        return f"that name is taken already ({pieces[entry.name].words})"
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", entry.value):
        return 'expected "module:Class"'
    return ""


def installed() -> list[str]:
    """The distributions in this environment that have something for healctl, named or not; from metadata alone."""
    from importlib import metadata

    found = {
        distribution.name
        for distribution in metadata.distributions()
        if any(entry.group in GROUPS for entry in distribution.entry_points)
    }
    return sorted(found)


def load(piece: Piece, base: type[T]) -> type[T]:
    """Imports the piece, in this process. Raises BadPlugin, also where another version is installed by now: what was
    examined, and approved, is what runs."""
    from importlib import metadata

    module, _, attribute = piece.entry.partition(":")
    try:
        if (now := metadata.version(piece.distribution)) != piece.version:
            raise BadPlugin(f"{piece.words}: {now} is installed now", "healctl reload, which examines it")
        found = getattr(importlib.import_module(module), attribute)
    except BadPlugin:
        raise
    except (Exception, SystemExit) as error:
        raise BadPlugin(f"{piece.words}: {told(error)}") from error
    for fault in _faults(piece, found, base):
        raise BadPlugin(f"{piece.words}: {fault}")
    kind: type[T] = found
    return kind


def _faults(piece: Piece, found: Any, base: type) -> Iterator[str]:
    """What is wrong with it as this piece, the gravest first."""
    if not (inspect.isclass(found) and base in inspect.getmro(found)):
        yield f"it is no subclass of {base.__module__}.{base.__name__}"
        return
    yield from of_contract(found)
    named = getattr(found, piece.part.named_by, None)
    if named != piece.name:
        yield f"its {piece.part.named_by} is {named!r}, expected {piece.name!r}"


def of_contract(found: Any) -> list[str]:
    """What a plugin's class has to say of itself, and this one does not; its author's tests may ask, too."""
    faults = []
    if (api := getattr(found, "api", None)) != API:
        faults.append(f"it says api = {api!r}, this healctl speaks {API}")
    if inspect.isabstract(found):
        faults.append(f"it does not implement {', '.join(sorted(found.__abstractmethods__))}")
    section = getattr(found, "Section", None)
    if not (inspect.isclass(section) and issubclass(section, msgspec.Struct)):
        faults.append(f"its Section is {section!r}, expected a msgspec.Struct")
    return faults


def section(config: Config, name: str, kind: type[S]) -> S:
    """The table `[plugin.NAME]` as the piece's own struct. Raises ConfigError."""
    made, problems = read_section(config.plugin.get(name, {}), name, kind)
    if made is None:
        raise ConfigError("; ".join(f"{dotted(it.key)}: {it.text}" for it in problems))
    return made


def read_section(table: dict[str, Any], name: str, kind: type[S]) -> tuple[S | None, list[Problem]]:
    """The same, with every fault as a problem of the file."""
    reader = Reader()
    try:
        made = reader.struct(kind, table, ("plugin", name))
    except Exception as error:  # noqa: BLE001 - its struct is the plugin's code, and may refuse in ways of its own
        return None, [Problem(("plugin", name), told(error))]
    return made, reader.problems


def told(error: BaseException) -> str:
    """What a plugin has raised, in words that can be shown: it may not even have any."""
    try:
        words = str(error)
    except BaseException as worse:  # noqa: BLE001 - it is the plugin's code
        words = f"(its text cannot be had: {type(worse).__name__})"
    return visible(f"{type(error).__name__}: {words}"[:ERROR_CHARS_MAX])
