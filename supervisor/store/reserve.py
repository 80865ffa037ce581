"""The ledger's reserve: preallocated space that is given back when the disk is full, so that the last records fit.

Losing the reserve is a state that is shown (`reserve_ok`), never an error: the ledger works without it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

RESERVE_BYTES = 8 * 1024 * 1024


class Reserve:
    """`ledger.reserve` beside the ledger, `RESERVE_BYTES` long when it is held."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size
        self.held = False

    def hold(self) -> bool:
        """Takes the space if it can be had without filling the disk: as much again must stay free."""
        if self.held:
            return True
        try:
            if self._path.exists() and self._path.stat().st_blocks * 512 >= self._size:
                self.held = True
                return True
            volume = os.statvfs(self._path.parent)
            if volume.f_bavail * volume.f_frsize < 2 * self._size:
                return False
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            self.release()
            return False
        self.held = True
        return True

    def release(self) -> bool:
        """Gives the space back to the file system; False when there was none to give."""
        was = self.held
        self.held = False
        try:
            os.truncate(self._path, 0)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EROFS):
                raise
            return False
        return was
