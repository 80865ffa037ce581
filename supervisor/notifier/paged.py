"""What was paged for without a daemon, so that the same is not paged for again within an hour, start after start.

A small file in a directory that outlives the process. A page that nobody took is not noted.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

AGAIN_S = 3600.0
NAME = "paged.json"  # key -> wall seconds of its last page
KEY_CHARS_MAX = 300


def before_s(folder: Path, key: str, now_wall_s: float) -> float | None:
    """How long ago it was, when that keeps another one back; None: page. A stamp from the future is of a clock that
    was wrong."""
    at_s = _noted(folder).get(key[:KEY_CHARS_MAX])
    if at_s is None or not 0 <= now_wall_s - at_s < AGAIN_S:
        return None
    return now_wall_s - at_s


def note(folder: Path, key: str, now_wall_s: float) -> None:
    """Durably: `key` was paged for. Raises OSError."""
    kept = {name: at_s for name, at_s in _noted(folder).items() if 0 <= now_wall_s - at_s < AGAIN_S}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = folder / f"{NAME}.{os.getpid()}"
    try:
        with beside.open("wb") as file:
            file.write(msgspec.json.encode({**kept, key[:KEY_CHARS_MAX]: now_wall_s}))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / NAME)
    finally:
        beside.unlink(missing_ok=True)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _noted(folder: Path) -> dict[str, float]:
    """Empty where it cannot be read: a page too many is better than none."""
    try:
        found: dict[str, float] = msgspec.json.decode((folder / NAME).read_bytes(), type=dict[str, float])
        return found
    except (OSError, msgspec.DecodeError):
        return {}
