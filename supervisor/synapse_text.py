"""Words that Synapse may carry (SITE.md): its REST side makes memory rows of a body with certain marks and words in it.

It looks for them anywhere in the text in lower case, so within a name or a path, too. A word of a sentence is said in
another way; a name that holds one is broken by a dot, since a name that looks right and is not would mislead.
"""

from __future__ import annotations

import re

_MARKS = re.compile(r"@(?=remember|insight|decision|atom)", re.IGNORECASE)
_OTHERWISE = {
    "because": "since",
    "causes": "brings about",
    "leads to": "ends in",
    "results in": "ends in",
    "therefore": "so",
    "triggers": "sets off",
}
# In groups: which word it was, its letters do not tell ("trıggers" and "TRİGGERS" are found, too).
_WORDS = re.compile("|".join(f"({word})" for word in _OTHERWISE), re.IGNORECASE)
_INSTEAD = tuple(_OTHERWISE.values())
_NAME_BEFORE = re.compile(r"[\w\-./:@'\"`]")
_NAME_AFTER = re.compile(r"[\w\-/@'\"`]|[.:]\w")


def harmless(text: str) -> str:
    """`text` without what makes memory rows; the same text when there is none of it in it."""
    if text.isascii():  # beyond ASCII, other letters count as these, too
        small = text.lower()
        if "@" not in small and not any(word in small for word in _OTHERWISE):
            return text
    text, before = _MARKS.sub("(at)", text), ""
    while text != before:  # "becauses" holds two of them, one within the other
        text, before = _WORDS.sub(_said_otherwise, text), text
    return text


def _said_otherwise(match: re.Match[str]) -> str:
    word, text, (start, end) = match.group(), match.string, match.span()
    within = _NAME_BEFORE.match(text[max(0, start - 1) : start]) or _NAME_AFTER.match(text[end : end + 2])
    return f"{word[0]}·{word[1:]}" if within else _INSTEAD[(match.lastindex or 0) - 1]
