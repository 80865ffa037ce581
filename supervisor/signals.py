"""A live trading signal as its file has it: {signal or side, symbol, updated_at or timestamp} (SITE.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from supervisor import clock
from supervisor.incidents.readings import Stamp, Unavailable
from supervisor.jsonfile import BadJson, CannotRead, load
from supervisor.stamps import CLOCKS_APART_S, BadStamp, wall_s_of

SIGNAL_BYTES_MAX = 1024 * 1024
WORDS_CHARS_MAX = 60
_SIDES = {
    "long": ("buy", "long"),
    "short": ("sell", "short"),
    "hold": ("hold", "wait"),
    "flat": ("flat", "exit", "close", "none", "neutral"),
}
_SIDE_OF = {word: side for side, words in _SIDES.items() for word in words}


class Signal(msgspec.Struct, frozen=True):
    """`wall_s`: when it was written. `side`: long, short, hold, flat, or "" when nobody can tell."""

    wall_s: float
    stamp: Stamp
    symbol: str = ""
    side: str = ""
    detail: str = ""

    def incomparable(self) -> str:
        """Why no trade can be compared with it; "" when one can."""
        if not self.side:
            return f"the live signal says no side that healctl knows ({self.detail})"
        return "" if self.symbol or self.side == "flat" else "the live signal names no symbol"


def read(path: str, timestamp_keys: tuple[str, ...]) -> Signal:
    """The signal that stands in the file now. Blocking. Raises CannotRead, also for one that lies in the future."""
    found, mtime_s = load(path, SIGNAL_BYTES_MAX, decode)
    try:
        signal = signal_of(found, timestamp_keys, mtime_s, clock.wall_s() + CLOCKS_APART_S)
    except BadJson as error:
        raise CannotRead(Unavailable.BAD_DATA, f"{path} {error}") from error
    ahead_s = signal.wall_s - clock.wall_s()
    if ahead_s > CLOCKS_APART_S:
        text = f"the time of the live signal lies {ahead_s:.0f} s in the future"
        raise CannotRead(Unavailable.BAD_DATA, text)
    return signal


def decode(content: bytes) -> Mapping[str, Any]:
    """The object of the file. Raises BadJson."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadJson(f"is not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadJson("holds no JSON object")
    return found


def signal_of(found: Mapping[str, Any], timestamp_keys: tuple[str, ...], mtime_s: float | None, by_s: float) -> Signal:
    """The first key that is there tells the time; the file's own time only where there is none of them (None: there is
    no file). It was written by `by_s` (wall seconds). Raises BadJson."""
    key = next((key for key in timestamp_keys if key in found), None)
    if key is None:
        if mtime_s is None:
            raise BadJson(f"holds no time: none of {', '.join(timestamp_keys)}")
        wall_s, stamp = mtime_s, Stamp.MTIME
    else:
        try:
            wall_s, stamp = wall_s_of(found[key], by_s), Stamp.KEY
        except BadStamp as error:
            raise BadJson(f"holds no readable time in {key}: {error}") from error
    word = next((found[key] for key in ("side", "signal") if found.get(key) is not None), "")
    symbol = found.get("symbol")
    side = side_of(word)
    return Signal(
        wall_s=wall_s,
        stamp=stamp,
        symbol=symbol[:WORDS_CHARS_MAX] if isinstance(symbol, str) else "",
        side=side,
        detail="" if side else f"side {str(word)[:WORDS_CHARS_MAX]!r}",
    )


def side_of(word: object) -> str:
    """long, short, hold, flat; "" for any other word."""
    return _SIDE_OF.get(word.strip().casefold(), "") if isinstance(word, str) else ""


def symbol_key(symbol: str) -> str:
    """What two programs' names for one market have in common: BTC/USDT, btc-usdt and BTCUSDT are one."""
    return "".join(letter for letter in symbol.casefold() if letter not in "/-_ ")
