"""Durations, sizes and the other forms of a configured text, as people write them.

Pure: text in, numbers out. A bare `60` is refused because nobody can tell whether it means seconds or minutes.
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from urllib.parse import urlsplit

DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
DURATION_FORM = 'a duration with its unit, like "250ms", "60s", "5m", "24h" or "7d", at most ten years'
SIZE_FORM = 'a size with its unit, like "512MiB" or "100MB"'

OFF = "off"
_TERM = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
DURATION_S_MAX = 10 * 366 * 86400.0  # ten years: beyond it, a typing error is likelier than an intention


class LogFormat(StrEnum):
    """How the lines of healctl's own log are written."""

    AUTO = "auto"  # for people on a terminal, for journald where that reads, else JSON
    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


class Form(StrEnum):
    """What a string must look like; put into a field's type by `msgspec.Meta(extra={"form": Form.X})`."""

    PATH = "path"
    REGEX = "regex"
    ENDPOINT = "endpoint"
    TRANSPORT = "transport"
    SYNAPSE = "synapse"
    LOG_LEVEL = "log_level"
    TARGET_NAME = "target_name"
    HTTP = "http"
    LISTEN = "listen"  # where a server of ours listens, or OFF
    WORD = "word"  # of an argument list
    TABLE = "table"
    LINE = "line"  # for people
    PERSON = "person"  # of Signal
    QUIET = "quiet"  # from when to when, or OFF
    PING = "ping"  # a secret address: never shown


class Duration(float):
    """Seconds; written in TOML as a string with a unit: "250ms", "60s", "5m", "1h30m", "7d"."""


class Size(int):
    """Bytes; written in TOML as a string with a unit: "512MiB", "100MB"."""


def _terms(text: str, units: dict[str, float] | dict[str, int]) -> list[tuple[str, str]] | None:
    """The (number, unit) pairs that `text` wholly consists of, else None."""
    terms: list[tuple[str, str]] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or match[2] not in units:
            return None
        terms.append((match[1], match[2]))
        position = match.end()
        while position < len(text) and text[position] == " ":
            position += 1
    return terms or None


def parse_duration(text: str) -> Duration | None:
    """Seconds of e.g. "1h30m"; None when it is not a duration (bare numbers, other units, beyond ten years)."""
    terms = _terms(text, DURATION_S)
    if terms is None:
        return None
    seconds = sum(float(number) * DURATION_S[unit] for number, unit in terms)
    return Duration(seconds) if seconds <= DURATION_S_MAX else None


def parse_size(text: str) -> Size | None:
    """Bytes of e.g. "512MiB"; None when it is not a size."""
    terms = _terms(text, SIZE_BYTES)
    if terms is None or len(terms) != 1:
        return None
    number, unit = terms[0]
    return Size(round(float(number) * SIZE_BYTES[unit]))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as `seconds` (to the millisecond): 90 -> "1m30s", 0 -> "0s"."""
    left_ms = round(seconds * 1000)
    if left_ms == 0:
        return "0s"
    if left_ms < 1000 or left_ms % 1000:
        return f"{left_ms}ms"
    out = ""
    for unit in ("d", "h", "m", "s"):
        count, left_ms = divmod(left_ms, round(DURATION_S[unit] * 1000))
        if count:
            out += f"{count}{unit}"
    return out


def parse_listen(text: str) -> tuple[str, int] | None:
    """`127.0.0.1:9464` or `[::1]:9464` as host and port; None when it is neither.

    No names: looking one up can take long, and may tell of another interface than was meant.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    well = port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535
    return (bare, int(port)) if well and (address.version == 6) == (bare != host) else None


_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_hours(text: str) -> tuple[int, int] | None:
    """`22:00-07:00` as minutes after midnight; None when it is not of that form, or begins when it ends."""
    match = _HOURS.fullmatch(text)
    if match is None:
        return None
    begin_h, begin_m, end_h, end_m = map(int, match.groups())
    begin, end = 60 * begin_h + begin_m, 60 * end_h + end_m
    return (begin, end) if begin != end else None


PING_CHARS_MAX = 2000
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


def parse_ping(text: str) -> tuple[str, str] | None:
    """("https://host:port", "/path?query"): what of an address may be shown, and what is its secret; else None."""
    if not (text.isascii() and text.isprintable() and " " not in text and len(text) <= PING_CHARS_MAX):
        return None
    try:
        parts = urlsplit(text)
        well = parts.port != 0 and "@" not in parts.netloc and not parts.netloc.endswith(":")
    except ValueError:
        return None
    if not well or parts.scheme not in ("http", "https") or "#" in text or not _HOST.fullmatch(parts.hostname or ""):
        return None
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}", (parts.path or "/") + query
