"""What a control group's limit leaves of memory (cgroups(7)): the one account that the probe and the step share.

It only reads. Which groups limit us is the probe's to find (`probes.memory`).
"""

from __future__ import annotations

import os

import msgspec


class Room(msgspec.Struct, frozen=True):
    """What can still be had of what there is, by whose account (a file)."""

    available_bytes: int
    total_bytes: int
    limited_by: str = "MemAvailable"


class Version(msgspec.Struct, frozen=True):
    """A version of control groups: its files, and the line of memory.stat that counts what is given back."""

    limit: str
    usage: str
    inactive: str


V1 = Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = Version("memory.max", "memory.current", "inactive_file")
_BY_LIMIT = {version.limit: version for version in (V1, V2)}


def room(limit_file: str) -> Room | None:
    """By a group's file of either version, read anew. None: no limit. Raises OSError, ValueError."""
    folder, name = os.path.split(limit_file)
    if name not in _BY_LIMIT:
        raise ValueError(f"{limit_file} is no limit of memory")
    version = _BY_LIMIT[name]
    text = _read(limit_file).strip()
    if text == "max":
        return None
    limit = int(text)
    usage = int(_read(f"{folder}/{version.usage}"))
    lines = (line.split() for line in _read(f"{folder}/memory.stat").splitlines())
    inactive = next((int(words[1]) for words in lines if len(words) == 2 and words[0] == version.inactive), 0)
    return Room(max(0, limit - max(0, usage - inactive)), limit, limit_file)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
