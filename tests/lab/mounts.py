"""Real mounts for tests, in a mount namespace of this test run: the machine never sees them, and none is left behind.

`own_namespace` moves the test process, and with it every program that it starts from then on, into a namespace of its
own; a test that may not do so skips.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CLONE_NEWNS = 0x00020000  # os.unshare is Python 3.12
_libc = ctypes.CDLL(None, use_errno=True)
_moved = False


def own_namespace() -> None:
    global _moved
    if _moved:
        return
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    if _libc.unshare(CLONE_NEWNS) != 0:
        pytest.skip(f"may not have a mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")
    _moved = True


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


@contextlib.contextmanager
def mounted(point: Path, *argv: str) -> Iterator[Path]:
    """`mount ARGV... POINT` for as long as the block lasts."""
    own_namespace()
    if not point.exists():
        point.mkdir(parents=True)
    run("mount", *argv, str(point))
    try:
        yield point
    finally:
        unmount(point)


def unmount(point: Path) -> None:
    """Whatever is mounted there; nothing is no error."""
    subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False, timeout=60)


def tmpfs(point: Path, options: str = "size=4m") -> contextlib.AbstractContextManager[Path]:
    return mounted(point, "-t", "tmpfs", "-o", options, "tmpfs")


def bound(source: Path, point: Path) -> contextlib.AbstractContextManager[Path]:
    return mounted(point, "--bind", str(source))


@contextlib.contextmanager
def ext4(point: Path, size: str = "16M", *options: str) -> Iterator[Path]:
    """A file system in a file, over a loop device."""
    own_namespace()
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not there")
    image = point.with_suffix(".image")
    run("truncate", "-s", size, str(image))
    run("mkfs.ext4", "-q", *options, str(image))
    try:
        device = run("losetup", "--find", "--show", str(image)).strip()
    except AssertionError as error:
        pytest.skip(f"no loop devices: {error}")
    try:
        with mounted(point, "-t", "ext4", device):
            yield point
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def hung(point: Path) -> Iterator[Path]:
    """A file system whose server never answers: every look at it waits until the block ends (fuse(4))."""
    own_namespace()
    point.mkdir(parents=True, exist_ok=True)
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE: {error}")
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if _libc.mount(b"hung", os.fsencode(point), b"fuse", 0, options) != 0:
            pytest.skip(f"no FUSE: {os.strerror(ctypes.get_errno())}")
        yield point
    finally:
        os.close(server)  # the kernel gives up the connection: whoever waits gets an error
        _libc.umount2(os.fsencode(point), 2)


def fill(folder: Path, count: int, name: str = "fill") -> Path:
    """A file of so many bytes that really takes them."""
    path = folder / name
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, count)
    finally:
        os.close(fd)
    return path
