"""Real sshds, each on an address and in a folder of its own: its host key, its log, who may log in.

Needs root (sshd does) and Debian's openssh-server, which `tests/parts.sh` gets.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from supervisor import proc
from tests.lab.daemon import until

PROGRAM = "/usr/sbin/sshd"
PRIVILEGE_SEPARATION = Path("/run/sshd")  # built into Debian's sshd, which makes it only as a service
PORT = 2222


def missing() -> str:
    """Why no sshd can be had here; empty when one can."""
    if not os.path.exists(PROGRAM):
        return "openssh-server is not installed; tests/parts.sh gets it"
    return "" if os.geteuid() == 0 else "sshd needs root"


def no_namespaces() -> str:
    """Why there can be no `Far` here; empty when there can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed; tests/parts.sh gets it"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


def new_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A key pair: `path` and `path`.pub."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "healctl-test", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path


class Sshd:
    """One sshd, not started yet. `within`: words before it, e.g. to run it in a network namespace."""

    def __init__(self, folder: Path, address: str, login: Path, *within: str) -> None:
        self.folder, self.address, self.within = folder / address, address, within
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.key = new_key(self.folder / "host_key")
        shutil.copy(f"{login}.pub", self.folder / "authorized_keys")
        self.config = self.folder / "sshd_config"
        self.config.write_text(
            f"ListenAddress {address}:{PORT}\nHostKey {self.key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nMaxStartups 1000\nLogLevel VERBOSE\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        words = [*self.within, PROGRAM, "-D", "-e", "-f", str(self.config)]
        before = self.text().count("Server listening")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(f"sshd {self.address} listens", lambda: self._listens(before), 60.0)

    def _listens(self, before: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()
        return self.text().count("Server listening") > before

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def logins(self) -> int:
        """How often somebody has logged in."""
        return self.text().count("Accepted publickey")

    def known(self) -> str:
        """Its line in a known_hosts file."""
        kind, key, _ = Path(f"{self.key}.pub").read_text().split(maxsplit=2)
        return f"[{self.address}]:{PORT} {kind} {key}\n"

    def processes(self) -> list[int]:
        """The listening sshd, and what it forked for each connection."""
        if self.process is None:
            return []
        found, grew = {self.process.pid}, True
        table = [status for pid in proc.pids() if (status := proc.stat(pid)) is not None]
        while grew:
            more = {status.pid for status in table if status.parent_pid in found and status.live} - found
            found, grew = found | more, bool(more)
        return sorted(found)

    def signal(self, number: int) -> None:
        """To all its processes, so that its kept connections are struck, too."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, *, sessions: bool = True) -> None:
        """Ends it; its connections go on when not `sessions`, as when its service is restarted."""
        if self.process is None:
            return
        if sessions:
            self.signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait(60)
        self.process = None


class Lab:
    """A key that may log in, the sshds that it was given to, and a known_hosts file with all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.login = new_key(folder / "login")
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text("")
        self.hosts: list[Sshd] = []

    def sshd(self, address: str, *within: str) -> Sshd:
        """A new one, listening, its key known."""
        host = Sshd(self.folder, address, self.login, *within)
        self.hosts.append(host)
        with self.known_hosts.open("a") as file:
            file.write(host.known())
        host.start()
        return host

    def close(self) -> None:
        for host in self.hosts:
            host.stop()


class Far:
    """A network namespace with a link to ours, an end on each side: a host that can really be cut off.

    It lives as long as the process that holds it, and its link with it: nothing of it can be left behind.
    """

    def __init__(self, ours: str, theirs: str) -> None:
        self.ours, self.theirs = ours, theirs
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self.within = ("nsenter", "--target", str(self.holder.pid), "--net")
        here = os.readlink("/proc/self/ns/net")
        until("a namespace", lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != here, 60.0)
        link = f"hc{self.holder.pid}"
        _ip("link", "add", link, "type", "veth", "peer", "name", "far0", "netns", str(self.holder.pid))
        _ip("address", "add", f"{ours}/30", "dev", link)
        _ip("link", "set", link, "up")
        _ip("address", "add", f"{theirs}/30", "dev", "far0", within=self.within)
        self.join()

    def cut(self) -> None:
        """The cable is out."""
        _ip("link", "set", "far0", "down", within=self.within)

    def join(self) -> None:
        _ip("link", "set", "far0", "up", within=self.within)

    def swallow(self) -> None:
        """Every answer is lost on its way, as behind a firewall that drops."""
        _ip("route", "add", "blackhole", f"{self.ours}/32", within=self.within)

    def answer(self) -> None:
        _ip("route", "del", "blackhole", f"{self.ours}/32", within=self.within)

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait(60)


def _ip(*words: str, within: tuple[str, ...] = ()) -> None:
    subprocess.run([*within, "ip", *words], check=True, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def silent(address: str) -> Iterator[None]:
    """Something that accepts connections at PORT and never says a word."""
    with socket.create_server((address, PORT), backlog=16):
        yield
