"""FR-008 and R14 on the real daemon: the endpoint, the metrics table and `healctl stats` tell the same, and go on."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import sqlite3
import subprocess
from collections import Counter

import pytest

from supervisor import proc
from supervisor.incidents.model import METRICS
from tests import parts
from tests.acceptance.conftest import signal_toml
from tests.acceptance.test_reload import reload, settled
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import Daemon, Site, until

pytestmark = pytest.mark.req("FR-008", "R14")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listen(port: int) -> str:
    return f'[metrics]\nlisten = "127.0.0.1:{port}"\n'


def scrape(port: int) -> tuple[int, str]:
    """Status and page; status 0 where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    with contextlib.closing(connection), contextlib.suppress(ConnectionRefusedError):
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    return 0, ""


def totals(text: str) -> Counter[str]:
    """The eight as the page has them, labels summed up."""
    found: Counter[str] = Counter()
    for name, value in re.findall(r"^(heal_\w+)_total\{[^\n]*\} (\d+)$", text, re.MULTILINE):
        if name in METRICS:
            found[name] += int(value)
    return +found


def table(daemon: Daemon) -> Counter[str]:
    """The eight as heal_metrics has them."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'metrics.db'}?mode=ro", uri=True)) as db:
        return Counter(name for (name,) in db.execute("SELECT task_id FROM heal_metrics") if name in METRICS)


HEALED = {
    "heal_anomaly_detected": 1,
    "heal_remediation_started": 1,
    "heal_remediation_success": 1,
    "heal_escalation_fired": 1,
    "heal_signal_sent": 1,
}


def test_endpoint_table_and_stats_agree_and_no_restart_sets_them_back(here: Site, phone: SignalDouble) -> None:
    port = free_port()
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + '[policy]\nsettle = "100ms"\n' + signal_toml(phone) + listen(port))
    daemon.start()
    settled(daemon, "metrics")
    toy.kill()
    daemon.wait_state("toy", "resolved")
    until("each event is shown", lambda: totals(scrape(port)[1]) == HEALED)
    until("each event is in the table", lambda: table(daemon) == HEALED)
    status, text = scrape(port)
    assert status == 200
    judge = [str(parts.promtool()), "check", "metrics"]
    done = subprocess.run(judge, input=text.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    for worker in ("healer", "store", "metrics"):
        daemon.kill_worker(worker)
        until("every worker READY again", daemon._ready)
        until(f"shown after the death of the {worker}", lambda: totals(scrape(port)[1]) == HEALED)
    daemon.kill_root()
    daemon.start()
    until("shown after a new start", lambda: totals(scrape(port)[1]) == HEALED)
    stats = daemon.ask("stats")["self_healing_status"]
    assert +Counter(stats["metrics"]) == HEALED
    toy.kill()
    daemon.wait_state("toy", "resolved", 2)
    until("it goes on", lambda: totals(scrape(port)[1]) == {name: 2 for name in HEALED})
    daemon.stop()
    assert table(daemon) == {name: 2 for name in HEALED}


def test_a_port_that_somebody_has_is_told_and_taken_when_it_is_free(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        daemon = here.daemon(toy.toml() + '[policy]\nsettle = "100ms"\n' + listen(port))
        daemon.start()
        until("it is told", lambda: (daemon.ask("tree")["metrics"] or {}).get("error"))
        assert daemon.ask("tree")["metrics"] == {"address": f"127.0.0.1:{port}", "error": "Address already in use"}
        assert f"cannot listen on 127.0.0.1:{port}" in daemon.tail()
        toy.kill()
        daemon.wait_state("toy", "resolved")
    until("it listens", lambda: scrape(port)[0] == 200)
    until("it is told", lambda: daemon.ask("tree")["metrics"]["error"] is None)
    daemon.stop()


def test_a_reload_turns_it_on_moves_it_and_turns_it_off(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml())
    daemon.start()
    assert daemon.ask("tree")["metrics"] is None
    before = settled(daemon)
    first, second = free_port(), free_port()
    for port, old in ((first, 0), (second, first)):
        code, told = reload(daemon, toy.toml() + listen(port))
        assert (code, told["changes"]) == (0, ["metrics changed"])
        until(f"it listens on {port}", lambda port=port: scrape(port)[0] == 200)  # type: ignore[misc]
        assert not old or scrape(old)[0] == 0
    code, told = reload(daemon, toy.toml() + '[metrics]\nlisten = "nowhere"\n')
    assert code == 1
    assert '"off", or an address of this machine' in told["error"]
    assert scrape(second)[0] == 200, "a bad file changes nothing"
    assert reload(daemon, toy.toml())[0] == 0
    until("nobody listens", lambda: scrape(second)[0] == 0)
    until("nothing is told of it", lambda: daemon.ask("tree")["metrics"] is None)
    after = settled(daemon)
    assert {name: after[name]["pid"] for name in before} == {name: child["pid"] for name, child in before.items()}
    daemon.stop()


def test_while_the_healer_hangs_a_scrape_is_told_so(here: Site) -> None:
    port = free_port()
    daemon = here.daemon(listen(port))
    daemon.start()
    until("it listens", lambda: scrape(port)[0] == 200)
    healer = daemon.worker("healer")
    assert proc.send_signal(healer, signal.SIGSTOP)
    until("the page that is at hand has aged", lambda: scrape(port) == (503, "the healer did not answer within 4 s\n"))
    assert proc.send_signal(healer, signal.SIGCONT)
    until("it is told again", lambda: scrape(port)[0] == 200)
    daemon.stop()
