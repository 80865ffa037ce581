"""Text from elsewhere, shown so that a terminal obeys nothing of it. Pure, and apart from `redact`, whose patterns take
longer to make ready than all else that one question to the daemon needs of ours."""

from __future__ import annotations


def visible(text: str) -> str:
    """Control characters as their escapes: a terminal obeys them, and nobody would see that they were there."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plain(value: object) -> str:
    """`value` on one line, without control characters; what is not there is a dash."""
    return visible("-" if value is None or value == "" else str(value))
