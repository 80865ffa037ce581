"""The made-up trouble of a drill: one file in the runtime directory. The healer makes it, the probe sees it, the
runbook's step takes it away. Nothing else ever looks at it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from supervisor.incidents import drill_run

NAME = "drill"
_ID = re.compile(rb"drl_[0-9a-f]{12}")
_READ_MAX = 64  # bytes, more than an id has


class Staged:
    def __init__(self, runtime_dir: Path) -> None:
        self.path = runtime_dir / NAME

    def carry_out(self, drill_id: str, stage: str) -> str:
        """What the engine's `CarryDrill` asks for; why it could not be done, empty when it is."""
        try:
            if stage == drill_run.ASKED:
                self._make(drill_id)
            elif stage == drill_run.OVER:
                self.clear()
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return ""

    def _make(self, drill_id: str) -> None:
        """Whole or not at all: a probe that looks at this moment must not see half of it."""
        beside = self.path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(made, drill_id.encode())
        finally:
            os.close(made)
        beside.rename(self.path)

    def read(self) -> str:
        """The id of the drill whose trouble is there, "" for none. Raises OSError, also for what is none of ours."""
        try:
            found = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            text = os.read(found, _READ_MAX)
        finally:
            os.close(found)
        if not _ID.fullmatch(text):
            raise OSError(errno.EINVAL, "it is no file of a drill")
        return text.decode()

    def clear(self) -> str:
        """Takes it away: whose it was, "" when there was none. Raises OSError; what is none of ours is left alone."""
        found = self.read()
        if found:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        return found
