"""Reads a JSON file that another program writes, with what may be wrong with it as a reason (R9). Blocking.

A writer may be in the middle: what is missing or does not parse is looked at once more. It never creates anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from supervisor.aside import read_file
from supervisor.incidents.readings import Unavailable

AGAIN_S = 0.02  # a writer empties or removes its file before it fills it
T = TypeVar("T")


class CannotRead(Exception):
    """Nothing can be said (R9); becomes a reading's reason and error."""

    def __init__(self, reason: Unavailable, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class BadJson(Exception):
    """What was read is not what it should be; the text goes on after the file's name."""


def load(path: str, bytes_max: int, decode: Callable[[bytes], T]) -> tuple[T, float]:
    """What `decode` (raises BadJson) makes of the file, and its modification time (wall seconds). Raises CannotRead."""
    try:
        return _load(path, bytes_max, decode)
    except CannotRead as error:
        if error.reason not in (Unavailable.BAD_DATA, Unavailable.MISSING):
            raise
    time.sleep(AGAIN_S)
    return _load(path, bytes_max, decode)


def _load(path: str, bytes_max: int, decode: Callable[[bytes], T]) -> tuple[T, float]:
    try:
        (_, _, mtime_ns, _), content = read_file(path, bytes_max)
        return decode(content), mtime_ns / 1e9
    except BadJson as error:
        raise CannotRead(Unavailable.BAD_DATA, f"{path} {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CannotRead(Unavailable.MISSING, f"{path} does not exist") from error
    except PermissionError as error:
        raise CannotRead(Unavailable.PERMISSION, f"{path} may not be read by this user") from error
    except (IsADirectoryError, ValueError) as error:
        raise CannotRead(Unavailable.BAD_DATA, str(error)) from error
    except OSError as error:
        raise CannotRead(Unavailable.ERROR, f"{path} cannot be read: {error.strerror}") from error
