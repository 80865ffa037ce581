"""The parts of the tree beside the kernel: specification, lock, captured output, the root's own output, notify."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from supervisor import proc
from supervisor.config import Config, Duration, ProcessSection, TreeSection
from supervisor.errors import AlreadyRunning, ConfigError, Refused
from supervisor.messages import TreeEvent, TreeKind, encode
from supervisor.tree import capture, lock, output, sd_notify, spec, wording
from supervisor.tree.model import ITEMS_MAX, Backoff, GroupSpec, OnTrip
from supervisor.tree.turn import portions
from supervisor.worker import PACKET_BYTES_MAX, Worker

TOY = "tests.process.toys:Toy"


class Half(Worker):
    """Cannot be started: `stop` is missing."""

    async def start(self) -> None: ...


# --- specification ---


def test_our_tree_has_a_probe_worker_only_for_what_there_is_to_probe() -> None:
    bare = spec.healctl_tree(Config())
    assert [(c.name, c.group) for c in bare.children] == [
        ("store", "core"),
        ("healer", "core"),
        ("executor", "hands"),
        ("notifier", "hands"),
        ("host", "probes"),
        ("database", "probes"),
        ("logs", "probes"),
    ]
    full = spec.healctl_tree(Config(process={"x": ProcessSection(pid_file="/x.pid")}))
    assert (full.children[4].name, full.children[4].group) == ("process", "probes")
    assert full.listener == "healer"


@pytest.mark.req("R10")
def test_a_halted_database_of_ours_is_held_right_after_the_core_so_that_nothing_else_delays_it() -> None:
    tree = spec.healctl_tree(Config(), ("brain-db", "ledger", "somebody-elses"))
    assert [(c.name, c.group) for c in tree.children[:3]] == [
        ("store", "core"),
        ("healer", "core"),
        ("hold:brain-db", "hands"),
    ]
    assert [c.name for c in tree.children if c.name.startswith("hold:")] == ["hold:brain-db"]
    assert spec.preload(tree)["hold:brain-db"].__name__ == "HoldWorker"


def test_the_default_times_make_a_valid_tree() -> None:
    tree = spec.tree_of(TreeSection(), [("a", TOY, "core")])
    assert list(spec.preload(tree)) == ["a"]


@pytest.mark.parametrize(
    ("workers", "section", "message"),
    [
        ([("a", TOY, "core"), ("a", TOY, "hands")], {}, "two of the name 'a'"),
        ([("a", TOY, "feet")], {}, "a: unknown group 'feet', expected one of core, hands, probes"),
        ([("a b", TOY, "core")], {}, "child name 'a b'"),
        ([("a", "nowhere:X", "core")], {}, "cannot load 'nowhere:X'"),
        ([("a", "tests.process.toys:Nobody", "core")], {}, "cannot load 'tests.process.toys:Nobody'"),
        ([("a", "tests.process.toys:tell", "core")], {}, "tell is not a Worker"),
        ([("a", f"{__name__}:Half", "core")], {}, "Half does not implement stop"),
        ([("a", "tests.process.toys", "core")], {}, "expected module:Class"),
        ([], {}, "there is no child to start"),
        ([("a", TOY, "core")], {"beat_within": 5}, "at least two beats"),
        ([("a", TOY, "core")], {"ready_within": 0}, "must be greater than 0"),
        ([("a", TOY, "core")], {"backoff_max": 0.01}, "backoff_max not smaller"),
        ([("a", TOY, "core")], {"backoff_reset": 0}, "backoff_reset"),
        ([("a", TOY, "core")], {"core_intensity": 0}, "core_intensity must be at least 1"),
        ([("a", TOY, "core")], {"backoff_max": 60, "backoff_base": 30}, "core_intensity can never be reached within"),
    ],
)
def test_a_bad_tree_is_refused_whole(
    workers: list[tuple[str, str, str]], section: dict[str, float], message: str
) -> None:
    times = {key: value if key.endswith("intensity") else Duration(value) for key, value in section.items()}
    with pytest.raises(ConfigError, match=message):
        spec.preload(spec.tree_of(TreeSection(**times), workers))  # type: ignore[arg-type]


def test_every_fault_is_named_at_once() -> None:
    tree = spec.tree_of(TreeSection(), [("a", "nowhere:X", "feet")], listener="ear")
    with pytest.raises(ConfigError) as raised:
        spec.preload(replace(tree, quarantine_retry_s=0))
    for part in ("unknown group", "nowhere", "'ear' is not a child", "quarantine_retry"):
        assert part in str(raised.value)


def test_delays_must_fit_into_the_period() -> None:
    tree = spec.tree_of(TreeSection(), [("a", TOY, "core")])
    tight = replace(
        tree,
        groups=(GroupSpec("core", OnTrip.GIVE_UP, 3, 1.0),),
        backoff=Backoff(first_s=0, base_s=1, max_s=3, reset_s=9),
    )
    with pytest.raises(ConfigError, match="3 restarts are delayed by 3 s in all"):
        spec.preload(tight)


# --- lock ---


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with lock.acquire(run):
        assert os.stat(run).st_mode & 0o777 == 0o700
        me = lock.holder(run)
        assert me is not None
        assert me.pid == os.getpid()
        with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} holds"):
            lock.acquire(run)
    assert lock.holder(run) is None
    lock.acquire(run).release()


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert lock.holder(tmp_path) is None
    (tmp_path / lock.NAME).write_text("not a holder\n")
    assert lock.holder(tmp_path) is None
    mine = proc.stat(os.getpid())
    assert mine is not None
    (tmp_path / lock.NAME).write_text(f"{mine.pid} {mine.start_ticks + 1} {mine.ref.boot_id}\n")  # a recycled pid
    assert lock.holder(tmp_path) is None


def test_a_lock_held_without_a_name_is_still_a_lock(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    with open(tmp_path / lock.NAME, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match="has not said who it is"):
            lock.acquire(tmp_path)


def test_a_directory_that_is_not_ours_alone_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o750)
    with pytest.raises(Refused, match="mode 0750") as raised:
        lock.acquire(tmp_path)
    assert raised.value.hint == f"chmod 700 {tmp_path}"
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(Refused, match="is not a directory"):
        lock.acquire(link)
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot use"):
        lock.acquire(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    os.chown(run, 65534, 65534)
    with pytest.raises(Refused, match="belongs to uid 65534"):
        lock.acquire(run)


# --- captured output ---


class Pipe:
    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        os.set_blocking(reading, False)
        self.lines: list[tuple[str, str, str]] = []
        self.capture = capture.Capture("w", reading, lambda *line: self.lines.append(line), 0.0)

    def write(self, raw: bytes, now_s: float = 0.0) -> None:
        os.write(self.writing, raw)
        while self.capture.read(now_s):
            pass

    def finish(self, now_s: float = 0.0) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1
        self.capture.finish(now_s)


def test_lines_get_the_level_they_begin_with() -> None:
    pipe = Pipe()
    pipe.write(b"WARNING supervisor.x: careful\nplain")
    pipe.write(b" text\n\xff\xfe\nunfinished")
    pipe.finish()
    assert pipe.lines == [
        ("warning", "w", "supervisor.x: careful"),
        ("out", "w", "plain text"),
        ("out", "w", "\\xff\\xfe"),
        ("out", "w", "unfinished"),
    ]
    assert pipe.capture.ended
    assert pipe.capture.last_words.endswith("unfinished")


def test_too_many_lines_are_counted_and_the_last_are_kept() -> None:
    pipe = Pipe()
    for n in range(600):
        pipe.write(f"{n}\n".encode())
    assert len(pipe.lines) == capture.LINES_BURST
    assert pipe.capture.report_due_s == capture.REPORT_AFTER_S
    pipe.capture.report(1.0)
    assert pipe.lines[-1] == ("warning", "w", "100 lines dropped: more than 100 a second")
    pipe.write(b"again\n", now_s=2.0)
    assert pipe.lines[-1] == ("out", "w", "again")
    assert pipe.capture.last_words.split("\n")[-2:] == ["599", "again"]
    pipe.finish()


def test_a_line_without_end_costs_no_memory() -> None:
    pipe = Pipe()
    for _ in range(50):
        pipe.write(b"x" * 8192)
    pipe.write(b"\nnext\n")
    assert [text for _, _, text in pipe.lines] == ["x" * capture.LINE_BYTES_MAX, "next"]
    pipe.finish()


def test_somebody_else_who_writes_on_is_not_waited_for() -> None:
    pipe = Pipe()
    os.write(pipe.writing, b"last words\n")
    pipe.capture.finish(0.0)
    assert pipe.lines == [("out", "w", "last words")]
    os.close(pipe.writing)


# --- the root's own output ---


def test_a_full_pipe_never_blocks_and_loss_is_told() -> None:
    reading, writing = os.pipe()
    out = output.Output(writing)
    for _ in range(200):
        out.write("info", "root", "x" * 9_999)
    assert out.blocked
    while out.blocked:
        os.read(reading, 65536)
        out.flush()
    out.write("info", "root", "after")
    rest = os.read(reading, 65536)
    while not rest.endswith(b'"after"}\n'):
        out.flush()
        rest += os.read(reading, 65536)
    lost, after = (msgspec.json.decode(line) for line in rest.splitlines()[-2:])
    assert lost["message"].endswith("lines lost: the output was not taken")
    assert after["message"] == "after"
    os.close(reading)
    os.close(writing)


def test_a_reader_that_is_gone_costs_lines_only() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        out = output.Output(writing)
        out.write("info", "root", "nobody hears this")
        assert not out.blocked
    finally:
        signal.signal(signal.SIGPIPE, before)
        os.close(writing)


def test_the_log_is_rotated_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "healctl.log"
    out = output.Output.to_file(path, bytes_max=1000)
    for n in range(100):
        out.write("info", "root", f"line {n:03d}")
    assert path.stat().st_size < 1100
    assert (tmp_path / "healctl.log.1").stat().st_size < 1100
    assert "line 099" in path.read_text() + (tmp_path / "healctl.log.1").read_text()
    os.close(out.fd)


def test_a_full_disk_costs_lines_only() -> None:
    out = output.Output(os.open("/dev/full", os.O_WRONLY))
    out.write("info", "root", "x")
    assert not out.blocked
    os.close(out.fd)


# --- systemd ---


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    notifier = sd_notify.Notifier()
    assert notifier.watchdog_s is None
    assert notifier.ready("fine") == ""
    assert "WATCHDOG_USEC" not in os.environ  # a service that we restart must not speak for us
    notifier.close()


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = sd_notify.Notifier()
    assert notifier.watchdog_s is None
    assert "cannot notify systemd" in notifier.stopping()
    notifier.close()


# --- words ---


def test_every_event_has_its_line() -> None:
    for kind in TreeKind:
        event = TreeEvent(kind, "w", 7, "w.1", 0.0, restarts=2, exit_text="exit 1", items=("outbox:1",), delay_s=0.5)
        level, child, text = wording.line_of(event)
        assert level in ("info", "warning", "error")
        assert child == "w"
        assert text
    never = TreeEvent(TreeKind.QUARANTINED, "w", 7, "w.1", 0.0, exit_text="exit 78")
    assert wording.line_of(never)[2] == "quarantined (exit 78): not started again"


# --- forks ---


def test_importing_everything_leaves_the_root_forkable() -> None:
    """One thread and no ZeroMQ context after the preload of all that the workers import."""
    code = """
import asyncio, h11, psutil, sqlite3, sqlite_utils, zmq
from supervisor import bus
from supervisor.tree.spawn import assert_forkable
assert_forkable()
context = zmq.Context()
try:
    assert_forkable()
except RuntimeError as error:
    assert "ZeroMQ context" in str(error)
else:
    raise SystemExit("a context was not seen")
context.term()
del context
assert_forkable()
import threading
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
try:
    assert_forkable()
except RuntimeError as error:
    assert "2 threads" in str(error)
else:
    raise SystemExit("a thread was not seen")
finally:
    stop.set()
    thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [TreeKind.EXITED, TreeKind.ITEM_QUARANTINED])
@pytest.mark.parametrize("length", [10, 4_000])
def test_what_was_in_work_fits_into_packets(kind: TreeKind, length: int) -> None:
    """A packet that is cut off ends its reader: the healer died of a fleet's death."""
    items = tuple(f"{n:\u00e9>{length}}" for n in range(ITEMS_MAX))
    event = TreeEvent(kind, "fleet", 1, "fleet.1.1", 0.0, items=items, last_words="\u00e9" * 4_000)
    parts = portions(event)
    assert all(len(encode(part)) < PACKET_BYTES_MAX for part in parts)
    if kind is TreeKind.ITEM_QUARANTINED:
        assert tuple(item for part in parts for item in part.items) == items
    else:
        assert len(parts) == 1
        assert parts[0].items[-1].endswith(" more")
    assert portions(replace(event, items=("a",))) == [replace(event, items=("a",))]
