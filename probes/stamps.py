"""Timestamps as other programs write them, in every form of SITE.md, as seconds since the epoch. Pure: reads no clock.

It never guesses: what is no time, or lies outside of 2000 to 2099, is refused with a sentence that says so.
"""

from __future__ import annotations

import re
from datetime import datetime

EARLIEST_S = 946_684_800  # 2000-01-01: before it a number is a count or a mistake, not a time
LATEST_S = 4_102_444_800  # 2100-01-01: beyond it seconds are rather milliseconds
SHOWN_CHARS_MAX = 60

_ISO = re.compile(
    r"(?a:(\d{4}-\d\d-\d\d)[Tt ]+(\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,18}))? ?(Z|z|[+-]\d\d(?::?\d\d)?)?)",
)
_NUMBER = re.compile(r"(?a:\d{1,18}(?:\.\d{1,18})?)")


class BadStamp(Exception):
    """Not a time; the text is a sentence for people."""


def wall_s_of(value: object, by_s: float = EARLIEST_S) -> float:
    """Seconds since the epoch of an ISO time (without a zone it is local time), or of epoch seconds or milliseconds
    as a number or as text. Raises BadStamp.

    Of the two times that local time may mean in the hour that is repeated when summer ends, the later one unless it
    lies after `by_s`: what has just been written would else be an hour old.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadStamp(f"{_shown(value)} is no time")
    if isinstance(value, str):
        return _of_text(value, by_s)
    return _of_number(value, value)


def _of_text(text: str, by_s: float) -> float:
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return _of_number(float(stripped), text)
    match = _ISO.fullmatch(stripped)
    if match is None or (match[4] and not match[3]):  # a fraction is one of seconds
        raise BadStamp(f"{_shown(text)} is no time")
    date, minutes, seconds, fraction, zone = match.groups()
    iso = f"{date}T{minutes}{seconds or ':00'}.{(fraction or '0')[:6].ljust(6, '0')}{_offset(zone)}"
    try:
        read = datetime.fromisoformat(iso)
        wall_s, later_s = read.timestamp(), read.replace(fold=1).timestamp()
    except (ValueError, OverflowError, OSError):  # the 30th of February; a year that the C library cannot place
        raise BadStamp(f"{_shown(text)} is no time") from None
    if wall_s < later_s <= by_s:
        wall_s = later_s
    if not EARLIEST_S <= wall_s < LATEST_S:
        raise BadStamp(f"{_shown(text)} lies outside of 2000 to 2099")
    return wall_s


def _offset(zone: str | None) -> str:
    """`Z`, `+01`, `+0100` and `+01:00` as `datetime` takes them; empty for local time."""
    if zone is None:
        return ""
    if zone in "Zz":
        return "+00:00"
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return f"{zone[0]}{digits[:2]}:{digits[2:]}"


def _of_number(number: float, given: object) -> float:
    """Seconds, else milliseconds; each is only possible where the other is not. NaN is neither."""
    if EARLIEST_S <= number < LATEST_S:
        return float(number)
    if EARLIEST_S * 1000 <= number < LATEST_S * 1000:
        return number / 1000
    raise BadStamp(f"{_shown(given)} is neither seconds nor milliseconds of 2000 to 2099")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[: SHOWN_CHARS_MAX - 3]}..."
