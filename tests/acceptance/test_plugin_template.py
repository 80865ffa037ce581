"""The template of a plugin, installed by pip beside healctl, on the real daemon: its probe's incident opens, its step
runs once it is approved, its probe proves that, and what is told arrives through its channel (issue 8)."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lab.daemon import Daemon, Site, until
from tests.lab.plugged import TEMPLATE, Environment

pytestmark = pytest.mark.req("FR-001", "FR-003", "FR-005", "R3", "R11")


class Receiver(BaseHTTPRequestHandler):
    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        message = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
        self.got.append(message)
        body = msgspec.json.encode({"id": f"hook-{message['id']}"})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    got: list[dict[str, Any]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Receiver,), {"got": got}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], got
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment") / "venv")
    made.install(TEMPLATE)
    return made


def configured(here: Site, environment: Environment, port: int) -> tuple[Daemon, Path]:
    """As the template's own README says, with a folder and a port of this test."""
    spool = here.folder / "orders"
    spool.mkdir()
    toml, runbook = re.findall(r"^```toml\n(.*?)^```", (TEMPLATE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    toml = toml.replace("/var/spool/orders", str(spool)).replace("8080", str(port)).replace("100", "3")
    toml = toml.replace("[plugin.spool]\n", '[plugin.spool]\ninterval = "200ms"\n')
    head, tables = toml.split("\n\n", 1)
    daemon = here.daemon(tables)
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text.replace("[healctl]\n", f"{head}\n", 1))
    runbooks = here.folder / "runbooks.d"
    runbooks.mkdir(mode=0o700)
    (runbooks / "spool.toml").write_text(runbook.replace("keep = 10", "keep = 1"))
    (runbooks / "spool.toml").chmod(0o600)
    daemon.program = [str(environment.healctl)]
    daemon.more_workers = {"spool", "webhook"}
    return daemon, spool


def test_it_is_detected_approved_repaired_proved_and_told(
    here: Site, environment: Environment, hook: tuple[int, list[dict[str, Any]]]
) -> None:
    port, got = hook
    daemon, spool = configured(here, environment, port)
    daemon.start()
    for number in range(5):
        (spool / f"job-{number}").write_text("work")
    (row,) = daemon.wait_state("spool:orders", "escalated")
    assert (row["anomaly_type"], row["severity"], row["runbook_id"]) == ("spool.backlog", "high", "rb-clear-spool")
    asked = until("the request", lambda: [it for it in got if it["kind"] == "approval"])
    assert "orders has backlog" in asked[0]["subject"]
    assert "set 4 files of" in asked[0]["body"]  # the dry run's own words
    assert "acme-spool 0.1.0, step clear-spool" in asked[0]["body"]
    assert len(list(spool.iterdir())) == 5
    assert daemon.ask("approve", runbook_id="rb-clear-spool", target_id="spool:orders")["running_for"] == [row["id"]]
    (row,) = daemon.wait_state("spool:orders", "resolved")
    assert sorted(path.name for path in spool.iterdir()) == ["job-4", "set-aside"]
    notes = [entry["note"] for entry in row["audit_trail"]]
    assert any(re.search(r"webhook approval delivered \(webhook:hook-out_", note) for note in notes)
    execution = next(entry["execution_id"] for entry in row["audit_trail"] if entry.get("execution_id"))
    undone = daemon.ask("undo", execution_id=execution)
    assert undone["success"], undone
    assert len(list(spool.iterdir())) == 6
    daemon.stop()


def test_what_people_are_shown_names_it_with_its_version(
    here: Site, environment: Environment, hook: tuple[int, list[dict[str, Any]]]
) -> None:
    daemon, _ = configured(here, environment, hook[0])
    code, told = daemon.cli("check", "--json")
    assert code == 0
    assert {(it["name"], it["part"], it["distribution"], it["version"]) for it in told["plugins"]} == {
        ("spool", "probe", "acme-spool", "0.1.0"),
        ("clear-spool", "step", "acme-spool", "0.1.0"),
        ("webhook", "channel", "acme-spool", "0.1.0"),
    }
    code, told = daemon.cli("check", "--live", "--json")
    look = next(it for it in told["targets"] if it["target_id"] == "spool:orders")
    assert (look["outcome"], look["data"]["figures"]) == ("clear", {"files": 0})
    _, told = daemon.cli("doctor", "--json")
    says = [it["says"] for it in told["findings"] if it["check"] == "plugins"]
    assert "acme-spool 0.1.0, probe spool = acme_spool.probe:SpoolProbe: imported, it keeps to api 1" in says
    daemon.start()
    _, tree = daemon.cli("status", "--json")
    assert {it["name"] for it in tree["plugins"]} == {"spool", "clear-spool", "webhook"}
    daemon.stop()


def test_its_own_tests_pass(environment: Environment) -> None:
    argv = [str(environment.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEMPLATE / "tests")]
    done = subprocess.run(argv, cwd=environment.folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
