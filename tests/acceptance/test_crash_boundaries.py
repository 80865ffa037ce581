"""kill -9 at every named point, of every worker, and of root: nothing runs twice, nothing is lost (DESIGN §8)."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from supervisor import proc
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import Daemon, Service, Site, gone, locked, until

POINTS = {
    "store": ("commit.before", "commit.after", "ack.before", "ack.after", "project.before", "project.after"),
    "healer": ("decide.before", "decide.after", "dispatch.before", "dispatch.after", "publish.before"),
    "executor": (
        "claim.before",
        "claim.after",
        "evidence.after",
        "program.before",
        "program.recorded",
        "program.released",
        "program.ended",
        "result.before",
        "result.after",
    ),
    "notifier": ("send.before", "send.after", "receipt.before", "receipt.after"),
}
BOUNDARIES = [(worker, point) for worker, points in POINTS.items() for point in points]
WORKERS = ("store", "healer", "executor", "notifier", "process")


def arm(here: Site, worker: str, point: str) -> tuple[str, Path]:
    """The hook for the daemon's environment, and its token, which is only made once the daemon is up."""
    token = here.folder / "token"
    return f"{worker}:{point}:{token}", token


def healed_once(daemon: Daemon, toy: Service, phone: SignalDouble) -> None:
    """What must be true after any single crash: healed once, told, one incident, and status tells the truth."""
    (row,) = daemon.wait_state("toy", "resolved")
    assert row["resolved_at"]
    until("every worker READY again", daemon._ready)
    until("nothing waits to be told", lambda: daemon.ask("tree")["outbox"]["pending"] == 0)
    assert toy.starts() == 2, "the owner's start and exactly one of ours"
    assert toy.ref() is not None
    assert len(daemon.incidents("toy")) == 1
    assert daemon.open_incidents() == []
    texts = [sent.text for sent in phone.sent]
    assert texts, "the page must reach the phone"
    assert len(texts) <= 2, texts
    assert len(set(texts)) == 1, "only the very same message may come twice"
    trail = row["audit_trail"]
    assert trail[-1]["state"] == "resolved"
    runs = [entry for entry in trail if entry["note"].startswith("running ")]
    assert 1 <= len(runs) <= 2
    once = {name: 1 for name in ("anomaly_detected", "remediation_success", "escalation_fired", "signal_sent")}
    events = {f"heal_{name}": count for name, count in {**once, "remediation_started": len(runs)}.items()}
    until("FR-008: each event is one row", lambda: metrics_of(daemon) == events)
    totals = daemon.ask("stats")["self_healing_status"]["metrics"]
    assert {name: count for name, count in totals.items() if count} == events


def metrics_of(daemon: Daemon) -> Counter[str]:
    """How many rows heal_metrics has, by name."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'metrics.db'}?mode=ro", uri=True)) as db:
        return Counter(name for (name,) in db.execute("SELECT task_id FROM heal_metrics"))


@pytest.mark.req("FR-004", "FR-008", "AC-011", "NFR-001")
@pytest.mark.parametrize(("worker", "point"), BOUNDARIES)
def test_crash_at(here: Site, phone: SignalDouble, worker: str, point: str) -> None:
    # A program that ends is one that daemonizes; the others go on in the foreground.
    toy = here.service("toy", *(("--daemonize",) if point == "program.ended" else ()))
    toy.start()
    hook, token = arm(here, worker, point)
    daemon = here.daemon(toy.toml() + '[policy]\nsettle = "200ms"\n' + signal_toml(phone))
    daemon.start(HEALCTL_TEST_CRASH=hook)
    before = daemon.worker(worker)
    token.touch()
    toy.kill()
    gone(before)
    assert not token.exists(), "it died at the point, and only once"
    healed_once(daemon, toy, phone)
    assert len(phone.sent) == 1, "a receipt that was had is not forgotten with the notifier (ADR 0008)"
    daemon.stop()


@pytest.mark.parametrize("worker", WORKERS)
def test_every_worker_killed_in_turn_is_replaced_and_healing_goes_on(
    here: Site, phone: SignalDouble, worker: str
) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + '[policy]\nsettle = "100ms"\n' + signal_toml(phone))
    daemon.start()
    daemon.kill_worker(worker)
    toy.kill()
    healed_once(daemon, toy, phone)
    tree = {child["name"]: child for child in daemon.ask("tree")["children"]}
    assert tree[worker]["restarts"] >= 1
    daemon.stop()


def test_all_workers_killed_at_once(here: Site, phone: SignalDouble) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + '[policy]\nsettle = "100ms"\n' + signal_toml(phone))
    daemon.start()
    workers = daemon.workers()
    assert set(workers) >= set(WORKERS)
    for ref in workers.values():
        assert proc.send_signal(ref, signal.SIGKILL)
    toy.kill()
    healed_once(daemon, toy, phone)
    daemon.stop()


@pytest.mark.parametrize("moment", ["idle", "verifying"])
def test_root_killed_leaves_no_children_and_its_restart_doubles_nothing(
    here: Site, phone: SignalDouble, moment: str
) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + signal_toml(phone))
    daemon.start()
    if moment == "verifying":
        toy.kill()
        daemon.wait_state("toy", "verifying")
    healthy = toy.wait_new(None)
    left = daemon.kill_root()
    assert set(left)
    for ref in left:
        gone(ref)
    assert toy.ref() == healthy, "a healed service lives on"
    daemon.start()
    if moment == "verifying":
        daemon.wait_state("toy", "resolved")
        assert toy.starts() == 2
    else:
        assert toy.starts() == 1
        assert daemon.incidents() == []
    assert toy.ref() == healthy, "a restart neither doubles nor restarts a healthy service"
    old = toy.kill()
    toy.wait_new(old)
    daemon.stop()


@pytest.mark.req("FR-004")
@pytest.mark.parametrize("how", ["stop", "root", "healer"])
def test_a_receipt_that_the_ledger_does_not_know_yet_never_keeps_the_daemon_from_starting(here: Site, how: str) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    until("brain.db", (daemon.state_dir / "brain.db").exists)
    with locked(daemon.state_dir / "brain.db"):
        toy.kill()
        until("the incident", daemon.open_incidents)
        if how == "stop":
            daemon.stop()
        elif how == "root":
            daemon.kill_root()
        else:
            daemon.kill_worker("healer")
    if how != "healer":
        daemon.start()
    daemon.wait_state("toy", "escalated")
    until("its Synapse message", lambda: _synapse_delivered(daemon))
    assert next(c for c in daemon.ask("tree")["children"] if c["name"] == "healer")["restarts"] <= 1


def _synapse_delivered(daemon: Daemon) -> bool:
    rows = daemon.ask("tree")["outbox"]["rows"]
    return not any(row["channel"] == "synapse" for row in rows)


def test_a_message_that_is_not_even_text_kills_nobody(here: Site) -> None:
    """msgspec tells bad UTF-8 by another error than bad MessagePack or JSON."""
    import zmq

    from supervisor.messages import VERSION, Frame, Request, encode
    from supervisor.sockets import endpoint, new_context, open_socket

    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + '[policy]\nsettle = "100ms"\n')
    daemon.start()
    before = daemon.workers()
    hostile = [
        b"\x94\x01\xa1\xf0\xa0\xc0",
        encode(Frame(VERSION, "x", "", Request("dismiss", b'{"incident_id":"\xf0\x90"}'))),
        b"[" * 100_000,
    ]
    context = new_context()
    sockets = [open_socket(context, zmq.DEALER, identity="stranger") for _ in range(3)]
    for name, socket in zip(("control", "healer", "store"), sockets, strict=True):
        socket.connect(endpoint(daemon.runtime_dir, name))
        for raw in hostile:
            socket.send(raw)
    toy.kill()
    daemon.wait_state("toy", "resolved")
    for socket in sockets:
        socket.close()
    context.term()
    assert daemon.workers() == before


def test_without_the_variable_the_hook_does_nothing() -> None:
    from supervisor import crashpoint

    assert "HEALCTL_TEST_CRASH" not in os.environ
    for point in crashpoint.POINTS:
        crashpoint.reach(point)
    named = {point for points in POINTS.values() for point in points}
    # test_store_restore.py, test_runbook_trading.py, test_rotate.py
    elsewhere = ("raw.", "backup.", "restore.", "guarded.", "rotate.", "prune.")
    assert named == {point for point in crashpoint.POINTS if not point.startswith(elsewhere)}
