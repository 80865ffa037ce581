"""Readings and insights from outside before the engine: what they may cause, and above all what they may not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents.detect import UNCONFIRMED_S
from supervisor.incidents.model import AnomalyType, Instant, Severity, State, Target
from supervisor.incidents.outside import AGAIN_S
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DiskData, HealthReading, Unavailable
from supervisor.incidents.records import AddMetric, AddTrail, PutExecution, PutIncident, PutKnown
from supervisor.incidents.world import RECHECK_S
from tests.lab.engine import Lab


def outside(lab: Lab, name: str = "web", *, alive: bool, age_s: float = 0.0, **changes: Any) -> None:
    """Somebody hands in a reading of `name`, whatever is really so."""
    true = lab.alive[name]
    lab.alive[name] = 4242 if alive else None
    reading = lab.reading(name, external=True, **changes)
    lab.alive[name] = true
    lab.feed(e.ReadingSeen(msgspec.structs.replace(reading, taken_mono_s=reading.taken_mono_s - age_s)))


def probes_asked(lab: Lab, event: e.Event) -> int:
    """How many questions an event leads to, without anybody answering them."""
    return len(lab.engine.handle(event, lab.instant()).probes)


@pytest.mark.req("R7", "NFR-004", "NFR-002")
def test_a_false_alarm_from_outside_ends_at_our_own_probe_and_nothing_runs() -> None:
    lab = Lab("web")
    outside(lab, alive=False)
    incident = lab.only("web")
    assert incident.state is State.SELF_RESOLVED
    assert lab.states(incident) == [State.DETECTED, State.DIAGNOSING, State.SELF_RESOLVED]
    assert lab.dispatched == []
    assert lab.messages() == []


@pytest.mark.req("R7", "NFR-004", "FR-002")
def test_a_true_alarm_from_outside_is_confirmed_by_our_own_probe_and_healed() -> None:
    lab = Lab("web")
    lab.alive["web"] = None  # nobody has told us yet
    outside(lab, alive=False)
    incident = lab.only("web")
    assert len(lab.dispatched) == 1
    assert not incident.outside
    notes = [r.entry.note for r in lab.records if isinstance(r, AddTrail)]
    assert notes[0].startswith("by a reading from outside, detected: ")
    assert any(note.startswith("our own probe confirms it: ") for note in notes)
    lab.advance(2)
    lab.poll("web")
    assert lab.only("web").state is State.RESOLVED
    assert lab.dispatched[0].grounds_mono_s is not None


@pytest.mark.req("R7", "R2", "NFR-004")
def test_while_our_probe_is_silent_nothing_runs_and_nobody_is_paged() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    outside(lab, alive=False)
    for _ in range(50):
        lab.advance(6)
        outside(lab, alive=False)
    incident = lab.only("web")
    assert incident.state is State.DIAGNOSING
    assert incident.outside
    assert lab.dispatched == []
    assert lab.messages() == [], "only others say so: a page waits for our own word"
    lab.silent.clear()
    lab.alive["web"] = None
    lab.advance(60)  # asked ever more seldom, but at least so often
    assert len(lab.dispatched) == 1
    assert len(lab.messages("signal")) == 1


@pytest.mark.req("R7", "NFR-004")
def test_what_our_probe_can_never_confirm_is_let_go_in_time() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    outside(lab, alive=False)
    lab.advance(UNCONFIRMED_S - 61)
    assert lab.only("web").state is State.DIAGNOSING
    lab.advance(122)
    let_go = lab.only("web")
    assert let_go.state is State.DISMISSED
    assert lab.dispatched == []
    assert lab.messages() == []
    outside(lab, alive=False)
    assert lab.only("web") == let_go, "nor does the next word open it again at once"
    lab.silent.clear()
    lab.kill("web")
    assert lab.incidents("web")[-1].state is State.VERIFYING, "our own word is not held back"


@pytest.mark.req("R14", "R7", "NFR-004")
def test_readings_from_outside_refresh_nothing_and_close_nothing() -> None:
    lab = Lab("web", policy=Policy(confidence_auto_execute=2.0))
    lab.heals["web"] = False
    lab.kill("web")
    lab.advance(40)  # the repair is not verified: escalated
    before = lab.only("web")
    assert before.state is State.ESCALATED
    count = len(lab.records)
    for alive in (True, False, True):
        lab.advance(5)
        outside(lab, alive=alive)
        outside(lab, alive=True, available=False, data=None, reason=Unavailable.ERROR, error="hostile words")
    assert lab.only("web") == before
    assert not [r for r in lab.records[count:] if isinstance(r, PutIncident | PutExecution | PutKnown)]
    lab.alive["web"] = 7
    lab.poll("web")
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R6", "R7")
def test_a_reading_from_outside_verifies_nothing() -> None:
    lab = Lab("web")
    lab.heals["web"] = False
    lab.silent.add("web")
    lab.alive["web"] = None
    lab.poll("web")
    lab.advance(0.1)
    lab.poll("web")  # the fresh probe
    assert lab.only("web").state is State.VERIFYING
    for _ in range(20):
        lab.advance(1)
        outside(lab, alive=True)
    assert lab.only("web").state is State.VERIFYING
    lab.advance(60)
    assert lab.only("web").state is State.ESCALATED, "no reading of our own ever said that it worked"


@pytest.mark.req("R7")
def test_it_leaves_no_trace_in_what_we_know() -> None:
    lab = Lab("web")
    lab.poll("web")
    reading, known = lab.engine.world.readings["web"], dict(lab.engine.world.known)
    lab.advance(1)
    outside(lab, alive=True)
    assert lab.engine.world.readings["web"] == reading
    assert lab.engine.world.known == known


@pytest.mark.req("NFR-004")
def test_one_older_than_our_newest_own_says_nothing_any_more() -> None:
    lab = Lab("web")
    lab.advance(10)
    lab.poll("web")
    outside(lab, alive=False, age_s=5)
    assert lab.incidents() == []


@pytest.mark.req("R9", "NFR-004")
@pytest.mark.parametrize("theirs", ["available", "unavailable"])
def test_our_own_count_of_failed_checks_is_ours_alone(theirs: str) -> None:
    lab = Lab("web")
    for _ in range(2):
        lab.advance(1)
        lab.feed(e.ReadingSeen(lab.unavailable("web")))
    for _ in range(5):
        lab.advance(1)
        if theirs == "available":
            outside(lab, alive=True)
        else:
            lab.feed(e.ReadingSeen(msgspec.structs.replace(lab.unavailable("web"), external=True)))
    assert lab.incidents() == []
    lab.advance(1)
    lab.silent.add("web")
    lab.feed(e.ReadingSeen(lab.unavailable("web")))
    assert lab.only("web").anomaly is AnomalyType.PROBE_UNAVAILABLE


@pytest.mark.req("NFR-004", "NFR-002")
def test_a_hostile_feeder_opens_an_incident_once_in_a_while_at_most() -> None:
    lab = Lab("web")
    for _ in range(2000):
        lab.advance(0.1)
        outside(lab, alive=False)
    assert len(lab.incidents("web")) == 1
    assert sum(isinstance(r, AddMetric) for r in lab.records) < 5
    lab.advance(AGAIN_S)
    outside(lab, alive=False)
    assert len(lab.incidents("web")) == 2


@pytest.mark.req("NFR-004", "FR-002")
def test_whoever_was_wrong_is_still_looked_into() -> None:
    """What theirs may no longer open, our own probe finds: no failure is missed because somebody cried wolf."""
    lab = Lab("web")
    outside(lab, alive=False)
    lab.alive["web"] = None
    lab.advance(5)
    outside(lab, alive=False)
    lab.advance(1)
    assert len(lab.dispatched) == 1


@pytest.mark.req("R6")
def test_false_alarms_make_no_anomaly_intermittent() -> None:
    lab = Lab("web")
    for _ in range(4):
        outside(lab, alive=False)
        lab.advance(AGAIN_S)
    assert len(lab.incidents("web")) == 4
    lab.kill("web")
    assert not lab.incidents("web")[-1].intermittent


def test_false_alarms_make_no_storm() -> None:
    """Unconfirmed words about many targets hold back no repair of one, and no page names them."""
    names = [f"s{n}" for n in range(12)]
    lab = Lab(*names)
    lab.silent.update(names[:11])
    for name in names[:11]:
        outside(lab, name, alive=False)
    lab.heals["s11"] = False
    lab.kill("s11")
    lab.advance(40)
    assert len(lab.dispatched) == 1
    assert lab.engine.world.storms == {}
    assert lab.engine.world.pauses == {}
    assert all("s3" not in row.body for row in lab.messages())


def test_a_value_on_the_edge_is_not_kept_open_by_what_others_said() -> None:
    """What they opened ends at the full mark, not at the lower one of hysteresis."""
    lab = Lab(targets=(Target("disk:/x", "host"),))
    lab.silent.add("disk:/x")
    lab.alive.clear()

    def read(share: float, *, external: bool) -> None:
        data = DiskData("/x", pressure=0.85, critical=0.95, used_share=share)
        at = lab.instant()
        reading = HealthReading("disk:/x", "host", at.mono_s, at.wall_s, 1.0, 600_000, True, data, external=external)
        lab.feed(e.ReadingSeen(reading))

    read(0.90, external=True)
    assert lab.only("disk:/x").state is State.DIAGNOSING
    read(0.84, external=False)  # would keep one open that we had found ourselves
    assert lab.only("disk:/x").state is State.SELF_RESOLVED


@pytest.mark.req("FR-002", "R7")
def test_an_insight_makes_our_own_probe_look_and_decide() -> None:
    lab = Lab("web")
    lab.feed(e.Hinted("web", "process"))
    assert lab.incidents() == []
    lab.advance(10)
    lab.alive["web"] = None
    lab.feed(e.Hinted("web", "process"))
    assert lab.only("web").severity is Severity.CRITICAL
    assert len(lab.dispatched) == 1


@pytest.mark.req("R7", "R9")
def test_a_flood_of_insights_neither_floods_our_probe_nor_starves_it() -> None:
    """A question anew gives up the one before: asked again and again, no answer would ever come."""
    lab = Lab("web")
    lab.silent.add("web")
    assert probes_asked(lab, e.Hinted("web", "process")) == 1
    asked = 0
    for _ in range(400):
        lab.advance(0.01)
        asked += probes_asked(lab, e.Hinted("web", "process"))
    assert asked == 0, "the answer may still be on its way"
    lab.advance(RECHECK_S)
    assert probes_asked(lab, e.Hinted("web", "process")) == 1
    lab.poll("web")  # answered
    lab.advance(1.1)
    assert probes_asked(lab, e.Hinted("web", "process")) == 1


def test_what_opened_on_the_word_of_others_is_still_that_after_a_crash() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    outside(lab, alive=False)
    lab.crash()
    assert lab.only("web").outside
    lab.silent.clear()
    lab.advance(RECHECK_S)
    assert lab.only("web").state is State.SELF_RESOLVED


def test_instants_of_the_lab_run_together() -> None:
    """The ages above rest on it."""
    lab = Lab("web")
    first: Instant = lab.instant()
    lab.advance(3)
    assert lab.instant().mono_s - first.mono_s == 3
