"""The sandbox of `healctl demo`: a directory, the toys in it, its own daemon, and for the disk a mount that is its own.

The mount lives in a mount namespace of the demo (mount_namespaces(7)): no other program sees it, and it ends with the
last process in there. Whatever becomes of the demo, `demo_guard` removes the rest.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from supervisor import clock, proc
from supervisor.cli import output
from supervisor.cli.demo_guard import RUNTIME
from supervisor.errors import HealError
from supervisor.incidents.readings import ProcessRef

READY_S = 20.0
CLEARED_S = 60.0
LOOK_S = 0.02
DISK_BYTES = 32 * 1024**2
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # os.unshare is Python 3.12
_libc = ctypes.CDLL(None, use_errno=True)
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 16384, 1 << 18, 2, 4  # mount(2)

TOY = """\
import os, pathlib, signal, sys
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
print("toy service: at your service", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
"""
# It appends some 300 KB every 20 ms until its disk is as full as told, then ten lines a second.
CHATTY = """\
import os, sys, time
log, full = sys.argv[1], float(sys.argv[2])
fd, number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), 0
def used():
    now = os.statvfs(os.path.dirname(log))
    return (now.f_blocks - now.f_bfree) / (now.f_blocks - now.f_bfree + now.f_bavail)
def write(count):
    global number
    lines = [b"%08d %s the quick brown fox %s\\n" % (n, os.urandom(8).hex().encode(), b"jumps " * 12)
             for n in range(number, number + count)]
    os.write(fd, b"".join(lines))
    number += count
while used() < full:
    write(3000)
    time.sleep(0.02)
while True:
    write(1)
    time.sleep(0.1)
"""
# It keeps the trades database, and writes its heartbeat into it ten times a second; what comes of that is in a file.
BOT = """\
import json, os, sqlite3, sys, time
path, said = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None, timeout=0.05)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, status TEXT, note TEXT)")
db.execute("CREATE TABLE heartbeat (at REAL)")
db.execute("INSERT INTO heartbeat VALUES (0)")
db.execute("BEGIN")
row = ("TOY/USD", "long", "closed", "a trade to remember " * 8)
db.executemany("INSERT INTO trades (symbol, side, status, note) VALUES (?, ?, ?, ?)", (row for _ in range(3000)))
db.execute("COMMIT")
db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
written = refused = 0
while True:
    try:
        db.execute("UPDATE heartbeat SET at = ?", (time.time(),))
        written, error = written + 1, ""
    except sqlite3.Error as why:
        refused, error = refused + 1, str(why)
    with open(said + ".new", "w") as file:
        json.dump({"written": written, "refused": refused, "error": error}, file)
    os.replace(said + ".new", said)
    time.sleep(0.1)
"""
ASK = """\
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=5)
rows, = db.execute("SELECT count(*) FROM trades").fetchone()
print(json.dumps({"rows": rows, "integrity": db.execute("PRAGMA integrity_check").fetchone()[0]}))
"""
HOUSE = """\
[healctl]
state_dir = "{at}/state"
runtime_dir = "{at}/run"

# The sandbox is shown, not the machine around it.
[memory]
pressure = "2MB"
critical = "1MB"

[notify.signal]
transports = ["{signal}"]
account = "+15550100"
recipient = "+15550101"
"""
NO_DISK = "[disk]\nmounts = []\n[logs]\n"
PARTS = {
    "service": """\
[process.toy]
pid_file = "{at}/toy.pid"
match = '{toy}'
auto_restart = true
restart = {{ argv = ["{python}", "{at}/toy.py", "{at}/toy.pid"] }}
""",
    "disk": """\
[disk]
mounts = ["{at}/disk"]
discover = false
interval = "1s"
[logs.chatty]
paths = ["{at}/disk/chatty.log"]
max_size = "8MiB"
interval = "1h"
""",
    "database": """\
[trading.bot]
signal_file = "{at}/signal.json"
trades_db = "{at}/trades.db"
max_age = "1h"
[database.bot-trades]
path = "{at}/trades.db"
interval = "1s"
""",
}


class Sandbox:
    """Made at once, its guard with it; `clear` ends and removes everything."""

    def __init__(self) -> None:
        self.at = Path(os.path.realpath(tempfile.mkdtemp(prefix="healctl-demo-")))
        self.disk = self.at / "disk"
        self.runtime_dir = self.at / RUNTIME
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        # -P: a package called `supervisor` in the current directory is not ours. In a session of its own: Ctrl-C is for
        # the demo alone.
        argv = [sys.executable, "-P", "-m", "supervisor.cli.demo_guard", str(self.at)]
        self._guard = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)

    def mount(self) -> str:
        """A small disk of our own at `disk`; why not, in words, when it cannot be had. Before any thread is started."""
        self.disk.mkdir()
        if os.geteuid() != 0:
            # Tried by another first: who is let into a namespace of users but not into his rights there is nobody.
            code = "import sys; from supervisor.cli.demo_box import mount_own; mount_own(sys.argv[1])"
            argv = [sys.executable, "-P", "-c", code, str(self.disk)]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=READY_S, check=False)
            if done.returncode != 0:
                why = done.stderr.strip().rpartition("\n")[2]
                return f"this user may mount no small disk, not even in a namespace of its own ({why}); try it as root"
        try:
            mount_own(str(self.disk))
        except OSError as error:
            return f"a small disk of its own cannot be mounted: {error.strerror} ({error.filename})"
        return ""

    def prepare(self, acts: Sequence[str], signal_url: str) -> None:
        for name, text in (("toy", TOY), ("chatty", CHATTY), ("bot", BOT), ("ask", ASK)):
            (self.at / f"{name}.py").write_text(text)
        (self.at / "signal.json").write_text(f'{{"side": "flat", "updated_at": "{clock.rfc3339(clock.wall_s())}"}}\n')
        config = HOUSE + "".join(PARTS[act] for act in acts) + ("" if "disk" in acts else NO_DISK)
        toy = re.escape(str(self.at / "toy.py"))
        text = config.format(at=self.at, toy=toy, python=sys.executable, signal=signal_url)
        (self.at / "demo.toml").write_text(text)

    def start(self, name: str, *words: str) -> None:
        """One of the toys."""
        self._spawn([sys.executable, str(self.at / f"{name}.py"), *words], name)

    def start_daemon(self) -> None:
        code = "from supervisor.cli.main import main; main()"
        self._spawn([sys.executable, "-P", "-c", code, "start", "-c", str(self.at / "demo.toml")], "daemon")

    def _spawn(self, argv: list[str], name: str) -> None:
        with (self.at / f"{name}.log").open("ab") as out:
            self._children[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def look(self) -> None:
        """Reaps: a dead toy that nobody reaps would stay a zombie. Raises HealError when the daemon has ended."""
        codes = {name: code for name, child in self._children.items() if (code := child.poll()) is not None}
        if "daemon" in codes:
            raise HealError(f"the daemon ended with exit code {codes['daemon']}")

    def ask_database(self) -> bytes:
        """JSON: how many trades it holds, and what SQLite says of its integrity. Raises HealError."""
        argv = [sys.executable, str(self.at / "ask.py"), str(self.at / "trades.db")]
        done = subprocess.run(argv, capture_output=True, timeout=READY_S, check=False)
        if done.returncode != 0:
            raise HealError(f"the database cannot be read: {done.stderr.decode(errors='replace').strip()[-200:]}")
        return done.stdout

    def wait_for_toy(self, than: ProcessRef | None = None) -> ProcessRef:
        """The live toy that the pid file names, another one than `than`. Raises HealError."""
        pid_file = self.at / "toy.pid"
        until_s = clock.monotonic_s() + READY_S
        while clock.monotonic_s() < until_s:
            text = pid_file.read_text().strip() if pid_file.exists() else ""
            found = proc.stat(int(text)) if text else None
            if found is not None and found.live and found.ref != than:
                return found.ref
            time.sleep(LOOK_S)
        raise HealError("the toy service does not live", f"its output is in {self.at}/toy.log")

    def show_log(self) -> None:
        log = self.at / "daemon.log"
        if log.exists():
            output.note("the daemon's last words:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))

    def clear(self) -> None:
        """By its guard, which would do the same if we were killed. Raises HealError when something is left."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        code = self._guard.wait(CLEARED_S)
        for child in self._children.values():
            child.wait(CLEARED_S)
        if code != 0 or self.at.exists():
            raise HealError(f"{self.at} could not be removed", "end what still uses it, and remove it")


def mount_own(point: str) -> None:
    """A tmpfs in a mount namespace of this process alone; as another user than root in one of users, too, in which one
    may mount: we stay who we are. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
    if uid != 0:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{file}").write_text(text)
    _mount("none", "/", "", MS_REC | MS_PRIVATE, "")  # what is mounted here is seen nowhere else
    _mount("tmpfs", point, "tmpfs", MS_NOSUID | MS_NODEV, f"size={DISK_BYTES},mode=0700")


def _mount(source: str, point: str, kind: str, flags: int, options: str) -> None:
    words = (os.fsencode(source), os.fsencode(point), kind.encode() or None, flags, options.encode() or None)
    if _libc.mount(*words) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "mount")
