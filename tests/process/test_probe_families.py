"""What holds for every probe family alike: its readings travel, a change is read at once, no thread is no end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from probes import live
from probes.runner import probe_of
from supervisor import config, logfiles
from supervisor.incidents.readings import CheckData, HealthReading, ReadingData, Unavailable
from tests.lab.databases import make
from tests.lab.events import Recorder, watched
from tests.lab.probes import database, write

DEADLINE_S = 5.0
TRADES = "CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, status TEXT)"


def config_of(folder: Path, text: str = "") -> config.Config:
    """As TOML, so that durations and sizes are of the configuration's own types."""
    return config.parse(f'[healctl]\nstate_dir = "{folder}/state"\nruntime_dir = "{folder}/run"\n{text}', "test.toml")


def read(made: config.Config, family: str, target_id: str) -> HealthReading:
    async def main() -> HealthReading:
        probe = probe_of(family, made)
        try:
            return await probe.read(target_id, DEADLINE_S)
        finally:
            probe.close()

    return asyncio.run(main())


def site(folder: Path) -> str:
    """Something for each family to read."""
    write(folder / "signal.json", msgspec.json.encode({"signal": "buy", "symbol": "A", "updated_at": time.time()}))
    write(folder / "state.json", '{"active_tasks": [{"task_id": "task-001", "current_stage": "build"}]}')
    write(folder / "a.log", "a line\n")
    database(folder / "trades.db", TRADES, "INSERT INTO trades VALUES (1, 'B', 'long', 'open')")
    make(folder / "a.db")
    (folder / "pid").write_text(str(os.getpid()))
    return f"""
[process.p]
pid_file = "{folder}/pid"
interval = "61s"
restart = {{ systemd = "no-such-unit" }}
[trading.t]
signal_file = "{folder}/signal.json"
trades_db = "{folder}/trades.db"
max_age = "77s"
[gateway.g]
status = ["/bin/true"]
health_url = "http://127.0.0.1:1/healthz"
interval = "62s"
[pipeline.l]
state_file = "{folder}/state.json"
stage_done = ["/bin/true"]
stuck_after = "78s"
[fleet]
timeout = "1s"
[fleet.hosts.h]
address = "127.0.0.1"
[disk]
mounts = ["/"]
pressure = 0.5
critical = 1
[memory]
pressure = "2MiB"
critical = "1MiB"
[database.d]
path = "{folder}/a.db"
interval = "63s"
[logs.o]
paths = ["{folder}/*.log"]
max_size = "3MiB"
"""


@pytest.mark.req("FR-001", "NFR-004")
def test_a_reading_of_every_family_travels_as_it_is(tmp_path: Path) -> None:
    """The configuration's durations and sizes are types of their own, which no message can hold."""
    made, told = config_of(tmp_path, site(tmp_path)), set()
    for family, target_id in (
        ("process", "p"),
        ("trading", "t-signals"),
        ("trading", "t-positions"),
        ("gateway", "g"),
        ("pipeline", "pipeline:task-001"),
        ("fleet", "fleet:gone"),
        ("host", "disk:/"),
        ("host", "system-memory"),
        ("host", "healctl:drill"),
        ("database", "d"),
        ("logs", "o"),
    ):
        reading = read(made, family, target_id)
        assert reading.data is not None, reading
        told.add(type(reading.data))
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(reading), type=HealthReading) == reading
        assert msgspec.json.decode(msgspec.json.encode(reading), type=HealthReading) == reading
    assert told == set(ReadingData.__args__) - {CheckData}, "every kind of data; a plugin's is in test_plugin_template"


# --- a reload -------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "R8")
@pytest.mark.parametrize(
    ("family", "before", "after", "expected"),
    [
        ("trading", '[trading.t]\nsignal_file = "/a"', '[trading.t]\nsignal_file = "/b"', {"t-signals"}),
        ("logs", '[logs.o]\npaths = ["/a"]', '[logs.o]\npaths = ["/b"]', {"o"}),
        ("logs", '[logs.o]\npaths = ["/a"]', '[logs.o]\npaths = ["/a"]\nmax_size = "1MiB"', {"o"}),
        ("database", '[database.d]\npath = "/a"', '[database.d]\npath = "/b"', {"d"}),
        ("host", "[memory]", '[memory]\npressure = "1GiB"', {"system-memory"}),
        ("host", '[disk]\nmounts = ["/"]', '[disk]\nmounts = ["/"]\npressure = 0.5', {"disk:/"}),
    ],
)
def test_what_another_configuration_changes_is_read_at_once(
    tmp_path: Path, family: str, before: str, after: str, expected: set[str]
) -> None:
    """Its next poll may be half an hour away: until then nobody would watch the new file, or by the new limit."""
    fixed = "" if family == "host" and "disk" in before else '[disk]\nmounts = ["/"]\ndiscover = false\n'
    first, second = config_of(tmp_path, fixed + before), config_of(tmp_path, fixed + after)
    probe = probe_of(family, first)

    async def story(events: Recorder) -> None:
        probe.reconfigure(first)
        assert events.soon == [], "nothing has changed"
        probe.reconfigure(second)
        sources = {source.source_id for source in probe.sources()}
        assert {name for name, in_s in events.soon if in_s == 0 and name in sources} == expected

    watched(probe, story)


# --- no more threads ------------------------------------------------------------------------------------------------


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("family", "target_id"),
    [
        ("trading", "t-signals"),
        ("trading", "t-positions"),
        ("pipeline", "pipeline:task-001"),
        ("host", "disk:/"),
        ("host", "system-memory"),
        ("database", "d"),
        ("logs", "o"),
    ],
)
def test_without_a_thread_to_be_had_a_target_is_unavailable_and_read_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, target_id: str
) -> None:
    made = config_of(tmp_path, site(tmp_path))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            probe = probe_of(family, made)
            reading = await probe.read(target_id, DEADLINE_S)
            assert reading.reason is Unavailable.ERROR, reading
            assert "can't start new thread" in reading.error
        readings = [await probe.read(target_id, DEADLINE_S) for _ in range(2)]  # the first may still tell that failure
        assert readings[-1].available, readings[-1].error
        probe.close()

    asyncio.run(main())


# --- check --live ---------------------------------------------------------------------------------------------------


@pytest.mark.req("R9")
@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")  # ended, but nobody waits for its end
def test_a_status_command_that_hangs_is_ended_when_the_look_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script, pid_file = tmp_path / "status", tmp_path / "pid"
    script.write_text(f"#!/bin/sh\necho $$ > {pid_file}\nexec sleep 1000\n")
    script.chmod(0o755)
    live.run(config_of(tmp_path, f'[gateway.g]\nstatus = ["{script}"]\n[disk]\nmounts = []\n[logs]\n'))
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    end_s = time.monotonic() + 60
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end_s, "it outlives the look"
    gc.collect()  # here, where the warning is known
    assert "Task was destroyed" not in caplog.text, "it was ended in good order, not when it was forgotten"


@pytest.mark.req("R9")
def test_a_look_that_hangs_leaves_no_complaint_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def hang(patterns: tuple[str, ...], end_s: float) -> logfiles.Scan:
        over.wait()
        return logfiles.Scan()

    monkeypatch.setattr(logfiles, "scan", hang)
    try:
        looks, _ = live.run(config_of(tmp_path, '[logs.o]\npaths = ["/a"]\n[disk]\nmounts = []\n'))
        (found,) = (look.reading for look in looks if look.reading.target_id == "o")
        assert found.reason is Unavailable.DEADLINE
    finally:
        over.set()
    for thread in threading.enumerate():
        if thread.name.startswith("look "):
            thread.join()
    gc.collect()
    assert "Task was destroyed" not in caplog.text
