"""A gateway's restart by R3 (c): it must not be running in the moment in which its command is let go."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from remediators.runbooks import RUNBOOKS
from supervisor.config import Config, GatewaySection
from supervisor.incidents.model import Authority, Recipe, Target
from tests.doubles.openclaw_double import HttpPort
from tests.process import executorlab as lab

RESTART = next(book for book in RUNBOOKS if book.id == "rb-gateway-restart")


@pytest.mark.req("R3", "NFR-001", "FR-003")
@pytest.mark.parametrize("authority", [Authority.NOT_RUNNING, Authority.APPROVED])
def test_what_came_back_while_its_restart_was_written_down_is_left_alone(tmp_path: Path, authority: Authority) -> None:
    """The ledger may take seconds for that; by then a person has started it. An approval is for live ones, too."""
    restarted = tmp_path / "restarted"
    argv = (sys.executable, "-S", "-E", "-c", f"open({str(restarted)!r}, 'w')")
    target = Target("gw", "gateway", auto_restart=True, recipe=Recipe(argv=argv))

    async def scenario() -> None:
        port = HttpPort()
        port.shut()
        config = Config(gateway={"gw": GatewaySection(health_url=port.url, status=("true",), restart=argv)})
        async with lab.lab(config) as core:
            core.acknowledge_programs = False
            execution = lab.execution(target, runbook=RESTART, authority=authority)
            await core.dispatch(execution)
            await core.until(lambda: bool(core.programs))
            port.reopen()
            core.acknowledge_programs = True  # it is asked again
            await core.until(lambda: core.ended(execution.id))
            port.shut()
            (result,) = core.results()
        if authority is Authority.APPROVED:
            assert result.success
            assert restarted.exists()
        else:
            assert not result.success
            assert "fence: gw answers again; it was not restarted" in result.output
            assert not restarted.exists()

    asyncio.run(scenario())
