"""etc/helios.toml, the user's whole site: every row of FR-001's table, with its interval, by the site's own ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import Config, accept, parse
from supervisor.targets import families, targets

FILE = Path(__file__).parents[2] / "etc/helios.toml"


@pytest.fixture
def helios() -> Config:
    return parse(FILE.read_text(), str(FILE))


@pytest.mark.req("FR-001")
def test_every_row_is_watched_at_its_interval(helios: Config) -> None:
    rows = {
        "AUGUR executor": helios.process["augur-executor"].interval,
        "AUGUR signal file": helios.trading["augur"].interval,
        "signal-cli": helios.process["signal-cli"].interval,
        "OpenClaw gateway": helios.gateway["openclaw-gateway"].interval,
        "Pipeline agents": helios.pipeline["helios"].interval,
        "Fleet hosts": helios.fleet.interval,
        "Disk pressure": helios.disk.interval,
        "Memory pressure": helios.memory.interval,
        "brain.db health": helios.database["brain-db"].interval,
        "Log file bloat": helios.logs["log-files"].interval,
    }
    assert {name: float(interval_s) for name, interval_s in rows.items()} == {
        "AUGUR executor": 60,
        "AUGUR signal file": 60,
        "signal-cli": 90,
        "OpenClaw gateway": 120,
        "Pipeline agents": 120,
        "Fleet hosts": 300,
        "Disk pressure": 600,
        "Memory pressure": 300,
        "brain.db health": 900,
        "Log file bloat": 1800,
    }


@pytest.mark.req("FR-001")
def test_the_targets_have_the_ids_that_the_site_uses(helios: Config) -> None:
    known = {target.target_id: target.family for target in targets(helios)}
    assert {"augur-executor", "signal-cli", "augur-signals", "augur-positions", "openclaw-gateway", "system-memory",
            "brain-db", "log-files"} <= known.keys()  # fmt: skip
    assert len(families(helios)) == 8
    assert known["brain-db"] == "database"


@pytest.mark.req("FR-001", "R3")
def test_what_may_be_started_by_itself_is_what_the_ruling_names(helios: Config) -> None:
    assert {target.target_id for target in targets(helios) if target.auto_restart} == {
        "augur-executor",
        "openclaw-gateway",
    }


@pytest.mark.req("R11")
def test_a_command_in_the_home_directory_is_found_without_a_shell(helios: Config) -> None:
    (program,) = helios.pipeline["helios"].stage_done
    assert program == str(Path.home() / "bin/pipeline-stage-done")


def test_it_is_a_good_configuration_where_it_stands() -> None:
    """With what lies beside it: a folder of runbooks there would be read, too."""
    assert dict(accept(FILE.read_text(), FILE).runbook) == {}
