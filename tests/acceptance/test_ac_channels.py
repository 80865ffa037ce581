"""FR-005 and AC-011 on the real daemon: each tier reaches its channels and no other, and neither waits for the other.

That neither waits is seen by the order of things: what one channel got is there while the other still cannot take any.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.conftest import signal_toml
from tests.acceptance.test_anomaly_pipeline import state, task
from tests.acceptance.test_runbook_pipeline import DONE
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.doubles.synapse_double import SynapseDouble
from tests.lab.daemon import WAIT_S, Daemon, Service, Site, locked, until
from tests.lab.heard import WAYS, Told, synapse

FAST = '[policy]\nclear_interval = "100ms"\nsettle = "100ms"\n'
LONG_AGO = "2026-02-18T09:30:00Z"
QUIET, TOLD, ASKED = "task-000", "task-001", "task-002"
UNSTICK = """\
id = "rb-{name}"
label = "Unstick it by a script of ours"
applies_to = ["pipeline_stuck"]
targets = ["pipeline:{task}"]
before = "rb-kick-pipeline"
summary = {summary}
[[step]]
kind = "run-command"
command = "{name}"
"""


def house(here: Site, *more: str) -> tuple[Daemon, Service]:
    """Three pipelines that stand still once their files say so, and a service that may not be started by itself."""
    program = here.folder / "stage_done.py"
    program.write_text(DONE)
    (here.folder / "runbooks.d").mkdir(mode=0o700)
    tables = [FAST, *more]
    for name, ident in (("quiet", QUIET), ("told", TOLD), ("asked", ASKED)):
        folder = here.folder / name
        folder.mkdir()
        state(folder)
        done = ", ".join(f'"{word}"' for word in (sys.executable, str(program), str(folder), ""))
        tables.append(
            f'[pipeline.{name}]\nstate_file = "{folder / "state.json"}"\nstage_done = [{done}]\n'
            f'interval = "1s"\nstuck_after = "10m"\n'
        )
        if name != "asked":
            file = here.folder / "runbooks.d" / f"{name}.toml"
            file.write_text(UNSTICK.format(name=name, task=ident, summary=str(name == "told").lower()))
            file.chmod(0o600)
            tables.append(
                f'[command.{name}]\nargv = [{done}, "build", "{ident}", "blocked"]\neffect = "change"\n'
                f'description = "unstick"\n'
            )
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon("".join(tables) + toy.toml(auto_restart=False))
    daemon.start()
    daemon.wait_known(toy)
    return daemon, toy


def stands_still(folder: Path, ident: str) -> None:
    state(folder, {**task(0), "task_id": ident, "updated_at": LONG_AGO})


def fired(daemon: Daemon) -> list[str]:
    """The tiers of FR-008's `heal_escalation_fired`."""
    with closing(sqlite3.connect(f"file:{daemon.state_dir / 'metrics.db'}?mode=ro", uri=True, timeout=5)) as db:
        query = "SELECT stage FROM heal_metrics WHERE task_id = 'heal_escalation_fired' ORDER BY rowid"
        return [stage for (stage,) in db.execute(query)]


def about(found: list[Told], name: str) -> list[Told]:
    return [one for one in found if name in one.subject]


@pytest.mark.req("FR-005", "NFR-003", "R1", "R2", "R14")
@pytest.mark.parametrize("way", WAYS)
def test_each_tier_reaches_its_channels_and_no_other_and_tier_0_nobody(
    here: Site, phone: SignalDouble, way: str
) -> None:
    with synapse(way) as mail:
        daemon, toy = house(here, signal_toml(phone), mail.toml)
        for runbook in ("rb-quiet", "rb-told"):
            assert daemon.ask("approve", runbook_id=runbook)["success"]
        # Tier 0 first: whatever it said would have to arrive before all that follows.
        stands_still(here.folder / "quiet", QUIET)
        (quiet,) = daemon.wait_state(f"pipeline:{QUIET}", "resolved")
        stands_still(here.folder / "told", TOLD)
        (summed,) = daemon.wait_state(f"pipeline:{TOLD}", "resolved")
        stands_still(here.folder / "asked", ASKED)
        (asked,) = daemon.wait_state(f"pipeline:{ASKED}", "escalated")
        toy.kill()
        (paged,) = daemon.wait_state("toy", "escalated")
        phone.wait_for(1, WAIT_S)
        found = mail.wait(daemon, "the page on Synapse", lambda told: bool(about(told, "toy")))
        until("nothing is on its way any more", lambda: daemon.ask("tree")["outbox"]["pending"] == 0)

        tiers = [row["escalation_tier"] for row in (quiet, summed, asked, paged)]
        assert [tier or 0 for tier in tiers] == [0, 1, 2, 3]
        assert [one.priority for one in about(found, TOLD)] == ["info"]
        assert [one.priority for one in about(found, ASKED)] == ["action"]
        assert [one.priority for one in about(found, "toy")] == ["urgent"]
        assert len(found) == 3, "and nothing of tier 0"
        assert len({one.thread for one in found}) == 3
        assert all(one.thread.startswith("thr_") and len(one.thread) == 16 for one in found)
        (page,) = phone.sent
        assert "toy is down" in page.text
        assert fired(daemon) == ["tier1", "tier2", "tier3"]
        notes = [entry["note"] for entry in quiet["audit_trail"]]
        assert [row["runbook_id"] for row in (quiet, summed)] == ["rb-quiet", "rb-told"]
        assert notes, "tier 0 stands in the audit all the same"
        for row, one in ((summed, about(found, TOLD)[0]), (asked, about(found, ASKED)[0])):
            for line in ("Anomaly: ", "Action: ", "Verification: ", "State: "):  # NFR-003
                assert f"\n{line}" in f"\n{one.body}"
            assert row["id"] in one.body

        # What follows about one of them stands in its thread, and on its channels.
        assert daemon.ask("approve", runbook_id="rb-kick-pipeline", target_id=f"pipeline:{ASKED}")["success"]
        daemon.wait_state(f"pipeline:{ASKED}", "resolved")
        assert daemon.ask("approve", runbook_id="rb-restart-service", target_id="toy")["success"]
        daemon.wait_state("toy", "resolved")
        assert "Over: " in phone.wait_for(2, WAIT_S)[-1].text
        found = mail.wait(daemon, "outcome and closing word", lambda told: len(told) == 5)
        for name, priorities in ((ASKED, ["action", "info"]), ("toy", ["urgent", "urgent"])):
            assert [one.priority for one in about(found, name)] == priorities
            assert len({one.thread for one in about(found, name)}) == 1
        if way == "brain_db":
            _threads_are_right(daemon, found)
        daemon.stop()
        assert len(phone.sent) == 2


def _threads_are_right(daemon: Daemon, found: list[Told]) -> None:
    query = "SELECT id, subject, message_count, status FROM threads ORDER BY rowid"
    with closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True, timeout=5)) as db:
        threads = db.execute(query).fetchall()
    firsts = {one.thread: one.subject for one in reversed(found)}
    counts = {one.thread: sum(other.thread == one.thread for other in found) for one in found}
    assert threads == [(thread, firsts[thread], counts[thread], "active") for thread in dict.fromkeys(counts)]


def down(here: Site, *names: str) -> list[Service]:
    services = [here.service(name) for name in names]
    for service in services:
        service.start()
    return services


@pytest.mark.req("AC-011", "FR-005", "R2")
def test_ac_011_a_page_is_sent_while_synapse_over_rest_refuses_or_hangs_and_the_other_way_round(
    here: Site, phone: SignalDouble
) -> None:
    first, second, third = services = down(here, "first", "second", "third")
    with SynapseDouble() as double:
        config = "".join(service.toml(auto_restart=False) for service in services)
        daemon = here.daemon(f'{config}{signal_toml(phone)}[notify.synapse]\ntransport = "{double.url}"\n')
        daemon.start()
        daemon.wait_known(*services)
        double.status = 503
        first.kill()
        assert "first is down" in phone.wait_for(1, WAIT_S)[-1].text
        double.wait_for_requests(1, WAIT_S)
        assert double.sent == [], "Synapse refuses it to this moment"
        assert "HTTP 503" in until("the refusal in status", lambda: _error(daemon, "synapse"))
        double.status, double.hang = 200, True
        requests = double.requests
        second.kill()
        assert "second is down" in phone.wait_for(2, WAIT_S)[-1].text
        double.wait_for_requests(requests + 1, WAIT_S)
        assert double.sent == [], "Synapse has not answered to this moment"
        double.hang = False
        until("Synapse gets what it missed", lambda: double.sent)
        phone.fault = Fault(Kind.HANG)
        third.kill()
        until("Synapse", lambda: [one for one in double.sent if "third is down" in one["subject"]])
        assert len(phone.sent) == 2, "Signal hangs to this moment"
        phone.fault = Fault()
        assert "third is down" in phone.wait_for(3, WAIT_S)[-1].text


def _error(daemon: Daemon, channel: str) -> str:
    rows = daemon.ask("tree")["outbox"]["rows"]
    return next((row["last_error"] for row in rows if row["channel"] == channel and row["last_error"]), "")


@pytest.mark.req("AC-011", "FR-005", "R2", "R14")
def test_ac_011_a_page_is_sent_while_brain_db_does_not_fit_or_is_locked_and_the_other_way_round(
    here: Site, phone: SignalDouble
) -> None:
    first, second, third = services = down(here, "first", "second", "third")
    daemon = here.daemon("".join(service.toml(auto_restart=False) for service in services) + signal_toml(phone))
    daemon.start()
    daemon.wait_known(*services)
    path = daemon.state_dir / "brain.db"
    until("brain.db", lambda: daemon.incidents() == [] and path.exists())
    until("Synapse's tables", lambda: _count(path, "sqlite_master WHERE name = 'threads'") == 1)
    _alter(path, "ALTER TABLE messages RENAME body TO b")
    first.kill()
    assert "first is down" in phone.wait_for(1, WAIT_S)[-1].text
    until("the column in status", lambda: f"table messages of {path} lacks body" in str(daemon.ask("tree")["store"]))
    assert daemon.ask("tree")["outbox"]["pending"] == 1
    assert _count(path, "messages") == 0
    with locked(path):
        second.kill()
        assert "second is down" in phone.wait_for(2, WAIT_S)[-1].text
    _alter(path, "ALTER TABLE messages RENAME b TO body")
    until("by itself, when it is mended", lambda: _count(path, "messages") == 2)
    phone.fault = Fault(Kind.HANG)
    third.kill()
    until("Synapse", lambda: _count(path, "messages WHERE subject LIKE 'third is down%'") == 1)
    assert len(phone.sent) == 2, "Signal hangs to this moment"
    phone.fault = Fault()
    assert "third is down" in phone.wait_for(3, WAIT_S)[-1].text
    assert _count(path, "threads WHERE message_count = 1") == 3


def _alter(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def _count(path: Path, rows: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        found: int = db.execute(f"SELECT count(*) FROM {rows}").fetchone()[0]
        return found
