"""A real systemd user manager of its own: no bus, no other service, its own mounts and control groups.

It is asked from outside of its namespaces as healctl asks it: by `XDG_RUNTIME_DIR` alone, through its private socket.
Its services see the machine's own files, but for /run/systemd and /sys/fs/cgroup.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from supervisor import proc
from supervisor.incidents.readings import ProcessRef
from tests.lab.daemon import until

SYSTEMD = "/lib/systemd/systemd"
# In a control group of its own, which then is the root of its own control group namespace.
_BEGIN = """
echo $$ >"$1/cgroup.procs"
exec unshare --mount --cgroup --propagation private /bin/sh -ec '
mkdir -p /run/systemd
mount --bind "$1" /run/systemd
mount -t cgroup2 none /sys/fs/cgroup
exec "$2" --user' - "$2" "$3"
"""


def missing() -> str:
    """Why no such manager can run here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root: namespaces, mounts and control groups"
    for program in ("unshare", "systemctl", SYSTEMD):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if _hierarchy() is None:
        return "no control group hierarchy of version 2"
    return ""


def _hierarchy() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    return None


class UserManager:
    """`environment` is what a program needs to find it."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"XDG_RUNTIME_DIR": str(folder / "run"), "XDG_CONFIG_HOME": str(folder / "config")}
        self._units = folder / "config/systemd/user"
        self._units.mkdir(parents=True)

    def systemctl(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["systemctl", "--user", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def unit(self, name: str, argv: list[str], *lines: str) -> None:
        """Writes the unit NAME.service and starts it."""
        text = "\n".join(["[Service]", f"ExecStart={shlex.join(argv)}", *lines, ""])
        (self._units / f"{name}.service").write_text(text)
        assert self.systemctl("daemon-reload") == (0, "")
        code, output = self.systemctl("start", f"{name}.service")
        assert code == 0, output

    def property(self, name: str, key: str) -> str:
        return self.systemctl("show", "-p", key, "--value", name)[1]


@contextlib.contextmanager
def user_manager() -> Iterator[UserManager]:
    """Everything that runs under it ends with it."""
    hierarchy = _hierarchy()
    assert hierarchy is not None
    folder = Path(tempfile.mkdtemp(prefix="hc"))
    group = hierarchy / folder.name
    group.mkdir()
    (folder / "run").mkdir(mode=0o700)
    (folder / "etc/system").mkdir(parents=True)
    made = UserManager(folder)
    log = (folder / "log").open("wb")
    child = subprocess.Popen(
        ["/bin/sh", "-ec", _BEGIN, "-", str(group), str(folder / "etc"), SYSTEMD],
        env={**os.environ, **made.environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        until(
            "the user manager",
            lambda: child.poll() is not None or made.property("basic.target", "ActiveState") == "active",
        )
        assert child.poll() is None, (folder / "log").read_text()
        yield made
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(60)
        child.kill()
        child.wait(60)
        log.close()
        _empty(group)
        shutil.rmtree(folder, ignore_errors=True)


def _empty(group: Path) -> None:
    """Ends whoever is still in the control group, and removes it."""
    groups = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    for one in [*groups, group]:
        for line in (one / "cgroup.procs").read_text().splitlines():
            status = proc.stat(int(line))
            if status is not None:
                proc.send_signal(status.ref, 9)
    for one in [*groups, group]:
        until(f"{one} is empty", lambda one=one: _removed(one))  # type: ignore[misc]


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def main_pid(manager: UserManager, name: str) -> ProcessRef | None:
    status = proc.stat(int(manager.property(f"{name}.service", "MainPID") or 0))
    return status.ref if status is not None and status.live else None
