"""Shared readings, insights and looks on the real daemon and from the command line (FR-002, NFR-004, R7, R16)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor import clock
from tests.lab.daemon import HEALCTL, Daemon, Site, gone

LISTENER = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); print("up", flush=True)
while True: s.accept()[0].close()
"""


def feed(daemon: Daemon, *lines: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """`healctl feed` with these lines on its standard input; its exit code and what it printed."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "feed"],
        input=text.encode(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def signal_file(here: Site) -> Path:
    path = here.folder / "live_signal.json"
    path.write_text(json.dumps({"symbol": "BTC", "signal": "BUY", "updated_at": clock.wall_s()}))
    return path


def trading(here: Site) -> str:
    return f'[trading.augur]\nsignal_file = "{signal_file(here)}"\nmax_age = "1h"\ninterval = "10m"\n'


def stale(age_s: float = 7200.0) -> dict[str, Any]:
    now_s = clock.wall_s()
    data = {"symbol": "BTC", "signal": "BUY", "updated_at": now_s - age_s}
    return {"source_id": "augur.signals", "captured_at": now_s, "freshness_ms": 60_000, "available": True, "data": data}


@pytest.mark.req("NFR-004", "R7", "NFR-002")
def test_a_false_alarm_from_outside_is_recorded_and_refuted_by_our_own_probe(here: Site) -> None:
    daemon = here.daemon(trading(here))
    daemon.start()
    code, answers = feed(daemon, stale(age_s=1.0))
    assert (code, answers[0]["ok"]) == (0, True)
    code, answers = feed(
        daemon, stale(), {"source_id": "nobody", **{k: v for k, v in stale().items() if k != "source_id"}}
    )
    assert code == 1
    assert [answer["ok"] for answer in answers] == [True, False]
    (row,) = daemon.wait_state("augur-signals", "self_resolved")
    assert row["anomaly_type"] == "signal_stale"
    notes = [entry["note"] for entry in row["audit_trail"]]
    assert notes[0].startswith("by a reading from outside")
    assert not any("step_id" in entry for entry in row["audit_trail"])
    for _ in range(5):
        assert feed(daemon, stale())[0] == 0  # taken, and looked into, but not a second incident
    assert daemon.ask("probe", target_id="augur-signals")["outcome"] == "clear"
    assert len(daemon.incidents("augur-signals")) == 1
    daemon.stop()
    assert feed(daemon, stale())[0] == 3


@pytest.mark.req("FR-002", "R7")
def test_an_insight_about_a_service_is_confirmed_by_our_own_probe_long_before_the_next_poll(here: Site) -> None:
    port, other = free_port(), free_port()
    api = subprocess.Popen([sys.executable, "-c", LISTENER, str(port)], stdout=subprocess.PIPE)
    twin = subprocess.Popen([sys.executable, "-c", LISTENER, str(other)], stdout=subprocess.PIPE)
    try:
        for child in (api, twin):
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
        table = '[process.{}]\nendpoint = "tcp://127.0.0.1:{}"\ninterval = "10m"\n'
        daemon = here.daemon(table.format("api", port) + table.format("twin", other))
        daemon.start()
        assert [daemon.ask("probe", target_id=name)["outcome"] for name in ("api", "twin")] == ["clear", "clear"]
        api.kill()
        api.communicate()
        insights = [{"type": "anomaly", "target_id": name, "score": 0.9} for name in ("api", "twin")]
        code, answers = feed(daemon, *insights)
        assert code == 0
        assert [answer["probing"] for answer in answers] == ["api", "twin"]
        rows = daemon.wait_state("api", "escalated")
        assert (rows[0]["anomaly_type"], rows[0]["severity"]) == ("process_dead", "critical")
        assert daemon.incidents("twin") == []
        api = subprocess.Popen([sys.executable, "-c", LISTENER, str(port)], stdout=subprocess.PIPE)
        assert api.stdout is not None
        assert api.stdout.readline() == b"up\n"
        assert feed(daemon, {"type": "alert", "target_id": "api"})[0] == 0
        daemon.wait_state("api", "self_resolved")
    finally:
        for child in (api, twin):
            child.kill()
            child.communicate()


@pytest.mark.req("NFR-004")
def test_a_daemon_that_dies_in_the_middle_is_told_with_what_was_taken(here: Site) -> None:
    daemon = here.daemon(trading(here))
    daemon.start()
    feeder = subprocess.Popen(
        [str(HEALCTL), "-c", str(daemon.config_file), "feed", "-o", "table"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert feeder.stdin is not None
    assert feeder.stdout is not None
    feeder.stdin.write(json.dumps(stale(1.0)).encode() + b"\n")
    feeder.stdin.flush()
    assert b"taken" in feeder.stdout.readline()
    for ref in daemon.kill_root():
        gone(ref)
    feeder.stdin.write(json.dumps(stale(1.0)).encode() + b"\n")
    _, said = feeder.communicate(timeout=60)
    assert feeder.returncode == 1
    assert b"went away" in said
    assert b"1 lines were taken" in said


@pytest.mark.req("FR-001", "FR-007")
def test_probe_reads_one_target_now_and_says_what_it_would_be(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    code, look = daemon.cli("probe", "toy", "--json")
    assert (code, look["outcome"], look["data"]["alive"]) == (0, "clear", True)
    toy.kill()
    code, look = daemon.cli("probe", "toy", "--json")
    assert (code, look["outcome"]) == (0, "firing")
    assert {a["anomaly_type"]: a["status"] for a in look["anomalies"]}["process_dead"] == "firing"
    assert daemon.cli("probe", "nobody", "--json")[0] == 4
    assert daemon.cli("probe", "disk:/nowhere-at-all", "--json")[0] in (0, 4)
    daemon.stop()
    assert daemon.cli("probe", "toy", "--json")[0] == 3


@pytest.mark.req("FR-001", "FR-002", "R9")
def test_check_live_tells_each_target_without_a_daemon_and_leaves_nothing_behind(here: Site) -> None:
    good, bad, hung = here.service("good"), here.service("bad"), free_port()
    good.start()
    os.mkfifo(here.folder / "fifo")
    stopped = subprocess.Popen([sys.executable, "-c", LISTENER, str(hung)], stdout=subprocess.PIPE)
    try:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == b"up\n"
        os.kill(stopped.pid, signal.SIGSTOP)
        ill = f'[process.hung]\nendpoint = "http://127.0.0.1:{hung}/"\n'
        ill += f'[trading.pipe]\nsignal_file = "{here.folder}/fifo"\n'
        well = good.toml() + trading(here)
        daemon = here.daemon(well + bad.toml() + ill)
        before = sorted(here.folder.rglob("*"))
        code, told = daemon.cli("check", "--live", "--json")
        looks = {look["target_id"]: look for look in told["targets"]}
        assert (code, told["ok"]) == (1, False)
        assert {"good", "bad", "hung", "pipe-signals", "augur-signals", "system-memory", "ledger"} <= set(looks)
        assert (looks["good"]["outcome"], looks["augur-signals"]["outcome"]) == ("clear", "clear")
        assert (looks["bad"]["outcome"], looks["bad"]["anomalies"][1]["anomaly_type"]) == ("firing", "process_dead")
        assert looks["hung"]["outcome"] in ("firing", "pending")
        assert looks["pipe-signals"]["outcome"] in ("unavailable", "firing")
        assert all(look["took_ms"] <= 5000 for look in looks.values())
        assert sorted(here.folder.rglob("*")) == before
        # The same while a daemon runs, which it does not disturb; and all is well when nothing is ill.
        daemon.config_file.write_text(daemon.text(well))
        daemon.start()
        code, told = daemon.cli("check", "--live", "--json")
        assert (code, told["ok"]) == (0, True), told
        assert daemon.incidents() == []
    finally:
        stopped.kill()
        stopped.communicate()


@pytest.mark.req("FR-001", "FR-007")
def test_check_live_finds_what_the_families_find_by_themselves(here: Site) -> None:
    state = here.folder / "state.json"
    task = {"task_id": "task-001", "title": "t", "phase": "p", "status": "active", "current_stage": "build",
            "stages_completed": [], "stages_blocked": [], "artifacts": {}}  # fmt: skip
    state.write_text(json.dumps({"pipeline_version": "1", "active_tasks": [task]}))
    hosts = here.folder / "fleet.json"
    hosts.write_text(json.dumps([{"name": "db1", "host": f"127.0.0.1:{free_port()}"}]))
    config = f'[pipeline.main]\nstate_file = "{state}"\nstage_done = ["/bin/true"]\n[fleet]\nhosts_file = "{hosts}"\n'
    daemon = here.daemon(config + '[disk]\nmounts = ["/"]\n')
    code, told = daemon.cli("check", "--live", "--json")
    found = {look["target_id"]: look["outcome"] for look in told["targets"]}
    assert {"pipeline:task-001", "fleet:db1", "disk:/"} <= set(found)
    assert found["fleet:db1"] == "firing"
    assert code == 1
    code, told = daemon.cli("check", "--json")
    assert code == 0
    assert told["found_at_run_time"] == ["fleet", "host", "pipeline"]
    shown = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "check", "-o", "table"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "tasks: found at run time" in shown
