"""`[drill]` in a configuration, the zone of this host, and what is shown of the last drill."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from supervisor import clock
from supervisor.cli import output
from supervisor.config import Config, parse
from supervisor.errors import ConfigError
from supervisor.house import policy_of
from supervisor.incidents import drill
from supervisor.metering import Metering
from supervisor.targets import families, worker_of
from tests.unit.test_engine_drill import DrillLab

SUMMER = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
WINTER = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('at = "3:30"', 'a time of day like "03:30"'),
        ('at = "24:00"', 'a time of day like "03:30"'),
        ('at = "03:30\\n"', 'a time of day like "03:30"'),
        ("at = 330", "drill.at"),
        ("every = 60", "drill.every"),
        ('every = "10ms"', "less than a second"),
        ('every = "-1s"', "drill.every"),
        ('timeout = "0s"', "drill.timeout"),
        ('timeout = "11m"', "drill.timeout"),
        ('at = "03:30"\nevery = "24h"', "expected one of the two"),
        ('hour = "03:30"', "hour"),
    ],
)
def test_a_bad_schedule_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"[drill]\n{text}\n", "healctl.toml")
    assert said in str(refused.value)


@pytest.mark.req("FR-005")
def test_the_schedule_reaches_the_engine_and_by_default_there_is_none() -> None:
    none = policy_of(Config())
    assert (none.drill_at, none.drill_every_s, none.drill_zone) == ("", 0.0, None)
    policy = policy_of(parse('[drill]\nat = "03:30"\ntimeout = "5s"\n', "healctl.toml"))
    assert (policy.drill_at, policy.drill_timeout_s) == ("03:30", 5.0)
    assert policy.drill_zone is not None
    assert policy_of(parse('[drill]\nevery = "1h"\n', "healctl.toml")).drill_every_s == 3600.0


@pytest.mark.req("FR-005")
def test_the_zone_of_the_host_with_its_summer_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "nowhere/at-all")
    assert clock.local_zone().utcoffset(datetime.now(UTC)) is not None
    monkeypatch.setenv("TZ", f":{tmp_path}/none")
    assert clock.local_zone().utcoffset(datetime.now(UTC)) is not None
    rome = Path("/usr/share/zoneinfo/Europe/Rome")
    if not rome.exists():
        pytest.skip("this host knows no zones")
    for name in (f":{rome}", "Europe/Rome"):
        monkeypatch.setenv("TZ", name)
        zone = clock.local_zone()
        hours = [datetime.fromtimestamp(at, zone).hour for at in (WINTER, SUMMER)]
        assert hours == [1, 2]


@pytest.mark.req("FR-005")
def test_whose_worker_reads_it_always_runs() -> None:
    assert worker_of("drill") in families(Config())
    assert worker_of("process") == "process"


@pytest.mark.req("FR-005", "FR-008")
def test_metrics_and_status_tell_how_the_last_one_ended() -> None:
    lab = DrillLab("web")

    def shown() -> tuple[list[float], list[float]]:
        families = Metering([]).families(lab.engine.world, [], None, "", lab.now_s)
        names = ("heal_last_drill_timestamp_seconds", "heal_last_drill_success")
        by_name = {family.name: [sample.value for sample in family.samples] for family in families}
        return by_name[names[0]], by_name[names[1]]

    assert shown() == ([], [])
    lab.good()
    assert shown() == ([lab.now_s], [1.0])
    lab.advance(1.0)
    lab.step_fails = "clear"
    lab.drill()
    assert shown()[1] == [0.0]
    told = output.drill(drill.last(lab.engine.world))
    assert "FAILED" in told
    assert "step clear failed" in told
