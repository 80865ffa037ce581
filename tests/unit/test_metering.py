"""What Prometheus is shown (FR-008, R14): names, labels, escaping, values; promtool is the judge of the form."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents import views
from supervisor.incidents.model import BUCKETS_S, METRICS, AnomalyType, Tally
from supervisor.incidents.putting import OTHERS, TALLIES_MAX
from supervisor.incidents.records import PutTally
from supervisor.incidents.world import Turn
from supervisor.messages import Family, MetricsFound, ProjectionStatus, Sample, StoreStatus
from supervisor.metering import Metering
from supervisor.scrape.text import number, page
from supervisor.units import parse_listen
from tests import parts
from tests.lab.engine import Lab
from tests.unit.test_engine_incident import die_after_2_s

HOSTILE = 'a"b\\c\nheal_forged_total{x="y"} 1\n\u2028é\ud800'
CHILDREN = [{"name": "store", "state": "ready", "restarts": 2}, {"name": "metrics", "state": "exited", "restarts": 0}]
STATUS = StoreStatus("/l", 4096, True, "3.50", (ProjectionStatus("brain_db", "/b", 7, 1.5, "locked"),))


def shown(lab: Lab, tallies: Iterable[Tally] = ()) -> dict[str, Family]:
    metering = Metering(tallies)
    metering.durable(lab.records)
    found = metering.families(lab.engine.world, CHILDREN, STATUS, "", lab.now_s)
    return {family.name: family for family in found}


def values(family: Family) -> dict[tuple[str, ...], float]:
    return {
        (*(value for _, value in it.labels), *([it.suffix] if it.suffix else [])): it.value for it in family.samples
    }


def busy() -> Lab:
    """Something of everything: healed, failed and delivered, with a pause and a message that waits."""
    lab = Lab("web", "api")
    lab.heals["api"] = False
    lab.kill("web")
    lab.kill("api")
    lab.advance(60)
    for row in lab.messages("signal"):
        lab.advance(3)
        lab.feed(e.Delivered(row.id, 1, "signal:1", ""))
    lab.order("pause", family="process")
    return lab


@pytest.mark.req("FR-008", "R14")
def test_promtool_finds_nothing_to_say() -> None:
    text = page(shown(busy()).values())
    done = subprocess.run([str(parts.promtool()), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_promtool_would_have_something_to_say() -> None:
    bad = Family("heal_bad", "counter", "", (Sample((), 1),))
    done = subprocess.run(
        [str(parts.promtool()), "check", "metrics"], input=page([bad]), capture_output=True, check=False
    )
    assert done.returncode == 3


@pytest.mark.req("FR-008")
def test_the_eight_are_there_before_anything_has_happened_and_agree_with_stats() -> None:
    for lab in (Lab("web"), busy()):
        families = shown(lab)
        stats = views.stats(lab.engine.world)["self_healing_status"]
        for name in METRICS:
            family = families[f"{name}_total"]
            assert family.kind == "counter"
            assert sum(values(family).values()) == stats["metrics"][name], name
        assert sum(values(families["heal_open_incidents"]).values()) == stats["open_incident_count"]
        assert {mode: count for (mode,), count in values(families["heal_runbooks"]).items()} == stats[
            "runbooks_by_mode"
        ]
    quiet = shown(Lab("web"))
    assert set(values(quiet["heal_anomaly_detected_total"])) == {
        (it.value, "detected") for it in AnomalyType if it is not AnomalyType.DRILL
    }
    assert values(quiet["heal_signal_sent_total"]) == {("3", "sent"): 0}


def test_values_of_a_busy_house() -> None:
    lab = busy()
    families = shown(lab)
    assert values(families["heal_remediation_success_total"])["rb-restart-service", "pass"] == 1
    assert values(families["heal_remediation_failed_total"])["rb-restart-service", "fail"] == 1
    assert values(families["heal_open_incidents"]) == {("process_dead", "critical", "escalated"): 1}
    assert values(families["heal_pauses"]) == {("person", "family"): 1}
    pending = values(families["heal_outbox_pending"])
    assert pending == {("synapse",): len(lab.engine.world.outbox), ("signal",): 0}
    ages = values(families["heal_outbox_oldest_age_seconds"])
    assert ages["signal",] == 0
    assert ages["synapse",] == lab.now_s - min(row.created_wall_s for row in lab.engine.world.outbox.values())
    assert values(families["heal_worker_up"]) == {("store",): 1, ("metrics",): 0}
    assert values(families["heal_worker_restarts_total"]) == {("store",): 2, ("metrics",): 0}
    assert values(families["heal_projection_behind_revisions"]) == {("brain_db",): 7}
    assert values(families["heal_projection_behind_seconds"]) == {("brain_db",): 1.5}
    assert values(families["heal_ledger_size_bytes"]) == {(): 4096}
    assert values(families["heal_ledger_up"]) == {(): 1}
    for name in (
        "heal_last_remediation_timestamp_seconds",
        "heal_last_escalation_timestamp_seconds",
        "heal_last_signal_sent_timestamp_seconds",
    ):
        (at,) = values(families[name]).values()
        assert lab.now_s - 120 < at <= lab.now_s
    assert values(families["heal_targets"]) == {(): len(lab.engine.world.targets)}


def test_a_breaker_is_counted_while_it_is_open() -> None:
    lab = Lab("web")
    lab.kill("web")
    for _ in range(40):
        die_after_2_s(lab)
    assert values(shown(lab)["heal_breakers"]) == {("rb-restart-service", "open"): 1}


@pytest.mark.req("FR-008")
def test_durations_fall_into_their_buckets() -> None:
    families = shown(busy())
    delivery = values(families["heal_delivery_duration_seconds"])
    assert delivery["signal", "_count"] == delivery["signal", "+Inf", "_bucket"] == 2
    assert delivery["signal", "_sum"] > 3
    verification = values(families["heal_verification_duration_seconds"])
    bounds = [f"{bound:g}" for bound in BUCKETS_S]
    row = [verification["rb-restart-service", bound, "_bucket"] for bound in bounds]
    assert row == sorted(row), "buckets are cumulative"
    assert row[bounds.index("0.5")] == 0
    assert row[bounds.index("1")] == 1, "one settled for a second"
    assert row[bounds.index("60")] == 2, "the other was given its 30 s"
    assert values(families["heal_detection_duration_seconds"])["process", "_count"] == 2
    assert values(families["heal_remediation_duration_seconds"])["rb-restart-service", "_count"] == 2


def test_a_duration_on_a_bound_belongs_to_its_bucket_and_one_beyond_all_to_none() -> None:
    lab = Lab("web")
    turn = Turn(lab.engine.world, lab.instant())
    for seconds in (-5.0, BUCKETS_S[3], BUCKETS_S[-1] + 1):
        turn.took("heal_delivery_duration_seconds", "signal", seconds)
    lab.records += turn.records
    found = values(shown(lab)["heal_delivery_duration_seconds"])
    assert [found["signal", f"{bound:g}", "_bucket"] for bound in BUCKETS_S] == [1, 1, 1, *[2] * (len(BUCKETS_S) - 3)]
    assert found["signal", "+Inf", "_bucket"] == 3


def test_durations_in_another_versions_buckets_begin_anew() -> None:
    name = "heal_delivery_duration_seconds"
    old = Tally(name, "signal", "", 9, 9.0, (9,))
    lab = Lab("web")
    assert shown(lab, [old])[name].samples == ()
    lab.engine.world.tallies[name, "signal", ""] = old
    turn = Turn(lab.engine.world, lab.instant())
    turn.took(name, "signal", 1.0)
    lab.records += turn.records
    assert values(shown(lab, [old])[name])["signal", "_count"] == 1


@pytest.mark.req("FR-008", "R14")
def test_only_what_the_ledger_has_is_shown_and_a_new_engine_goes_on_from_there() -> None:
    lab = Lab("web")
    lab.kill("web")
    lab.advance(2)
    durable = {it.tally.name: it.tally for it in lab.records if isinstance(it, PutTally)}
    lab.crash()
    families = shown(lab, durable.values())
    assert values(families["heal_anomaly_detected_total"])["process_dead", "detected"] == 1
    lab.kill("web")
    families = shown(lab, durable.values())
    assert values(families["heal_anomaly_detected_total"])["process_dead", "detected"] == 2
    assert Metering(durable.values()).families(lab.engine.world, [], None, "disk full", 0.0)


def test_kinds_of_events_without_an_end_become_one() -> None:
    lab = Lab("web")
    turn = Turn(lab.engine.world, lab.instant())
    for n in range(TALLIES_MAX + 50):
        turn.metric("heal_remediation_started", f"rb-{n}", "started")
    assert len(lab.engine.world.tallies) == TALLIES_MAX + 1
    assert lab.engine.world.tallies["heal_remediation_started", OTHERS, "started"].count == 50
    assert "tallies" in lab.engine.world.limits, "a limit that is reached is told"


@pytest.mark.req("FR-008")
def test_a_hostile_label_is_one_label_on_one_line() -> None:
    family = Family("heal_database_halted", "gauge", "first\nsecond \\", (Sample((("database", HOSTILE),), 1),))
    text = page([family])
    lines = text.decode().splitlines(keepends=True)
    assert text.count(b"\n") == 3
    assert lines[0] == "# HELP heal_database_halted first\\nsecond \\\\\n"
    assert '{database="a\\"b\\\\c\\nheal_forged_total{x=\\"y\\"} 1\\n' in text.decode()
    assert text.decode().rstrip().endswith('é?"} 1')
    done = subprocess.run([str(parts.promtool()), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.0, "3"), (0.1, "0.1"), (1e-05, "1e-05"), (float("inf"), "+Inf"), (2.0**60, "1.152921504606847e+18")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("localhost:9464", None),
        ("127.0.0.1", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:+80", None),
        ("127.0.0.1:٣", None),
        ("::1:9464", None),
        ("[127.0.0.1]:80", None),
        ("", None),
    ],
)
def test_where_to_listen(text: str, where: tuple[str, int] | None) -> None:
    assert parse_listen(text) == where


def test_what_is_shown_of_ten_thousand_incidents_is_small() -> None:
    lab = Lab("web")
    lab.kill("web")
    (incident,) = lab.incidents()
    for n in range(10_000):
        one = msgspec.structs.replace(incident, id=f"inc-{n}", target_id=f"svc-{n}")
        lab.engine.world.incidents[one.id] = one
    families = shown(lab)
    assert values(families["heal_open_incidents"])["process_dead", "critical", "verifying"] >= 10_000
    assert len(msgspec.msgpack.encode(MetricsFound(tuple(families.values())))) < 50_000
