"""A memory control group of a test's own, below the one in which the test runs; it is removed at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.memory import _folders, _hierarchy
from probes.mounts import read_table
from supervisor import proc
from supervisor.cgroups import V1, V2

REMOVED_WITHIN_S = 60.0


class Group:
    def __init__(self, folder: Path, limit_file: str) -> None:
        self.folder = folder
        self.limit_file = folder / limit_file

    def limit(self, count: int) -> None:
        self.limit_file.write_text(str(count))

    def enter(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]


@contextlib.contextmanager
def memory_group(limit: int, name: str = "") -> Iterator[Group]:
    """Skips where we may not make one."""
    group = _make(f"hc_{name}{os.getpid()}")
    try:
        try:
            group.limit(limit)
        except OSError as error:
            pytest.skip(f"control groups of memory cannot be limited here: {error}")
        yield group
    finally:
        _remove(group)


def _make(name: str) -> Group:
    own = Path("/proc/self/cgroup").read_text().splitlines()
    table = read_table()
    for line in own:
        _, controllers, path = line.split(":", 2)
        version = V1 if "memory" in controllers.split(",") else V2 if not controllers else None
        mount = _hierarchy(table, "cgroup", "memory") if version is V1 else _hierarchy(table, "cgroup2", "")
        if version is None or mount is None:
            continue
        parent = Path(next(_folders(mount, path)))
        if version is V2 and "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            continue
        try:
            (parent / name).mkdir()
        except OSError as error:
            pytest.skip(f"no control group of our own: {error}")
        return Group(parent / name, version.limit)
    pytest.skip("no control groups of memory may be made here")


def _remove(group: Group) -> None:
    """Its members are ours: what a test has put there and not ended is ended."""
    end = time.monotonic() + REMOVED_WITHIN_S
    while True:
        for pid in group.members():
            status = proc.stat(pid)
            if status is not None:
                proc.send_signal(status.ref, signal.SIGKILL)
        try:
            group.folder.rmdir()
        except OSError:
            assert time.monotonic() < end, f"{group.folder} cannot be removed"
            time.sleep(0.01)
        else:
            return
