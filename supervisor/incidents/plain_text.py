"""Text from readings and programs, made harmless and short enough to show to people (NFR-003). Pure."""

from __future__ import annotations

import re

QUOTE_CHARS_MAX = 160

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


def clean(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    """Text from a reading or a program, harmless and short enough to quote."""
    text = _CONTROL.sub(" ", text).strip()
    text = re.sub(r" {2,}", " ", text)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clean_lines(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def sentence(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    text = clean(text, limit)
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""
