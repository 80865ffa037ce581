"""Text from readings, programs and names, made harmless and short enough to show to people (NFR-003). Pure.

Harmless: on one line; nothing invisible, nothing that turns the direction of writing, no towers of marks; no markup
of any channel, no link to tap. It is then data on a page of ours, and cannot pass for a line of it.

Length is counted in UTF-16 units, as Signal counts where a style or a mention stands. Such a unit is three bytes of
UTF-8 at most, so that 600 of them are far from the 2000 bytes beyond which signal-cli sends a text as an attachment.
"""

from __future__ import annotations

import re
import unicodedata

QUOTE_CHARS_MAX = 160
WORD_CHARS_MAX = 72  # a path of usual length; of a longer word the middle is left out
MARKS_MAX = 3  # on one letter: what living scripts need
ELLIPSIS = "…"

_NOT_SHOWN = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs that are blank
_MARKUP = str.maketrans({"`": "'", "*": "∗", "<": "‹", ">": "›"})
_PAIRS = (("~~", "~"), ("||", "|"), ("__", "‗"), ("](", "] ("))
_ADDRESS = re.compile(r"\b(?:[a-z][a-z0-9+.-]*://|www\.)[^\s/?#]+", re.IGNORECASE)
_LINE_ENDS = re.compile(r"(.)\s*[\r\n\v\f\x85\u2028\u2029]\s*")
# Neither marks nor anything invisible or blank: most texts are of these alone, and are shown as they are.
_PLAIN = re.compile("[ -~\u00a1-\u00ac\u00ae-\u02ff\u2010-\u2027\u2039\u203a\u2190-\u22ff]*")
_OURS = re.compile(r"[a-z][a-z0-9+.-]*://(127(\.\d+){3}|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


def clean(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    """Text from a reading or a program, harmless and at most `limit` units long."""
    text = _LINE_ENDS.sub(_joined, unicodedata.normalize("NFC", text[: 20 * limit]).strip())
    text = " ".join(_shown(text).split())
    text = _ADDRESS.sub(_untapped, text.translate(_MARKUP))
    for marks, instead in _PAIRS:
        while marks in text:
            text = text.replace(marks, instead)
    if len(text) > WORD_CHARS_MAX:
        text = " ".join(_short(word) for word in text.split(" "))
    return cut(text, limit)


def _joined(match: re.Match[str]) -> str:
    """Lines become one: "exit 1; address in use"."""
    return match[1] + (" " if match[1] in " \t.,:;!?" else "; ")


def _shown(text: str) -> str:
    """The characters that may be shown; what only divides is a space, what nobody sees is left out."""
    if _PLAIN.fullmatch(text):
        return text
    shown: list[str] = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category[0] == "M" else 0
        if category in ("Cc", "Zs", "Zl", "Zp", "Cn", "Co") or char in _NOT_SHOWN:
            shown.append(" ")
        elif category == "Cs":
            shown.append("�")
        elif category != "Cf" and marks <= MARKS_MAX:
            shown.append(char)
    return "".join(shown)


def _untapped(match: re.Match[str]) -> str:
    """No phone makes a link of "https://host[.]name"; our own machine's addresses lead nowhere else."""
    return match.group() if _OURS.fullmatch(match.group()) else match.group().replace(".", "[.]")


def _short(word: str) -> str:
    if len(word) <= WORD_CHARS_MAX:
        return word
    return word[: WORD_CHARS_MAX // 2] + ELLIPSIS + word[-WORD_CHARS_MAX // 3 :]


def units(text: str) -> int:
    """Its length in UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, limit: int) -> str:
    """At most `limit` units of it, with an ellipsis for what was left out; never within what is one sign for people,
    and not within a word unless that is long."""
    if units(text) <= limit:
        return text
    if limit < 1:
        return ""
    end, used = 0, 1  # the ellipsis
    for char in text:
        used += units(char)
        if used > limit:
            break
        end += 1
    while end > 0 and _belongs(text, end):
        end -= 1
    space = text.rfind(" ", max(0, end - 20), end + 1)
    return text[: space if space > 0 else end].rstrip(" ,;:(") + ELLIPSIS


def _belongs(text: str, at: int) -> bool:
    """Is the character at `at` a part of the one before it? A mark, a tint, the second half of a flag."""
    if at >= len(text):
        return False
    char = text[at]
    if unicodedata.category(char)[0] == "M" or "\U0001f3fb" <= char <= "\U0001f3ff":
        return True
    flags = 0
    while flags < at + 1 and "\U0001f1e6" <= text[at - flags] <= "\U0001f1ff":
        flags += 1
    return flags > 0 and flags % 2 == 0


def ended(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    """The end of a sentence, with one full stop; empty for nothing."""
    text = clean(text, limit).rstrip(".:;, ")
    return text + "." if text and not text.endswith((ELLIPSIS, "!", "?")) else text


def sentence(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    """One sentence: with a capital, unless it begins with a name or a number, and one full stop."""
    return capital(ended(text, limit))


def capital(text: str) -> str:
    """The first letter of a plain word; "web-1", "/var" and our own name are names and stay as they are."""
    first = text.split(" ", 1)[0].rstrip(",;:")
    return text[:1].upper() + text[1:] if first.isalpha() and first != "healctl" else text


def lines(text: str, limit: int) -> str:
    """A text of ours in lines, whose parts were cleaned where they came in: the last guard of what is sent."""
    kept = (_shown(line).rstrip() for line in text.split("\n"))
    return cut("\n".join(line for line in kept if line), limit)
