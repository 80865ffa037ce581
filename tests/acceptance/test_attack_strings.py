"""At least 200 hostile strings through everything that healctl reads or is asked: no program starts but the configured
ones, with the words they must have; nothing is deleted; no worker dies (NFR-001, R11)."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.errors import HealError
from supervisor.tasks import STAGE, TASK_ID
from tests.acceptance.test_runbook_pipeline import DONE, calls
from tests.doubles.openclaw_double import HttpPort, Program, recorded
from tests.lab.daemon import Daemon, Site, until
from tests.lab.probes import database, write

pytestmark = [pytest.mark.req("NFR-001", "R11"), pytest.mark.timeout(300)]
PWNED = "pwned"  # a program on the daemon's PATH: it leaves a mark when it runs
ACTIONS = ("status", "list_runbooks", "approve", "dry_run", "execute", "dismiss", "ack", "probe", "stats")
FIELDS = ("runbook_id", "target_id", "incident_id", "reason", "description")


def strings(precious: Path) -> list[str]:
    """Each wants to start `pwned`, to delete `precious`, or to break whoever parses or prints it."""
    evil = [PWNED, f"rm -rf {precious}", f"touch {precious}/touched", f"{PWNED} --now"]
    shapes = [
        "$({})", "`{}`", "; {} ;", "| {}", "|| {}", "&& {}", "& {} &", "\n{}\n", "\r\n{}\r\n", "'; {}; '", '"; {}; "',
        "${{IFS}}{}", "$'{}'", "> /dev/null; {}", "< <({})", "%0a{}", "\\\n{}", "#\n{}", "a\x00{}", "{{{}}}",
        "task-001; {}", "task-001\n{}", "build$({})", "build;{}", "-oProxyCommand={}", "--help;{}", "!{}", "~;{}",
        "eval {}", "exec {}", "__import__('os').system('{}')", "\x1b]0;{}\x07", "${{jndi:{}}}", "{{{{{}}}}}",
        "%({})s", "root@localhost;{}", "[x]({})", "\u2028{}", "\uff1b{}", "\u202e{}\u202c",
    ]  # fmt: skip
    found = [shape.format(each) for shape in shapes for each in evil]
    up = [f"{'../' * n}{precious.relative_to('/')}" for n in range(1, 9)]
    options = ["--help", "-h", "-", "--", "-rf", "--version", "-c", "--exec", "-e", "--config=/etc/passwd", "-x" * 40]
    sql = [
        "' OR 1=1 --", "'; DROP TABLE trades; --", '"; DELETE FROM trades; --', "1); DELETE FROM trades; --",
        "x' UNION SELECT * FROM sqlite_schema --", "\\'; DROP TABLE trades; --", "trades; ATTACH 'x' AS y",
    ]  # fmt: skip
    formats = [
        "{0.__class__}",
        "{0.__init__.__globals__}",
        "%s%s%s%n",
        "{}",
        "{target}",
        "{service}",
        "%(x)s",
        "$x",
        "${x}",
    ]
    odd = [
        "",
        " ",
        "\t",
        "\x00",
        "\x1b[2J\x1b[31mred",
        "\x07" * 50,
        "\u202edetcelfer",
        "\u2066x\u2069",
        "\ufeff",
        "\ud7ff",
        "\u0000\u0001\u0002",
        "e\u0301" * 500,
        "\U0001f4a5" * 200,
        "A" * 4096,
        "A" * 65536,
        "/" * 5000,
        "task-" + "9" * 5000,
        "null",
        "true",
        "NaN",
        "1e999",
        "[" * 500,
        "{" * 500,
        '{"a":' * 200,
        "../../../etc/passwd",
        "/dev/zero",
        "/proc/self/mem",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "C:\\Windows",
        "CON",
        "pipeline:",
        "fleet:",
        "disk:",
        "disk:/../..",
        "healctl",
    ]
    return [*dict.fromkeys([*found, *up, *options, *sql, *formats, *odd])]


class Scene:
    """A folder with something precious, the trap, and every source that others write, full of hostile strings."""

    def __init__(self, here: Site) -> None:
        self.here, self.folder = here, here.folder
        self.precious = self.folder / "precious"
        self.precious.mkdir()
        (self.precious / "file").write_text("worth keeping")
        self.mark = self.folder / "pwned.mark"
        bin_dir = self.folder / "bin"
        bin_dir.mkdir()
        trap = bin_dir / PWNED
        trap.write_text(f"#!/bin/sh\necho x >> {self.mark}\n")
        trap.chmod(0o755)
        self.path = f"{bin_dir}:{os.environ['PATH']}"
        self.strings = strings(self.precious)
        done = self.folder / "stage_done.py"
        done.write_text(DONE)
        self.stage_done = [sys.executable, str(done), str(self.folder), ""]
        self.status = Program(self.folder / "gateway", self._status())
        self.restart = Program(self.folder / "restart", b'{"ok":true,"result":"$(pwned)","error":"`pwned`; {0}"}')

    def _status(self) -> bytes:
        found = msgspec.json.decode(recorded("status-stopped.json"))
        found["rpc"]["error"] = "; pwned; ".join(self.strings[:50])
        found["service"]["runtime"] = {"status": "$(pwned)"}
        return msgspec.json.encode(found)

    def pipeline(self) -> None:
        old = "2026-02-18T09:30:00Z"
        tasks: list[dict[str, Any]] = [{"task_id": text, "current_stage": "build"} for text in self.strings]
        tasks += [{"task_id": f"task-{n:03}", "current_stage": text} for n, text in enumerate(self.strings[:200], 100)]
        tasks += [
            {"task_id": f"task-{n:03}-well-formed", "current_stage": "build", "title": text, "status": text}
            for n, text in enumerate(self.strings[::40])
        ]
        write(self.folder / "state.json", json.dumps({"active_tasks": [{"updated_at": old, **each} for each in tasks]}))

    def trades(self) -> Path:
        path = self.folder / "trades.db"
        database(path, "CREATE TABLE trades (id TEXT PRIMARY KEY, symbol, side, status, opened_at, closed_at)")
        rows = [(text, text, text, "open", text, None) for text in self.strings]
        with closing(sqlite3.connect(path)) as connection:
            connection.executemany("INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.commit()
        signal = {"signal": "FLAT", "symbol": "$(pwned)", "updated_at": time.time()}
        write(self.folder / "signal.json", msgspec.json.encode(signal))
        return path

    def config(self, port: HttpPort) -> str:
        hosts = [{"name": text, "host": text} for text in self.strings]
        write(self.folder / "fleet.json", json.dumps({"hosts": hosts}))
        logs = self.folder / "logs"
        logs.mkdir()
        for number, text in enumerate(self.strings):
            name = text.replace("/", "_").replace("\x00", "_").encode(errors="replace")[:200].decode(errors="ignore")
            (logs / (name if name not in ("", ".", "..") else str(number))).touch()
        quoted = {name: ", ".join(json.dumps(word) for word in words) for name, words in self.words().items()}
        return f"""
[policy]
clear_interval = "100ms"
settle = "100ms"
verify_within = "3s"
[pipeline.main]
state_file = "{self.folder}/state.json"
stage_done = [{quoted["stage_done"]}]
stuck_after = "1s"
interval = "1s"
[trading.bot]
signal_file = "{self.folder}/signal.json"
trades_db = "{self.trades()}"
max_age = "1h"
interval = "1s"
[gateway.gw]
status = [{quoted["status"]}]
restart = [{quoted["restart"]}]
health_url = "{port.url}"
interval = "1s"
[fleet]
hosts_file = "{self.folder}/fleet.json"
interval = "5s"
timeout = "1s"
retry_interval = "100ms"
[logs.odd]
paths = ["{logs}/*"]
interval = "1s"
"""

    def words(self) -> dict[str, list[str]]:
        return {"stage_done": self.stage_done, "status": self.status.argv, "restart": self.restart.argv}

    def unharmed(self, daemon: Daemon, before: dict[str, Any]) -> None:
        assert not self.mark.exists(), "a hostile string became a program"
        assert [p.name for p in self.precious.iterdir()] == ["file"]
        assert (self.precious / "file").read_text() == "worth keeping"
        assert daemon.workers() == before, f"a worker died\n{daemon.tail()}"

    def started(self, daemon: Daemon) -> list[list[str]]:
        """Every program that the ledger knows."""
        with closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True, timeout=5)) as db:
            return [msgspec.json.decode(body)["argv"] for (body,) in db.execute("SELECT body FROM programs")]


def test_hostile_sources_start_nothing_but_what_is_configured(here: Site) -> None:
    with HttpPort(answer=(500, "text/html", b"$(pwned)`pwned`{0.__class__}\x1b[2J")) as port:
        scene = Scene(here)
        assert len(scene.strings) >= 200
        scene.pipeline()
        path = scene.folder / "trades.db"
        daemon = here.daemon(scene.config(port))
        daemon.start(PATH=scene.path)
        before = daemon.workers()
        for runbook in ("rb-kick-pipeline", "rb-clear-phantom", "rb-gateway-restart"):
            daemon.ask("approve", runbook_id=runbook)  # whatever they want to do, they may
        daemon.wait_state("bot-positions", "resolved")
        until("the pipeline's command was called", lambda: calls(scene.folder))
        until("the gateway's restart was called", scene.restart.runs)
        until(
            "the stuck tasks are over",
            lambda: not [i for i in daemon.open_incidents() if i["target_id"] == "task-000-well-formed"],
        )
        scene.unharmed(daemon, before)

        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT id, symbol, side, status, opened_at FROM trades").fetchall()
        assert {row[0] for row in rows} == set(scene.strings), "no row was lost or made"
        assert all(row[0] == row[1] == row[2] == row[4] for row in rows), "nothing but status was written"
        assert {row[3] for row in rows} == {"closed"}

        for stage, task_id, word, message in calls(scene.folder):
            assert STAGE.fullmatch(stage)
            assert TASK_ID.fullmatch(task_id)
            assert word == "blocked"
            assert message.startswith("healctl: in this stage for more than ")
        fixed = list(scene.words().values())
        for argv in scene.started(daemon):
            assert any(argv[: len(words)] == words for words in fixed), argv
            assert len(argv) - len(scene.stage_done) == 4 or argv == scene.restart.argv
        daemon.stop()


def test_hostile_requests_and_lines_start_nothing_and_kill_nobody(here: Site) -> None:
    with HttpPort() as port:
        scene = Scene(here)
        write(scene.folder / "state.json", '{"active_tasks": []}')
        daemon = here.daemon(scene.config(port))
        daemon.start(PATH=scene.path)
        before = daemon.workers()
        for number, text in enumerate(scene.strings):
            action = ACTIONS[number % len(ACTIONS)]
            for asked, args in (
                (action, dict.fromkeys(FIELDS, text)),
                (text, {text: text}),
                (action, _one(action, text)),
            ):
                with suppress(HealError):
                    daemon.ask(asked, **{"args": args} if "args" in args else args)
        _feed(daemon, scene.strings)
        for text in scene.strings[::25]:  # as words of the command line; no NUL can be one
            word = text.replace("\x00", "")[:1000]
            code, _ = daemon.cli("-o", "json", "heal", "dry_run", "--target", word, "--", word)
            assert code in (1, 2, 4), (word, code)
        scene.unharmed(daemon, before)
        assert scene.started(daemon) == []
        daemon.stop()


def _one(action: str, text: str) -> dict[str, Any]:
    """What this action takes, with the hostile text in it."""
    match action:
        case "approve":
            return {"runbook_id": text, "target_id": text}
        case "dry_run":
            return {"runbook_id": "rb-kick-pipeline", "target_id": f"pipeline:{text}"}
        case "execute":
            return {"runbook_id": "rb-kick-pipeline", "target_id": f"pipeline:{text}", "confirm": True}
        case "dismiss":
            return {"incident_id": text, "reason": text}
        case "ack":
            return {"incident_id": text}
        case "probe":
            return {"target_id": f"fleet:{text}"}
        case _:
            return {}


def _feed(daemon: Daemon, texts: list[str]) -> None:
    """Each on a connection of its own: a line that is too long is told, and ends its connection."""
    for text in texts:
        now = {"captured_at": time.time(), "freshness_ms": 1000, "available": True}
        task = {"task_id": text, "current_stage": text}
        lines = (
            {"type": "anomaly", "target_id": text},
            {"source_id": text, **now, "data": text},
            {"source_id": "main.state", **now, "data": {"active_tasks": [task]}},
        )
        with socket.socket(socket.AF_UNIX) as feed:
            feed.settimeout(60)
            feed.connect(str(daemon.runtime_dir / "feed.sock"))
            answers = feed.makefile("rb")
            with suppress(BrokenPipeError, ConnectionResetError):
                for line in lines:
                    feed.sendall(msgspec.json.encode(line) + b"\n")
                    if not answers.readline():
                        break
