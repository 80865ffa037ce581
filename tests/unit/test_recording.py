"""The flight recorder: what it holds gives the same decisions again, and it never stands in the way (DESIGN §2.5)."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import recording
from supervisor.cli.main import run
from supervisor.cli.waiting import CLEAR
from supervisor.errors import UsageError
from supervisor.incidents import events as e
from supervisor.incidents.engine import Engine
from supervisor.incidents.model import Instant
from supervisor.incidents.world import Decision
from supervisor.recording import Recorder, replay
from tests.lab.engine import Lab, service

pytestmark = pytest.mark.req("FR-004", "R4")


class Recorded(Engine):
    """An engine with its recorder, as the healer has them."""

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        super().__init__(engine.world)
        self.recorder = recorder

    def handle(self, event: e.Event, now: Instant) -> Decision:
        self.recorder.given(event, now)
        decision = super().handle(event, now)
        self.recorder.decided(decision)
        return decision


def recorded(lab: Lab, folder: Path, limit: int = 1 << 24) -> Recorder:
    recorder = Recorder(folder, limit, lab.engine.world)
    lab.engine = Recorded(lab.engine, recorder)
    return recorder


def story(lab: Lab) -> None:
    """A heal, an approval, a dry run, an undo of nothing, a pause, a dismissal, orders that are refused."""
    lab.kill("auto")
    lab.advance(5.0)
    lab.kill("asks")
    lab.advance(5.0)
    lab.order("approve", runbook_id="rb-restart-service", target_id="asks")
    lab.advance(5.0)
    lab.order("pause", all=True)
    lab.kill("auto")
    lab.feed(e.ReadingSeen(lab.unavailable("asks")))
    lab.order("execute", runbook_id="rb-restart-service", target_id="asks", confirm=True)
    lab.order("status")
    for row_id in list(lab.engine.world.outbox):
        lab.feed(e.Delivered(row_id, 1, "receipt", ""))
    lab.advance(4_000.0)
    lab.order("resume", all=True)
    lab.advance(60.0)
    lab.order("mark", incident_id="inc_x", verdict="fine")


def lab_of() -> Lab:
    return Lab(targets=(service("auto"), service("asks", auto_restart=False)))


def test_a_recorded_story_is_decided_the_same_in_another_process(tmp_path: Path) -> None:
    lab = lab_of()
    lab.kill("auto")  # the recorder begins with a memory that is not empty
    recorder = recorded(lab, tmp_path / "rec")
    story(lab)
    recorder.close()
    (file,) = (tmp_path / "rec").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    found = replay(file)
    assert (found.same, found.died, found.cut_off) == (True, None, False)
    assert found.decisions == sum(found.events.values()) > 40
    assert {"ReadingSeen", "Order", "TimersDue", "StepEnded", "Planned", "Delivered"} <= set(found.events)
    for seed in ("1", "2"):  # of Python's hashes, by which sets are ordered
        words = [sys.executable, "-m", "supervisor.cli", "replay", str(file), "--json"]
        words[1:3] = ["-c", "from supervisor.cli.main import main; main()"]
        done = subprocess.run(
            words, capture_output=True, check=False, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path.cwd()
        )
        assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
        assert msgspec.json.decode(done.stdout)[0]["decisions"] == found.decisions


def killed(folder: Path) -> Path:
    """The recording of a service that dies and is restarted."""
    lab = lab_of()
    recorder = recorded(lab, folder)
    lab.kill("auto")
    lab.advance(5.0)
    recorder.close()
    (file,) = folder.iterdir()
    return file


def test_what_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = killed(tmp_path)
    monkeypatch.setattr("supervisor.incidents.world.RECHECK_S", 9.0)
    monkeypatch.setattr("supervisor.incidents.detect.RECHECK_S", 9.0)
    found = replay(file)
    assert not found.same
    assert found.different is not None
    assert (found.different["event"], found.different["part"]) == ("ReadingSeen", "records")
    assert found.different["recorded"] != found.different["replayed"]
    assert run(["replay", str(file), "-o", "table", "--show"]) == 1
    assert "one differs" in capsys.readouterr().out


def test_a_terminal_sees_how_far_a_replay_is_and_programs_see_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = killed(tmp_path)
    monkeypatch.setattr("supervisor.cli.replay.LOOK_MS", 0)
    assert run(["replay", str(file), "--json"]) == 0
    assert capfd.readouterr().err == ""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert run(["replay", str(file), "--json"]) == 0
    seen = ""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while more := os.read(ours, 4096):
            seen += more.decode()
    os.close(ours)
    assert f"{file.name}: 100% of 0." in seen
    assert seen.endswith(CLEAR)
    assert msgspec.json.decode(capfd.readouterr().out)[0]["same"]


def test_the_event_that_the_engine_died_of_is_the_last_and_dies_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of()
    recorder = recorded(lab, tmp_path)
    lab.poll("auto")

    def breaks(*args: Any, **more: Any) -> None:
        raise RuntimeError("poison")

    with monkeypatch.context() as patch:
        patch.setattr("supervisor.incidents.remedy.consider", breaks)
        with pytest.raises(RuntimeError, match="poison"):
            lab.kill("auto")
        recorder.close()
        (file,) = tmp_path.iterdir()
        assert replay(file).died == "ReadingSeen: RuntimeError('poison')"
        assert run(["replay", str(file), "--json"]) == 1
    assert replay(file).died == "", "it was mended"


def test_parts_follow_one_another_and_stay_below_the_limit(tmp_path: Path) -> None:
    lab = lab_of()
    limit = 400_000
    recorder = recorded(lab, tmp_path, limit)
    for _ in range(60):
        lab.kill("auto")
        lab.advance(4_000.0)
    recorder.close()
    files = sorted(tmp_path.iterdir())
    assert 2 <= len(files) <= recording.PARTS + 1
    assert not files[0].name.endswith("-0001.rec"), "the oldest are gone"
    assert sum(file.stat().st_size for file in files) <= limit * 1.25
    assert all(replay(file).same for file in files), "each begins with the memory of its time"


@pytest.mark.parametrize("cut", [1, 3, 40])
def test_what_a_crash_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    lab = lab_of()
    recorder = recorded(lab, tmp_path)
    lab.kill("auto")
    recorder.close()
    (file,) = tmp_path.iterdir()
    whole = replay(file)
    file.write_bytes(file.read_bytes()[:-cut])
    found = replay(file)
    assert (found.same, found.cut_off) == (True, True)
    assert found.decisions == whole.decisions - 1


@pytest.mark.parametrize("content", [b"", b"x", b"no recording at all", b"\x00\x00\x00\x01\xc0", b"\xff" * 50])
def test_what_is_no_recording_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.rec"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is no recording of healctl"):
        replay(file)
    assert run(["replay", str(file), "--json"]) == 2


def test_a_recording_of_another_form_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.rec"
    raw = msgspec.msgpack.encode(recording.Header(99, "9.9", ""))
    file.write_bytes(len(raw).to_bytes(4, "big") + raw)
    with pytest.raises(UsageError, match="has format 99"):
        replay(file)


@pytest.mark.parametrize("trouble", ["no folder", "full"])
def test_a_recorder_that_cannot_write_stops_and_nothing_else_does(tmp_path: Path, trouble: str) -> None:
    lab = lab_of()
    if trouble == "no folder":
        (tmp_path / "rec").write_text("a file is in its place")
    recorder = recorded(lab, tmp_path / "rec")
    if trouble == "full":
        assert recorder._fd is not None
        os.dup2(os.open("/dev/full", os.O_WRONLY), recorder._fd)
    lab.kill("auto")
    lab.advance(5.0)
    assert lab.only("auto").state == "resolved"
    assert recorder._fd is None
    recorder.close()


def test_nothing_is_recorded_unless_it_is_wanted(tmp_path: Path) -> None:
    lab = lab_of()
    recorder = recorded(lab, tmp_path / "rec", limit=0)
    lab.kill("auto")
    recorder.close()
    assert not (tmp_path / "rec").exists()
