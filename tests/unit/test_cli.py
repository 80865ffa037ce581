"""The command line against a healer made of the real bus: arguments in, JSON or tables out, exit codes."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import supervisor
from supervisor.bus import Hub, Publisher, nack_of
from supervisor.cli.main import COMMANDS, cli, run
from supervisor.errors import NeedsConfirm, UnknownId
from supervisor.messages import Event, Frame, Reply, Request
from supervisor.sockets import endpoint, new_context

TRAIL = [{"timestamp": "2026-02-18T09:30:00.000Z", "state": "escalated", "actor": "engine", "note": "bad \x1b[31m"}]
INCIDENT = {
    "id": "inc_1", "anomaly_type": "process_dead", "target_id": "web", "severity": "critical", "state": "escalated",
    "runbook_id": "rb-restart-service", "detected_at": "2026-02-18T09:30:00.000Z",
    "state_changed_at": "2026-02-18T09:30:01.000Z", "escalation_tier": 3, "audit_trail": TRAIL,
}  # fmt: skip
RUNBOOK = {
    "id": "rb-restart-service", "label": "Restart a service", "applies_to": ["process_dead"], "mode": "dry_run",
    "confidence": 0.5, "dry_run_count": 0, "auto_approve_whitelist": False, "last_executed_at": None,
    "author": "file:a\x1b.toml", "last_succeeded_at": None, "approved_at": None,
}  # fmt: skip
STEP = {"step_id": "start", "status": "success", "output": "started", "artifacts": [], "duration_ms": 12.0}
HALT = {"database": "brain-db", "path": "/b", "since": "2026-02-18T09:30:00.000Z", "phase": "held",
        "incident_id": "inc_1", "why": "page 7 is bad"}  # fmt: skip
SUMS = {"incidents": 3, "would_act": 2, "would_resolve": 1, "outcome_unknown": 1, "healed_before": 1,
        "ran_and_verified": 1, "predicted_by_dry_run": 0, "grounds_unknown": 0, "acted_on_healthy": 0}  # fmt: skip
ANSWERS: dict[str, dict[str, Any]] = {
    "status": {"halted": [HALT], "open_incidents": [INCIDENT],
               "runbook_summary": {"total": 1, "auto_execute": 0, "dry_run": 1}},
    "list_runbooks": {"runbooks": [RUNBOOK]},
    "approve": {"success": True, "runbook_id": "rb-restart-service", "mode": "auto_execute",
                "approved_at": "2026-02-18T09:30:00.000Z"},
    "dry_run": {"runbook_id": "rb-restart-service", "target_id": "web", "mode": "dry_run",
                "steps": [{"step_id": "start", "description": "start it"}], "estimated_impact": "start it"},
    "history": {"runbook_id": "rb-restart-service", "since": "2026-01-18T09:30:00.000Z", **SUMS,
                "targets": [{"target_id": "web", **SUMS}], "passed_over": ["archive-2025.db: not a database"]},
    "execute": {"success": True, "mode": "execute", "steps_executed": [STEP], "verification_passed": True,
                "escalation_needed": False},
    "dismiss": {"success": True, "incident_id": "inc_1", "dismiss_until": "2026-02-19T09:30:00.000Z"},
    "ack": {"success": True, "incident_id": "inc_1", "acknowledged_at": "2026-02-18T09:30:00.000Z"},
    "stats": {"self_healing_status": {"open_incident_count": 1, "runbooks_by_mode": {"dry_run": 1, "auto_execute": 0},
                                      "last_remediation_at": None, "last_escalation_at": None,
                                      "last_signal_sent_at": None, "metrics": {"heal_signal_sent": 3}}},
    "tree": {"version": "0.1.0", "targets": 1, "breakers": [], "pauses": [], "halted": [HALT],
             "drill": {"under_way": True, "last_at": "2026-02-18T03:30:01.000Z", "passed": False, "why": "no receipt",
                       "schedule": "at 03:30"},
             "children": [{"name": "store", "state": "ready", "pid": 7, "restarts": 0, "last_exit": None,
                           "since": "2026-02-18T09:30:00.000Z"}],
             "outbox": {"pending": 1, "oldest_s": 3.0, "last_error": "refused",
                        "rows": [{"id": "out_1", "channel": "signal", "tier": 3, "kind": "page", "subject": "s",
                                  "attempts": 4, "last_error": "unreachable: unix:/run/s"}],
                        "held": {"count": 1, "until": "2026-02-18T06:00:00.000Z",
                                 "rows": [{"id": "out_2", "tier": 2, "kind": "approval", "subject": "s2"}]},
                        "gathered": 12},
             "store": {"projections": [{"name": "brain_db", "path": "/b", "behind": 2, "last_error": "locked"}]}},
    "snapshot": {"seq": 4, "open_incidents": [INCIDENT], "children": []},
}  # fmt: skip


class FakeHealer:
    """The healer's sockets with fixed answers, in a thread with a loop of its own. `asked` is what arrived."""

    def __init__(self, runtime_dir: Path, ignore_first: int = 0) -> None:
        self.asked: list[tuple[str, Request]] = []
        self._runtime_dir = runtime_dir
        self._ignore = ignore_first
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        context = new_context()
        hub = Hub(context, endpoint(self._runtime_dir, "control"), "control", self._answer)
        self._hub, self._feed = hub, Publisher(context, endpoint(self._runtime_dir, "events"))
        self._ready.set()
        await self._over.wait()
        hub.close()
        self._feed.close()
        context.destroy(linger=200)

    def _answer(self, batch: list[tuple[str, Frame]]) -> None:
        for source, frame in batch:
            assert isinstance(frame.body, Request)
            self.asked.append((frame.id, frame.body))
            if self._ignore:
                self._ignore -= 1
                continue
            args = msgspec.json.decode(frame.body.args)
            if frame.body.action == "execute" and not args["confirm"]:
                text = "Safety check: must pass confirm=true to force-execute a runbook"
                self._hub.send(source, nack_of(NeedsConfirm(text)), re=frame.id)
            elif args.get("target_id") == "nope" or args.get("incident_id") == "nope":
                self._hub.send(source, nack_of(UnknownId("no such thing", "look at status")), re=frame.id)
            else:
                self._hub.answer(source, frame, Reply(msgspec.json.encode(ANSWERS[frame.body.action])))

    def publish(self, seq: int, kind: str, data: dict[str, Any]) -> None:
        event = Event(seq, kind, 1_771_407_000.0, msgspec.json.encode(data))
        self._loop.call_soon_threadsafe(self._feed.publish, event)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    at = Path(tempfile.mkdtemp(prefix="hc"))
    file = at / "healctl.toml"
    file.write_text(f'[healctl]\nstate_dir = "{at}/state"\nruntime_dir = "{at}"\n')
    monkeypatch.setenv("HEALCTL_CONFIG", str(file))
    yield at
    shutil.rmtree(at)


@pytest.fixture
def healer(runtime: Path) -> Iterator[FakeHealer]:
    made = FakeHealer(runtime)
    yield made
    made.close()


ACTIONS = [
    (["heal", "status"], "status", {}),
    (["heal", "list_runbooks"], "list_runbooks", {}),
    (["heal", "list-runbooks"], "list_runbooks", {}),
    (["heal", "approve", "rb"], "approve", {"runbook_id": "rb"}),
    (["heal", "approve", "rb", "--target", "web", "--revoke"], "approve",
     {"runbook_id": "rb", "target_id": "web", "revoke": True}),
    (["heal", "dry_run", "rb", "--target", "web"], "dry_run", {"runbook_id": "rb", "target_id": "web"}),
    (["heal", "dry-run", "rb", "--target", "web"], "dry_run", {"runbook_id": "rb", "target_id": "web"}),
    (["heal", "dry_run", "rb", "--history"], "history", {"runbook_id": "rb", "since_s": 2_592_000.0}),
    (["heal", "dry_run", "rb", "--history", "--target", "web", "--since", "1h"], "history",
     {"runbook_id": "rb", "since_s": 3600.0, "target_id": "web"}),
    (["heal", "execute", "rb", "--target", "web", "--confirm"], "execute",
     {"runbook_id": "rb", "target_id": "web", "confirm": True}),
    (["heal", "dismiss", "inc_1", "--reason", "no"], "dismiss", {"incident_id": "inc_1", "reason": "no"}),
    (["ack", "inc_1"], "ack", {"incident_id": "inc_1"}),
    (["stats"], "stats", {}),
    (["status"], "tree", {}),
    (["events"], "snapshot", {}),
]  # fmt: skip


@pytest.mark.req("FR-007", "AC-009")
@pytest.mark.parametrize(("words", "action", "args"), ACTIONS)
def test_each_action_sends_its_arguments_and_prints_the_answer_as_json(
    healer: FakeHealer, capsys: pytest.CaptureFixture[str], words: list[str], action: str, args: dict[str, Any]
) -> None:
    assert run(words) == 0
    ((_, request),) = healer.asked
    assert (request.action, msgspec.json.decode(request.args)) == (action, args)
    out, err = capsys.readouterr()
    assert msgspec.json.decode(out) == ANSWERS[action]
    assert err == ""


@pytest.mark.parametrize(("words", "action"), [(words, action) for words, action, _ in ACTIONS])
def test_each_answer_has_a_form_for_people_without_raw_control_characters(
    healer: FakeHealer, capsys: pytest.CaptureFixture[str], words: list[str], action: str
) -> None:
    assert run([*words, "-o", "table"]) == 0
    out = capsys.readouterr().out
    assert out.strip()
    assert "\x1b" not in out  # neither from a service's text, nor as colour: this is no terminal
    assert not out.startswith("{")
    if action == "status":
        assert "bad \\x1b[31m" in out


@pytest.mark.req("FR-007")
def test_execute_without_confirm_is_refused_with_exit_5_and_the_sites_error(
    healer: FakeHealer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["heal", "execute", "rb", "--target", "web"]) == 5
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["error"] == "Safety check: must pass confirm=true to force-execute a runbook"
    assert answer["code"] == "needs_confirm"


def test_an_unknown_id_exits_4_and_says_so_on_stderr_when_people_read(
    healer: FakeHealer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["heal", "dismiss", "nope", "--reason", "x", "-o", "table"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "healctl: no such thing\n  look at status\n"


def test_an_execution_that_was_not_verified_exits_1(healer: FakeHealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "execute", ANSWERS["execute"] | {"success": False})
    assert run(["heal", "execute", "rb", "--target", "web", "--confirm"]) == 1


def test_a_question_that_got_lost_is_asked_again_under_the_same_id(runtime: Path) -> None:
    healer = FakeHealer(runtime, ignore_first=1)
    try:
        (runtime / "healctl.lock").write_text(_lock_of_this_process())
        assert run(["heal", "status"]) == 0
        first, second = healer.asked
        assert first == second
    finally:
        healer.close()


def _lock_of_this_process() -> str:
    from supervisor import proc

    me = proc.stat(os.getpid())
    assert me is not None
    return f"{me.pid} {me.start_ticks} {me.ref.boot_id}\n"


@pytest.mark.parametrize("left_behind", [False, True])
def test_nobody_there_exits_3_with_the_next_step(
    runtime: Path, capsys: pytest.CaptureFixture[str], left_behind: bool
) -> None:
    if left_behind:  # the socket file of a daemon that was killed
        FakeHealer(runtime).close()
        (runtime / "control.sock").touch()
    for words in (["heal", "status"], ["status"], ["stop"], ["events", "--follow"]):
        assert run(words) == 3
    assert run(["heal", "status", "--json"]) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert msgspec.json.decode(last)["hint"] == "start it with: healctl start"


def test_a_runtime_directory_too_long_for_a_socket_is_named(
    runtime: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = runtime / "long.toml"
    file.write_text(f'[healctl]\nruntime_dir = "{runtime}/{"x" * 100}"\n')
    assert run(["heal", "status", "-c", str(file), "-o", "table"]) == 1
    assert "limit of a UNIX socket" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-c", "{file}", "check"], ["check", "-c", "{file}"]])
def test_bad_configuration_exits_78_and_names_file_line_and_key(
    runtime: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    file = runtime / "bad.toml"
    file.write_text("[process.web]\ninterval = 60\n")
    assert run([word.format(file=file) for word in words]) == 78
    error = msgspec.json.decode(capsys.readouterr().out)["error"]
    assert error.startswith(f"{file}:2: key process.web.interval: found 60, expected a duration")
    assert run(["start", "-c", str(file)]) == 78
    assert f"{file}:2: key" in capsys.readouterr().err


def test_check_tells_what_is_in_force(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 0
    file = str(runtime / "healctl.toml")
    told = msgspec.json.decode(capsys.readouterr().out)
    own = ["system-memory", "brain-db", "metrics-db", "ledger", "log-files", "service-output"]
    families = {"host": own[:1], "database": own[1:4], "logs": own[4:]}
    found = {"families": families, "found_at_run_time": ["host"], "runbooks": [], "transports": [], "plugins": []}
    assert told == {"ok": True, "file": file, "targets": own, **found}
    assert run(["check", "--configured"]) == 0


@pytest.mark.req("FR-005")
def test_check_tells_how_each_way_to_signal_is_understood(
    runtime: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = runtime / "bin" / "openclaw"
    program.parent.mkdir()
    program.touch(mode=0o700)
    monkeypatch.setenv("PATH", str(program.parent))
    given = ["http://127.0.0.1:8080", "unix:/run/signal.sock", "tcp://127.0.0.1:7583", "openclaw", "signal-cli"]
    file = runtime / "healctl.toml"
    words = f'account = "+15550100"\nrecipient = "+15550101"\ntransports = {given}\n'.replace("'", '"')
    file.write_text(f"{file.read_text()}\n[notify.signal]\n{words}")
    assert run(["check"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)["transports"]
    assert [one["transport"] for one in told] == given
    assert [one["kind"] for one in told] == ["http", "unix", "tcp", "openclaw", "signal-cli"]
    assert [one["ok"] for one in told] == [True, True, True, True, False]
    assert told[3]["says"] == f"program {program}"
    assert run(["check", "-o", "table"]) == 0
    assert "signal-cli (well formed, but not found)" in capsys.readouterr().out


@pytest.mark.req("FR-005")
def test_status_shows_each_message_that_waits_and_why(healer: FakeHealer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "-o", "table"]) == 0
    out = capsys.readouterr().out
    assert "  out_1 signal tier 3 page, 4 attempts: unreachable: unix:/run/s\n" in out
    assert "Storm: 12 incidents wait to be told in one message\n" in out
    assert "Quiet hours: 1 messages wait until " in out
    assert "  out_2 tier 2 approval: s2\n" in out


@pytest.mark.req("FR-007", "NFR-003")
def test_heal_status_says_what_there_is_to_decide_and_by_which_command(
    healer: FakeHealer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = INCIDENT | {"decide": "Decide: restart web?\n- yes, this once: healctl heal execute rb"}
    monkeypatch.setitem(ANSWERS, "status", ANSWERS["status"] | {"open_incidents": [waits] * 7})
    assert run(["heal", "status", "-o", "table"]) == 0
    out = capsys.readouterr().out
    assert out.count("web: Decide: restart web?\n  - yes, this once: healctl heal execute rb\n") == 5
    assert "2 more wait for you: healctl heal status --json" in out


@pytest.mark.req("AC-007", "NFR-003")
def test_an_approval_says_for_which_target_it_is_and_what_runs_now(
    healer: FakeHealer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"target_id": "web", "running_for": ["inc_1"]}
    monkeypatch.setitem(ANSWERS, "approve", ANSWERS["approve"] | more)
    assert run(["heal", "approve", "rb-restart-service", "--target", "web", "-o", "table"]) == 0
    out = capsys.readouterr().out
    assert "rb-restart-service is now auto_execute for web, approved at " in out
    assert "It runs now for inc_1: healctl heal status" in out


def test_check_configured_says_no_without_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEALCTL_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if not Path("/etc/healctl/healctl.toml").exists():
        assert run(["check", "--configured"]) == 1


@pytest.mark.parametrize(
    "words",
    [["nope"], ["heal"], ["heal", "nope"], ["heal", "execute"], ["heal", "execute", "rb"], ["heal", "dismiss", "i"],
     ["--nope"], ["ack"], ["stop", "--timeout", "5"], ["heal", "status", "-o", "xml"], []],
)  # fmt: skip
def test_usage_errors_exit_2_and_speak_on_stderr(
    runtime: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage:" in err


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"healctl {supervisor.__version__}\n"
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    heal = cli.get_command(None, "heal")  # type: ignore[arg-type]
    paths = [[name] for name in COMMANDS] + [["heal", name] for name in heal.commands]  # type: ignore[union-attr]
    for path in paths:
        assert run([*path, "--help"]) == 0
        assert re.search(r"Examples?:\n +healctl ", capsys.readouterr().out), path


def test_help_loads_no_bus() -> None:
    code = "import sys; from supervisor.cli.main import run; run(['--help']); sys.exit('zmq' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_asking_loads_neither_an_event_loop_nor_the_daemon(healer: FakeHealer) -> None:
    code = (
        "import sys; from supervisor.cli.main import run; run(['heal', 'status'])\n"
        "sys.exit(', '.join({'asyncio', 'supervisor.messages', 'supervisor.incidents.model'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_that_leaves_is_no_error(healer: FakeHealer) -> None:
    code = "from supervisor.cli.main import main; main()"
    script = f"{sys.executable} -c '{code}' heal status | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert done.stderr == b""


def test_a_foreign_package_of_our_name_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "supervisor"
    shutil.copytree(Path(supervisor.__file__).parent, package)
    (package / "__init__.py").write_text("#\n")  # as supervisord's looks
    (package / "supervisord.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from supervisor.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "also holds supervisord" in done.stderr


@pytest.mark.parametrize("form", ["json", "table"])
def test_follow_prints_events_and_takes_a_snapshot_after_a_gap(healer: FakeHealer, form: str) -> None:
    code = "from supervisor.cli.main import main; main()"
    argv = [sys.executable, "-c", code, "events", "--follow", "-o", form]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
        assert following.stdout is not None
        try:
            lines = iter(following.stdout.readline, "")
            first = [next(lines)] if form == "json" else [next(lines), next(lines)]
            assert "inc_1" in first[-1]
            trail = {"incident_id": "inc_1", "state": "resolved", "note": "well again"}
            line = _publish_until(healer, following, 5, "trail", trail)
            assert "resolved" in line
            assert "well again" in line
            if form == "json":
                assert msgspec.json.decode(line) == {
                    "seq": 5, "kind": "trail", "at": "2026-02-18T09:30:00.000Z", "data": trail,
                }  # fmt: skip
            else:
                assert line.startswith("09:30:00.000  web process_dead  resolved")
            healer.publish(9, "trail", trail)  # 6 to 8 were lost
            after = next(lines)
            assert '"kind":"snapshot"' in after if form == "json" else after.startswith("INCIDENT")
        finally:
            following.kill()


def _publish_until(healer: FakeHealer, following: Any, seq: int, kind: str, data: dict[str, Any]) -> str:
    """Publishes until the subscriber, which may not yet be connected, has printed it. Doubles are dropped there."""
    import select

    for _ in range(500):
        healer.publish(seq, kind, data)
        if select.select([following.stdout], [], [], 0.02)[0]:
            return str(following.stdout.readline())
    raise AssertionError("the event never arrived")


@pytest.mark.parametrize("no_colour", [False, True])
def test_a_terminal_gets_a_table_coloured_unless_no_color_is_set(healer: FakeHealer, no_colour: bool) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, **({"NO_COLOR": "1"} if no_colour else {})}
    code = "from supervisor.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code, "heal", "status"], stdout=theirs, env=env, check=True)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "INCIDENT" in text
    assert ("\x1b[31mcritical\x1b[0m" in text) is not no_colour
    assert ("\x1b" in text) is not no_colour
