"""`healctl mcp` called by a real MCP client, and an agent's request that a person confirms (FR-007, R15)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client

from tests.acceptance.conftest import here as here
from tests.lab.daemon import HEALCTL, Daemon, Site

Call = Callable[..., Awaitable[tuple[bool, dict[str, Any]]]]
WORDS = (
    "", "x" * 5_000, "$(touch /tmp/x)", "'; rm -rf / #", "\x00", "../../etc", "\n", "\u202e", "{0.__class__}", "--help",
)  # fmt: skip


def session(daemon: Daemon, work: Callable[[ClientSession, Call], Awaitable[None]]) -> None:
    async def main() -> None:
        server = StdioServerParameters(command=str(HEALCTL), args=["mcp", "-c", str(daemon.config_file)])
        async with (
            asyncio.timeout(60),
            stdio_client(server) as (read, write),
            ClientSession(read, write) as client,
        ):
            await client.initialize()

            async def call(**arguments: Any) -> tuple[bool, dict[str, Any]]:
                result = await client.call_tool("cortex_heal", arguments)
                (content,) = result.content  # type: ignore[union-attr]
                return not result.is_error, json.loads(content.text)  # type: ignore[union-attr]

            await work(client, call)

    asyncio.run(main())


@pytest.mark.req("FR-007", "R15", "AC-009")
def test_the_seven_actions_over_mcp_answer_json_and_approve_and_execute_wait_for_a_person(here: Site) -> None:
    daemon, toy, _ = here.down()
    runbook = {"runbook_id": "rb-restart-service", "target_id": "toy"}

    async def work(client: ClientSession, call: Call) -> None:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "cortex_heal"
        ok, status = await call(action="status")
        assert ok
        (incident,) = status["open_incidents"]
        assert (await call(action="list_runbooks"))[1]["runbooks"]
        ok, plan = await call(action="dry_run", **runbook)
        assert ok
        assert [step["step_id"] for step in plan["steps"]] == ["stop", "start"]
        ok, asked = await call(action="approve", **runbook)
        assert (ok, asked["pending"]) == (True, True)
        ok, refused = await call(action="execute", **runbook)
        assert (ok, refused["error"]) == (False, "Safety check: must pass confirm=true to force-execute a runbook")
        ok, asked = await call(action="execute", confirm=True, **runbook)
        assert (ok, asked["pending"]) == (True, True)
        assert toy.starts() == 1, "nothing ran on an agent's word"
        for bad in ({}, {"action": "status", "more": 1}, {"action": "undo"}, {"action": 7}, {"action": "dismiss"}):
            ok, answer = await call(**bad)
            assert not ok
            assert answer["error"]
        for word in WORDS:
            for action, names in (
                ("dry_run", ("runbook_id", "target_id")),
                ("approve", ("runbook_id",)),
                ("dismiss", ("incident_id", "reason")),
            ):
                ok, answer = await call(action=action, **dict.fromkeys(names, word))
                assert not ok
                assert answer["error"]
        ok, answer = await call(action="dismiss", incident_id=incident["id"], reason="planned")
        assert (ok, answer["success"]) == (True, True)

    session(daemon, work)
    code, waiting = daemon.cli("heal", "requests", "--json")
    assert code == 0
    wanted = {it["action"]: it["code"] for it in waiting["requests"]}
    assert set(wanted) == {"approve", "execute"}
    code, done = daemon.cli("heal", "confirm", wanted["execute"], "--json")
    assert (code, done["verification_passed"]) == (0, True)
    assert toy.starts() == 2
    assert daemon.cli("heal", "confirm", wanted["execute"], "--json")[0] == 4, "a code is good once"
    audit = daemon.cli("audit", "--json")[1]["orders"]
    assert {it["actor"] for it in audit} == {"operator", "agent:mcp"}


@pytest.mark.req("FR-007")
def test_mcp_says_that_no_daemon_is_running(here: Site, tmp_path: Path) -> None:
    daemon = here.daemon("")

    async def work(client: ClientSession, call: Call) -> None:
        ok, answer = await call(action="status")
        assert not ok
        assert "no healctl is running" in answer["error"]

    session(daemon, work)
