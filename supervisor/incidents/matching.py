"""From what a person ran to steps of a runbook (FR-006): commands are recognised, never made into something that runs.

A `Meaning` says which words are which registered steps for which target; it is made of the configuration alone
(`supervisor.meanings`). What no meaning fits becomes a step of the kind `manual`: a note for people. Pure.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping

import msgspec

from supervisor import redact
from supervisor.incidents.model import MANUAL, AnomalyType, Effect, Runbook, StepSpec, Target

COMMANDS_MAX = 50  # of one fix; the newest count
WORDS_MAX = 64
WORD_CHARS_MAX = 512
TEXT_CHARS_MAX = 4_096
STEPS_MAX = 20

Command = tuple[str, ...]

_WRAPPERS = frozenset({"sudo", "doas", "nohup", "command", "exec", "time", "env"})
# What only looks: no part of a fix.
_LOOKS = frozenset(
    "ls ll cat less more tail head grep egrep rg find ps top htop pgrep pidof df du free uptime who w id date cd pwd "  # noqa: SIM905
    "echo printf man which type stat file lsof ss netstat ip ping dig host journalctl dmesg history clear exit true "
    "tmux screen healctl vmstat iostat uname hostname set export alias jobs fg bg".split()
)
_LOOKING_WORDS = frozenset(
    {"status", "list", "show", "logs", "is-active", "cat", "jlist", "ls", "describe", "--version"}
)
# Where its output goes does not change what is run; nor does leaving it in the background.
_QUIET = re.compile(r"\s(?:\d?>>?|\d?<|&>>?)\s*(?:/dev/null|&\d)(?=\s|$)")
_COMPLEX = frozenset("|<>`$*?(){}&;")  # a shell would have made something else of these


class Meaning(msgspec.Struct, frozen=True):
    """`argv` (its program by its bare name) is what the steps of the shipped `runbook_id` do for `target_id`, or it is
    the `step`, a declared command, for whatever target."""

    argv: Command
    runbook_id: str = ""
    target_id: str = ""
    step: StepSpec | None = None


def split(text: str) -> tuple[Command, ...]:
    """The commands of one line of a shell. What a shell would expand, pipe or redirect stays one word: a note."""
    text = text.strip()[:TEXT_CHARS_MAX]
    try:
        lexer = shlex.shlex(_QUIET.sub("", text), posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        tokens = list(lexer)
    except ValueError:  # a quote that is never closed
        return ((text,),) if text else ()
    if tokens and tokens[-1] == "&":
        tokens.pop()
    found: list[list[str]] = [[]]
    for token in tokens:
        if token in (";", "&&"):
            found.append([])
        elif set(token) <= set(";&|"):
            return ((text,),)
        else:
            found[-1].append(token)
    if any(_COMPLEX & set(word) for command in found for word in command):
        return ((text,),)
    return tuple(tuple(command) for command in found if command)


def harmless(command: Command) -> Command:
    """Without secrets, and no longer than what is kept."""
    return tuple(word[:WORD_CHARS_MAX] for word in redact.words(command[:WORDS_MAX]))


def looks_only(command: Command) -> bool:
    words = _bare(command)
    return not words or words[0] in _LOOKS or (len(words) > 1 and words[1] in _LOOKING_WORDS)


def meaning_of(command: Command, meanings: Iterable[Meaning]) -> Meaning | None:
    """The meaning whose words these are, exactly."""
    words = _bare(command)
    return next((meaning for meaning in meanings if meaning.argv == words), None)


def _bare(command: Command) -> Command:
    """Without `sudo` and the like in front, and without the directory of its program."""
    words = list(command)
    while words and words[0].rpartition("/")[2] in _WRAPPERS:
        words.pop(0)
        while words and (words[0].startswith("-") or ("=" in words[0] and not words[0].startswith("/"))):
            words.pop(0)
    return (words[0].rpartition("/")[2], *words[1:]) if words else ()


def draft(
    commands: Iterable[Command],
    description: str,
    anomaly: AnomalyType,
    target: Target,
    author: str,
    runbooks: Mapping[str, Runbook],
    meanings: Iterable[Meaning],
) -> Runbook:
    """The runbook that does what these commands (`harmless` already) did, for this anomaly of this target.

    The same fix again is the same draft, by its id; a description alone is one note.
    """
    known, steps, resource = tuple(meanings), list[StepSpec](), ""
    for command in [it for it in commands if not looks_only(it)][-COMMANDS_MAX:]:
        meaning = meaning_of(command, known)
        shipped = runbooks.get(meaning.runbook_id) if meaning is not None else None
        if meaning is not None and meaning.step is not None:
            steps.append(meaning.step)
        elif meaning is not None and shipped is not None and meaning.target_id in (target.target_id, target.service_id):
            steps += shipped.steps
            resource = resource or shipped.resource
        else:
            steps.append(_note(shlex.join(command)))
    if not steps:
        steps = [_note(description)]
    numbered = tuple(
        msgspec.structs.replace(step, step_id=f"{n}-{step.kind}") for n, step in enumerate(_once(steps)[:STEPS_MAX], 1)
    )
    what = msgspec.json.encode((anomaly, target.target_id, numbered), order="deterministic")
    return Runbook(
        id=f"rb-fix-{anomaly.replace('_', '-')}-{hashlib.sha256(what).hexdigest()[:8]}",
        label=description[:120] or f"What a person did about {anomaly} of {target.target_id}",
        applies_to=(anomaly,),
        steps=numbered,
        resource=resource or "target:{target}",
        summary=True,
        author=author,
        targets=(target.target_id,),
    )


def _note(text: str) -> StepSpec:
    return StepSpec("note", MANUAL, Effect.OBSERVE, idempotent=True, params=(("text", text[:TEXT_CHARS_MAX]),))


def _once(steps: list[StepSpec]) -> list[StepSpec]:
    """Somebody who tried the same twice need not have it done twice."""
    return [step for n, step in enumerate(steps) if step not in steps[:n]]
