"""`python -m supervisor.plugged`: reads a configuration that names plugins, with the plugins themselves at hand.

A program of its own, so that a plugin that hangs, crashes or prints while it is imported does so here, and is over with
it (`supervisor.examining` starts it). The job comes on stdin; what it is at and what came of it go to what was stdout.
It starts nothing, and no piece is made to look or to act.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from probes.base import Probe
from remediators import registry
from remediators.base import Step
from supervisor import config as configuration
from supervisor import plugins
from supervisor.config import Accepted, Config
from supervisor.errors import ConfigError, HealError
from supervisor.examining import At, Broke, Fault, Found, Job
from supervisor.incidents import open_names
from supervisor.incidents.readings import Severity
from supervisor.notifier.channel import Channel
from supervisor.plugins import BadPlugin, Part, Piece
from supervisor.schema import Problem, near, report

BASES: dict[Part, type] = {Part.PROBE: Probe, Part.STEP: Step, Part.CHANNEL: Channel}
KEY = ("healctl", "plugins")
ANOMALIES_MAX = 50  # of one family: each is a name in the engine's memory (`open_names`), and a verdict of each reading


def accept(job: Job, answer: int) -> Accepted:
    """Raises ConfigError with every fault of the plugins, or of the runbooks."""
    config = configuration.parse(job.text, job.file)
    pieces, problems = plugins.find(config.healctl.plugins)
    for piece in list(pieces.values()):
        tell(answer, At(piece.words))
        faults, anomalies = _examined(piece, config)
        problems += faults
        pieces[piece.name] = msgspec.structs.replace(piece, anomalies=anomalies)
    problems += _strangers(config, pieces)
    if problems:
        raise ConfigError(report(problems, job.text, job.file))
    tell(answer, At("the runbooks' steps"))
    whole = configuration.with_runbooks(msgspec.structs.replace(config, piece=pieces), Path(job.file))
    return Accepted(job.text, tuple(whole.runbook.values()), tuple(pieces.values()))


def _examined(piece: Piece, config: Config) -> tuple[list[Problem], tuple[str, ...]]:
    """What is wrong with it, and which anomalies it can find."""
    if piece.name in registry.KINDS:
        return [Problem(KEY, f"{piece.words}: that is a kind of step of healctl's own")], ()
    base: type = BASES[piece.part]
    try:
        kind: Any = plugins.load(piece, base)
    except BadPlugin as error:
        return [Problem(KEY, error.message)], ()
    if issubclass(kind, Probe) and (fault := anomalies_fault(kind)):
        return [Problem(KEY, f"{piece.words}: {fault}")], ()
    if issubclass(kind, Step) and kind.effect not in registry.HARM:
        return [Problem(KEY, f"{piece.words}: its effect is {kind.effect!r}, expected an Effect")], ()
    _, problems = plugins.read_section(config.plugin.get(piece.name, {}), piece.name, kind.Section)
    found = tuple(f"{piece.name}.{name}" for name in kind.anomalies) if issubclass(kind, Probe) else ()
    return problems, found


def anomalies_fault(kind: type[Probe]) -> str:
    """What is wrong with the anomalies that a plugin's probe declares; "" for nothing."""
    declared: Any = kind.anomalies
    if not isinstance(declared, Mapping) or not declared:
        return "it declares no anomalies: expected {name: Severity}"
    if len(declared) > ANOMALIES_MAX:
        return f"it declares {len(declared)} anomalies, at most {ANOMALIES_MAX}"
    for name, severity in declared.items():
        if not isinstance(name, str) or not open_names.ANOMALY.fullmatch(f"{kind.family}.{name}"):
            return f"the anomaly {name!r} is no name of a-z, 0-9 and '_', at most 48 characters"
        if not isinstance(severity, Severity):
            return f"the severity of {name} is {severity!r}, expected a Severity"
    return ""


def _strangers(config: Config, pieces: dict[str, Piece]) -> list[Problem]:
    """Tables of pieces that nobody brings."""
    problems = []
    for name in config.plugin:
        if name not in pieces:
            hint = near(name, pieces) or "add its distribution to plugins in [healctl]"
            problems.append(Problem(("plugin", name), "no plugin that is named brings it", hint))
    for name in config.notify.channel:
        if name not in pieces or pieces[name].part is not Part.CHANNEL:
            problems.append(Problem(("notify", "channel", name), "no plugin that is named brings such a channel"))
    return problems


def tell(answer: int, what: At | Fault | Found) -> None:
    os.write(answer, msgspec.json.encode(what) + b"\n")


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints is no answer
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(job.within_s)  # should nobody be left who would end it
    try:
        found: Fault | Broke | Found = Found(accept(job, answer))
    except HealError as error:
        found = Fault(error.message, error.hint)
    except BaseException as error:  # noqa: BLE001 - a metaclass, a comparison, a KeyboardInterrupt of theirs
        found = Broke(plugins.told(error))
    with os.fdopen(answer, "wb") as file:
        file.write(msgspec.json.encode(found) + b"\n")
    os._exit(0)  # whatever a plugin has begun beside us


if __name__ == "__main__":
    main()
