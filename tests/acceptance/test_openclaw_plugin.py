"""The OpenClaw plugin's `cortex_heal` (FR-007, R15): under plain node in CI, on the real gateway in `make soak`."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from supervisor import http
from tests.acceptance.conftest import here as here
from tests.lab.daemon import HEALCTL, ROOT, Daemon, Site, until

PLUGIN = ROOT / "etc" / "openclaw-plugin"
# Registers the plugin as the gateway would, then makes each call of standard input (JSON) and prints the answers.
HARNESS = """
import plugin from %s;
let tool;
const hooks = {};
plugin.register({
  pluginConfig: JSON.parse(process.argv[1]),
  registerTool: (it) => { tool = it; },
  on: (name, handler) => { hooks[name] = handler; },
});
const calls = JSON.parse(await new Promise((done) => {
  let text = ""; process.stdin.on("data", (it) => { text += it; }).on("end", () => done(text)); }));
const answers = [];
for (const call of calls) {
  if (call?.hook) hooks.after_tool_call?.(call.hook);
  else answers.push((await tool.execute("id", call)).details);
}
console.log(JSON.stringify(answers));
"""
HOSTILE = (
    "--help", "-c=/etc/passwd", "$(touch /tmp/x)", "`id`", "'; rm -rf / #", "\n", "a\x00b", "../../etc", "", "|", "{0}",
)  # fmt: skip


def node() -> str:
    found = shutil.which("node")
    if found is None:
        if os.environ.get("CI"):
            raise AssertionError("no node: tests/parts.sh installs it")
        pytest.skip("no node here; tests/parts.sh installs it")
    return found


def calls(daemon: Daemon, *given: Any, **more: Any) -> list[dict[str, Any]]:
    settings = json.dumps({"program": str(HEALCTL), "config": str(daemon.config_file), **more})
    script = HARNESS % json.dumps(str(PLUGIN / "index.js"))
    done = subprocess.run(
        [node(), "--input-type=module", "-e", script, settings],
        input=json.dumps(given).encode(), capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.req("FR-007", "R11", "R15")
def test_the_plugin_answers_json_to_good_and_bad_calls_and_only_asks_for_what_is_a_persons(here: Site) -> None:
    daemon, toy, row = here.down()
    both = {"runbook_id": "rb-restart-service", "target_id": "toy"}
    status, books, plan, approve, execute, refused, dismissed = calls(
        daemon,
        {"action": "status"},
        {"action": "list_runbooks"},
        {"action": "dry_run", **both},
        {"action": "approve", **both},
        {"action": "execute", "confirm": True, **both},
        {"action": "execute", "confirm": False, **both},
        {"action": "dismiss", "incident_id": row["id"], "reason": "planned"},
    )
    assert [it["target_id"] for it in status["open_incidents"]] == ["toy"]
    assert books["runbooks"]
    assert [step["step_id"] for step in plan["steps"]] == ["stop", "start"]
    assert approve["pending"] is True
    assert execute["pending"] is True
    assert refused["error"].startswith("Safety check")
    assert dismissed["success"] is True
    assert toy.starts() == 1, "nothing ran on an agent's word"
    bad: list[Any] = [None, [], 7, {}, {"action": "undo"}, {"action": "__proto__"}, {"action": "status", "x": "y"}]
    bad += [{"action": "dry_run", **both, "target_id": 7}, {"action": "execute", **both, "confirm": "yes"}]
    for word in HOSTILE:
        bad += [{"action": "dry_run", "runbook_id": word, "target_id": word}, {"action": "approve", "runbook_id": word}]
        bad += [{"action": "dismiss", "incident_id": word, "reason": word}]
    for call, answer in zip(bad, calls(daemon, *bad), strict=True):
        assert answer.get("error"), (call, answer)


@pytest.mark.req("FR-006")
def test_the_plugin_reports_what_an_agent_ran_while_an_incident_is_open(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    daemon.wait_known(toy)
    flag = daemon.runtime_dir / "capturing"
    given = [
        {"hook": {"params": {"command": shlex.join(toy.argv)}}},
        {"hook": {"params": {"command": "rm -rf x"}, "error": "it failed"}},
        {"hook": {"params": {}}},
    ]
    calls(daemon, *given, capture=True, flag=str(flag))  # all is well: nothing is started
    assert not flag.exists()
    toy.kill()
    daemon.wait_state("toy", "escalated")
    calls(daemon, *given, capture=True, flag=str(flag))

    def actors() -> list[str]:
        (row,) = daemon.incidents("toy")
        return [it["actor"] for it in row["audit_trail"] if it["actor"].startswith("capture:")]

    until("the command in the trail", lambda: actors() == ["capture:agent:openclaw"])


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.req("FR-007", "R15")
def test_the_real_gateway_calls_the_tool(here: Site, tmp_path: Path) -> None:
    from tests.soak.test_openclaw_real import UP_WITHIN_S, OpenClaw

    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    settings = {"program": str(HEALCTL), "config": str(daemon.config_file)}
    gateway = OpenClaw(tmp_path, {"plugins": {"entries": {"healctl": {"enabled": True, "config": settings}}}}, PLUGIN)
    try:
        until("OpenClaw is ready", lambda: gateway.answers("/healthz") and gateway.answers("/readyz"), UP_WITHIN_S)

        def call(**args: Any) -> dict[str, Any]:
            body = json.dumps({"tool": "cortex_heal", "args": args}).encode()
            headers = (("Authorization", "Bearer t"), ("Content-Type", "application/json"))
            answer = asyncio.run(
                http.request(gateway.url, path="/tools/invoke", method="POST", body=body, headers=headers, timeout_s=60)
            )
            found = json.loads(answer.body)
            assert (answer.status, found["ok"]) == (200, True), found
            details: dict[str, Any] = found["result"]["details"]
            return details

        assert call(action="status")["open_incidents"] == []
        both = {"runbook_id": "rb-restart-service", "target_id": "toy"}
        assert call(action="execute", confirm=True, **both)["pending"] is True
        assert call(action="dry_run", runbook_id="--help", target_id="$(id)")["error"]
        assert call(action="nothing")["error"]
    finally:
        gateway.end()
