"""Timestamps as other programs write them, in every form of SITE.md, as seconds since the epoch. Pure: reads no clock.

It never guesses: what is no time, or lies outside of 2000 to 2099, is refused with a sentence that says so.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

CLOCKS_APART_S = 5.0  # how far another program's clock may be ahead of ours
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


def like(example: object, wall_s: float) -> int | float | str:
    """This moment, written as `example` is: seconds or milliseconds, as a number or as text, or an ISO time with its
    separator, precision and zone. Raises BadStamp where `example` is no time."""
    wall_s_of(example)
    if isinstance(example, str) and not _NUMBER.fullmatch(example.strip()):
        return _like_text(example.strip(), wall_s)
    number = float(example)  # type: ignore[arg-type]
    value = wall_s * 1000 if number >= LATEST_S else wall_s
    if isinstance(example, int) or (isinstance(example, str) and "." not in example):
        value = int(value)
    return str(value) if isinstance(example, str) else value


def _like_text(example: str, wall_s: float) -> str:
    match = _ISO.fullmatch(example)
    assert match is not None, "wall_s_of has read it"
    _, _, seconds, fraction, zone = match.groups()
    offset = _offset(zone)
    if offset:
        hours, minutes = int(offset[1:3]), int(offset[4:6])
        ahead = timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)
        at = datetime.fromtimestamp(wall_s, timezone(ahead))
    else:
        at = datetime.fromtimestamp(wall_s, UTC).astimezone()
    text = at.strftime("%Y-%m-%d") + example[10 : match.start(2)] + at.strftime("%H:%M")
    text += at.strftime(":%S") if seconds else ""
    if fraction:
        text += example[match.start(4) - 1] + f"{at.microsecond:06d}".ljust(len(fraction), "0")[: len(fraction)]
    return text + example[match.end(4) if fraction else match.end(3) if seconds else match.end(2) :]


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
