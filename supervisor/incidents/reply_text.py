"""What a reply says: one verb, and what belongs to it; anything else is not understood (R15). Pure.

Forgiven are case, blanks, punctuation around words and emoji. Nothing is guessed: two verbs, or one word that is not
known, and the reply means nothing. The words after `dismiss` are the reason and may be any.
"""

from __future__ import annotations

import unicodedata
from enum import StrEnum

import msgspec

from supervisor import units
from supervisor.errors import UsageError
from supervisor.incidents import codes

TEXT_CHARS_MAX = 1_000
REASON_CHARS_MAX = 300
SHOWN_CHARS_MAX = 40
KNOWN = "ok, run, approve, undo, dismiss 4h reason, why"


class Verb(StrEnum):
    OK = "ok"
    RUN = "run"
    APPROVE = "approve"
    UNDO = "undo"
    DISMISS = "dismiss"
    WHY = "why"
    CONFIRM = "confirm"  # what an agent has asked for; its code alone says the same


CHANGES = frozenset({Verb.RUN, Verb.APPROVE, Verb.UNDO, Verb.DISMISS, Verb.CONFIRM})


class Said(msgspec.Struct, frozen=True):
    """`verb` None: a code and nothing else. `code` is in capitals, empty when there is none."""

    verb: Verb | None
    code: str = ""
    for_s: float | None = None
    reason: str = ""


def parse(text: str) -> Said:
    """Raises UsageError, which says what could have been meant."""
    if len(text) > TEXT_CHARS_MAX:
        raise UsageError("that is too long for a reply", KNOWN)
    words = unicodedata.normalize("NFKC", text).split()
    bare = [(word, plain) for word in words if (plain := _plain(word))]
    if not bare:
        raise UsageError("that holds no word", KNOWN)
    verbs = [n for n, (_, plain) in enumerate(bare) if plain.lower() in _VERBS]
    first = verbs[0] if verbs else None
    if first is not None and bare[first][1].lower() == Verb.DISMISS:
        return _dismiss(bare[:first], bare[first + 1 :])
    found = {plain.lower(): None for n, (_, plain) in enumerate(bare) if n in verbs}
    if len(found) > 1:
        raise UsageError(f"that says {' and '.join(found)}: which of them?", "one of them alone")
    rest = [plain for n, (_, plain) in enumerate(bare) if n not in verbs]
    unknown = [plain for plain in rest if not codes.looks(plain.upper())]
    if unknown:
        raise UsageError(f"I do not understand {unknown[0][:SHOWN_CHARS_MAX]!r}", KNOWN)
    return Said(Verb(next(iter(found))) if found else None, _one_code(rest))


_VERBS = frozenset(Verb)


def _dismiss(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> Said:
    """`dismiss [4h] [reason ...]`, with the code anywhere."""
    for _, plain in before:
        if not codes.looks(plain.upper()):
            raise UsageError(f"I do not understand {plain[:SHOWN_CHARS_MAX]!r}", "dismiss 4h reason")
    found = [plain for _, plain in (*before, *after) if codes.looks(plain.upper())]
    said = [(word, plain) for word, plain in after if not codes.looks(plain.upper())]
    for_s = _duration(said[0][1]) if said else None
    if for_s is not None:
        said = said[1:]
    if said and said[0][1].lower() in _VERBS:
        raise UsageError(f"that says dismiss and {said[0][1].lower()}: which of them?", "one of them alone")
    reason = "".join(ch for ch in " ".join(word for word, _ in said) if ch.isprintable())
    return Said(Verb.DISMISS, _one_code(found), for_s, reason[:REASON_CHARS_MAX])


def _duration(word: str) -> float | None:
    found = units.parse_duration(word.lower()) if word.isascii() else None
    return float(found) if found is not None else None


def _one_code(words: list[str]) -> str:
    found = {word.upper() for word in words}
    if len(found) > 1:
        raise UsageError("that names two codes: which of them?", "one code")
    return next(iter(found), "")


def _plain(word: str) -> str:
    """Without what stands around its letters and digits: punctuation, quotes, emoji, signs that are not seen."""
    inner = [n for n, ch in enumerate(word) if unicodedata.category(ch)[0] in "LN"]
    return "".join(ch for ch in word[inner[0] : inner[-1] + 1]) if inner else ""
