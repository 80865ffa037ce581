"""What `[plugin.spool]` may hold, and which folder a target is."""

from __future__ import annotations

import os

import msgspec

from supervisor import keys
from supervisor.units import Duration

FAMILY = "spool"


class SpoolSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Types of `supervisor.keys` say what is accepted, and how it is refused: with file, line and key."""

    folders: dict[keys.TargetName, keys.PathText]
    max_files: keys.Count = 100
    interval: keys.Interval = Duration(60)

    def folder(self, target_id: str) -> str:
        """Raises KeyError."""
        return self.folders[target_id.removeprefix(f"{FAMILY}:")]


def waiting(folder: str) -> list[str]:
    """Its files, the oldest first. Blocking. Raises OSError."""
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        return [
            entry.name for entry in sorted(files, key=lambda it: (it.stat(follow_symlinks=False).st_mtime, it.name))
        ]
