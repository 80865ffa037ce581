"""How things look: symbols beside every colour, ages, sizes, bars, nothing raw that a service printed.

A colour alone says nothing on a monochrome terminal or to colour-blind eyes: each has a symbol of its own. The
colours are the terminal's sixteen, so that its owner's choice of them holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.terminal_theme import TerminalTheme
from rich.text import Text

from supervisor import clock
from supervisor.incidents.model import Severity, State
from supervisor.redact import plain as plain
from supervisor.redact import visible

# severity -> (symbol, style)
SEVERITY: dict[str, tuple[str, str]] = {
    Severity.CRITICAL: ("!!", "bold red"),
    Severity.HIGH: ("! ", "red"),
    Severity.MEDIUM: ("~ ", "yellow"),
}
STATE: dict[str, tuple[str, str]] = {
    State.DETECTED: ("?", "yellow"),
    State.DIAGNOSING: ("o", "yellow"),
    State.REMEDIATING: (">", "cyan"),
    State.VERIFYING: ("=", "cyan"),
    State.REMEDIATION_FAILED: ("x", "bold red"),
    State.ESCALATED: ("@", "bold red"),
    State.RESOLVED: ("+", "green"),
    State.SELF_RESOLVED: ("+", "green"),
    State.DISMISSED: ("z", "dim"),
}
CHILD: dict[str, tuple[str, str]] = {
    "ready": ("+", "green"),
    "starting": ("o", "yellow"),
    "backoff": ("x", "yellow"),
    "exited": ("x", "red"),
    "hung": ("!", "bold red"),
    "quarantined": ("#", "bold red"),
}
# What the sixteen are on the light theme: as dark as text must be there (textual's own yellow cannot be read on white).
ON_LIGHT = TerminalTheme(
    background=(248, 248, 248),
    foreground=(32, 32, 32),
    normal=[
        (32, 32, 32), (160, 40, 40), (40, 105, 20), (130, 85, 0), (40, 80, 170),
        (120, 60, 150), (0, 98, 130), (90, 90, 90),
    ],
)  # fmt: skip
UNKNOWN = ("·", "")
_ENDLESS = re.compile(r"(\S{80})\S{40,}(\S{40})")
BARS = "▁▂▃▄▅▆▇█"


def short(text: str) -> str:
    """`text` on a screen that must show what stands behind it, too: of a name without end its two ends."""
    return _ENDLESS.sub(r"\1…\2", visible(text))


def words(text: str, style: str) -> Text:
    """For a widget: the style of a whole Text would be taken as a CSS colour there, not as one of the terminal's."""
    return Text.assemble((text, style))


def wall_s(stamp: str | None) -> float | None:
    """The time that a stamp of the daemon (RFC 3339) names; None for none."""
    if not stamp:
        return None
    try:
        return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()
    except ValueError:
        return None


def clock_text(stamp: str | None) -> str:
    """The local time of day, with the date unless it is today's."""
    at_s = wall_s(stamp)
    if at_s is None:
        return "-"
    there = datetime.fromtimestamp(at_s)  # the operator's own zone
    return there.strftime(
        "%H:%M:%S" if there.date() == datetime.fromtimestamp(clock.wall_s()).date() else "%Y-%m-%d %H:%M"
    )


def span(seconds: float | None) -> str:
    """A duration in four characters or five: 5s, 12m, 3h, 4d."""
    if seconds is None:
        return "-"
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds / size))}{unit}"
    return f"{int(seconds / 86_400)}d"


def size(count: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def figure(value: float | None, unit: str) -> str:
    """A target's figure as `targets` of the daemon gives it: share, bytes, s, ms, count."""
    if value is None:
        return "-"
    match unit:
        case "share":
            return f"{value:.1%}"
        case "bytes":
            return size(value)
        case "s":
            return f"{span(value)} old"
        case "ms":
            return f"{value:.1f} ms"
        case _:
            return f"{value:g}"


def spark(values: Sequence[float], width: int) -> str:
    """The newest `width` values as bars between their own least and greatest."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high <= low:
        return BARS[3] * len(shown)
    return "".join(BARS[min(7, int((value - low) / (high - low) * 8))] for value in shown)


def severity(word: str) -> Text:
    symbol, style = SEVERITY.get(word, UNKNOWN)
    return Text(symbol, style)


def state(word: str) -> Text:
    symbol, style = STATE.get(word, UNKNOWN)
    return Text(f"{symbol} {plain(word)}", style)


def child(word: str) -> Text:
    symbol, style = CHILD.get(word, UNKNOWN)
    return Text(f"{symbol} {plain(word)}", style)


def lines(pairs: Iterable[tuple[str, object]]) -> Text:
    """`name: value` lines, names dimmed."""
    text = Text()
    for name, value in pairs:
        text.append(f"{name}: ", "dim")
        text.append(plain(value) + "\n")
    return text
