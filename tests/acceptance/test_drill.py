"""`healctl drill` on the real daemon: to real receipts, and what becomes of it when something is in the way."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import msgspec
import pytest

from supervisor.incidents import drill_run
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.lab.daemon import HEALCTL, WAIT_S, Daemon, Site, until

UNREACHABLE = '[notify.signal]\ntransports = ["http://127.0.0.1:9"]\naccount = "+15550100"\nrecipient = "+15550101"\n'


QUICK = '[policy]\nsettle = "50ms"\n'


def times_ms(answer: dict[str, Any]) -> dict[str, float]:
    return {stage["stage"]: stage["after_ms"] for stage in answer["stages"]}


def words(daemon: Daemon) -> list[str]:
    return [str(HEALCTL), "-c", str(daemon.config_file), "drill"]


def failures(daemon: Daemon) -> list[dict[str, Any]]:
    return [it for it in daemon.open_incidents() if it["anomaly_type"] == "drill_failed"]


def told(daemon: Daemon, words: str) -> bool:
    return any(words in message["subject"] for message in daemon.synapse())


@pytest.mark.req("FR-005", "FR-008")
def test_a_good_drill_goes_all_the_way_to_real_receipts_and_counts_nowhere(here: Site, phone: SignalDouble) -> None:
    daemon = here.daemon(signal_toml(phone) + QUICK)
    daemon.start()
    before = daemon.ask("stats")
    code, answer = daemon.cli("drill")
    assert (code, answer["passed"], answer["missing"]) == (0, True, []), answer
    found = times_ms(answer)
    assert set(found) == {*drill_run.ALWAYS, "signal", "synapse", drill_run.CLOSED}
    for names in (
        ("detected", "fresh_probe", "dispatched", "step_ended", "verified", "signal", "closed"),
        ("detected", "durable", "dispatched", "verified", "synapse", "closed"),
    ):
        assert [found[name] for name in names] == sorted(found[name] for name in names), found
    details = {stage["stage"]: stage["detail"] for stage in answer["stages"]}
    (page,) = phone.sent
    assert page.text.startswith("DRILL: this is a drill, nothing is wrong.")
    assert f"signal:{page.timestamp}" in details["signal"]
    (message,) = daemon.synapse()
    assert message["id"] == details["synapse"]
    assert message["subject"].startswith("DRILL:")
    assert answer["drill_id"] in details["step_ended"]  # which the executor read from the file that it took away
    assert not (daemon.runtime_dir / "drill").exists()
    (incident,) = daemon.wait_state(drill_run.TARGET, "resolved")
    assert incident["id"] == answer["incident_id"]
    assert daemon.ask("stats") == before
    daemon.kill_worker("healer")  # what it remembers of it stands in the ledger
    daemon.wait_ready()
    assert daemon.ask("tree")["drill"]["passed"] is True
    assert daemon.ask("stats") == before

    (daemon.runtime_dir / "drill").mkdir()  # in the way, and none of ours to remove
    code, answer = daemon.cli("drill")
    assert code == 1
    assert "run/drill" in answer["verdict"]
    assert (daemon.runtime_dir / "drill").is_dir()
    daemon.stop()


@pytest.mark.req("FR-005", "AC-011", "NFR-002")
def test_signal_in_trouble_and_a_healer_killed_in_the_middle_fail_it_until_the_next_good_one(
    here: Site, phone: SignalDouble
) -> None:
    daemon = here.daemon(signal_toml(phone) + QUICK)
    daemon.start()
    phone.fault = Fault(Kind.ERROR, code=-1)
    code, answer = daemon.cli("drill", "--timeout", "3s")
    assert (code, answer["passed"], answer["missing"]) == (1, False, ["signal"]), answer
    assert "no receipt from signal" in answer["verdict"]
    (failed,) = failures(daemon)
    assert (failed["target_id"], failed["escalation_tier"]) == ("drill:signal", 3)
    until("it is told on Synapse", lambda: told(daemon, "A drill has failed"))
    assert daemon.ask("tree")["drill"]["passed"] is False

    phone.fault = Fault(Kind.HANG)
    asked = len(phone.requests)
    with subprocess.Popen(words(daemon), stdout=subprocess.PIPE) as command:
        phone.wait_for_requests(asked + 1, WAIT_S)
        until("it is under way", lambda: daemon.ask("tree")["drill"]["under_way"])
        code, answer = daemon.cli("drill")
        assert code == 1
        assert "under way" in answer["error"]
        daemon.kill_worker("healer")
        out, _ = command.communicate(timeout=WAIT_S)
    assert command.returncode == 1, out
    assert "restarted in the middle" in msgspec.json.decode(out)["verdict"]
    assert "restarted in the middle" in daemon.ask("tree")["drill"]["why"]
    assert sorted(it["target_id"] for it in failures(daemon)) == ["drill", "drill:signal"]

    phone.fault = Fault()
    code, answer = daemon.cli("drill")
    assert (code, answer["passed"]) == (0, True), answer
    assert failures(daemon) == []
    assert not any("no receipt" in sent.text for sent in phone.sent)  # that Signal is out is not told by Signal
    daemon.stop()


@pytest.mark.req("FR-005")
def test_a_signal_daemon_that_is_gone_none_at_all_and_the_schedule(here: Site) -> None:
    daemon = here.daemon(UNREACHABLE + QUICK)
    daemon.start()
    interrupted = [*words(daemon), "--timeout", "4s", "-o", "table"]
    with subprocess.Popen(interrupted, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stderr is not None
        assert b"detected" in command.stderr.readline()  # as it goes
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=WAIT_S)
    assert command.returncode == 130
    assert b"the drill goes on in the daemon" in said
    until("it has failed", lambda: daemon.ask("tree")["drill"]["passed"] is False)
    assert "no receipt from signal" in daemon.ask("tree")["drill"]["why"]
    assert len(failures(daemon)) == 1
    with subprocess.Popen(words(daemon), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        until("it waits for Signal", lambda: daemon.ask("tree")["drill"]["under_way"])
        assert daemon.cli("heal", "cancel", "healctl:drill") == (
            0, {"success": True, "target_id": "healctl:drill", "what": "drill"},
        )  # fmt: skip
        said, _ = command.communicate(timeout=WAIT_S)
    assert command.returncode == 1
    assert b"cancelled by " in said
    assert len(failures(daemon)) == 1, "what has failed before is not well by that"
    daemon.config_file.write_text(daemon.text(QUICK + '[drill]\nevery = "1s"\n'))
    assert daemon.cli("reload")[0] == 0
    assert failures(daemon) == []  # it is no failure any more that nobody is paged
    until("two drills by themselves", lambda: sum("schedule" in it["body"] for it in daemon.synapse()) >= 2)
    assert daemon.ask("tree")["drill"]["schedule"] == "every 1"
    daemon.config_file.write_text(daemon.text(QUICK))
    assert daemon.cli("reload")[0] == 0
    until("none runs", lambda: not daemon.ask("tree")["drill"]["under_way"])
    code, answer = daemon.cli("drill")
    assert (code, answer["channels"]) == (0, ["synapse"]), answer
    assert "no page can be sent: [notify.signal] transports" in answer["verdict"]
    code, answer = daemon.cli("drill", "--channel", "signal")
    assert code == 1
    assert "no page can be sent" in answer["error"]
    daemon.stop()
