"""Replay of recorded incidents: only what was written down, by the rules that held then (R4)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents.model import Runbook
from supervisor.incidents.records import AddTrail, PutExecution, PutIncident, Record
from supervisor.incidents.replay import Past, Replay
from supervisor.incidents.views import Json
from supervisor.messages import Commit, EpochOpened, FetchHistory, HistoryFound, IncidentFound, OpenEpoch
from supervisor.store import archive
from supervisor.store import history as pages
from supervisor.store.ledger import Ledger
from tests.lab.engine import Lab, service

RB = RUNBOOKS[0]


def recorded(records: Iterable[Record]) -> list[Past]:
    """Every incident as its records left it."""
    incidents, trails, executions = {}, {}, {}
    for record in records:
        match record:
            case PutIncident(it):
                incidents[it.id] = it
            case AddTrail(it):
                trails.setdefault(it.incident_id, []).append(it)
            case PutExecution(it):
                executions[it.id] = it
    return [
        Past(i, tuple(trails[i.id]), tuple(x for x in executions.values() if x.incident_id == i.id))
        for i in incidents.values()
    ]


def replayed(lab: Lab, pasts: Iterable[Past] | None = None, runbook: Runbook = RB) -> Json:
    replay = Replay(runbook, lab.runbooks)
    for past in recorded(lab.records) if pasts is None else pasts:
        replay.take(past, lab.engine.world.target(past.incident.target_id))
    return replay.body(0.0, None)


def site() -> Lab:
    """Of six incidents four would be acted on: a person was asked about two, one was healed, one was not."""
    lab = Lab(targets=(service("auto"), service("asks", auto_restart=False), service("bare", recipe=False)))
    lab.kill("auto")  # healed
    lab.advance(4000)
    lab.heals["auto"] = False
    lab.kill("auto")  # not healed
    lab.advance(60)
    lab.kill("asks")  # asked, and foreseen
    lab.advance(1)
    lab.alive["asks"] = 777
    lab.poll("asks")
    lab.advance(4000)
    lab.predicts[RB.id] = False
    lab.kill("asks")  # asked, and another forecast
    lab.advance(4000)
    lab.kill("bare")  # cannot be started
    lab.advance(60)
    dead = lab.reading("asks")
    lab.alive["asks"] = 888
    lab.poll("asks")
    lab.advance(4000)
    late = msgspec.structs.replace(dead, taken_mono_s=lab.instant().mono_s)
    lab.feed(e.ReadingSeen(late))  # it fell for a moment, and its fresh probe finds it well
    return lab


@pytest.mark.req("R4")
def test_a_replay_tells_what_ran_what_was_foreseen_and_what_healed_itself() -> None:
    lab = site()
    body = replayed(lab)
    assert body["incidents"] == 6
    assert body["would_act"] == 4
    assert body["ran_and_verified"] == 1
    assert body["ran_and_failed"] == 1
    assert body["predicted_by_dry_run"] == 1
    assert body["not_predicted_by_dry_run"] == 1
    assert body["would_resolve"] == 2
    assert body["cannot_run"] == 1
    assert body["healed_before"] == 1
    assert body["acted_on_healthy"] == 0
    asks = next(target for target in body["targets"] if target["target_id"] == "asks")
    assert (asks["incidents"], asks["would_act"], asks["healed_before"]) == (3, 2, 1)


@pytest.mark.req("R4")
def test_what_was_not_recorded_is_unknown_and_never_guessed() -> None:
    lab = site()
    blind = [
        msgspec.structs.replace(
            past,
            trail=tuple(msgspec.structs.replace(entry, reading=None) for entry in past.trail),
            incident=msgspec.structs.replace(past.incident, dry_runs=()),
            executions=(),
        )
        for past in recorded(lab.records)
    ]
    body = replayed(lab, blind)
    assert body["grounds_unknown"] == 4
    assert body["would_act"] == body["would_resolve"] == 0
    unforeseen = [msgspec.structs.replace(past, executions=(), incident=b.incident) for past, b in
                  zip(recorded(lab.records), blind, strict=True)]  # fmt: skip
    body = replayed(lab, unforeseen)
    assert (body["would_act"], body["outcome_unknown"]) == (4, 4)


@pytest.mark.req("R4", "NFR-002")
def test_an_action_on_a_healthy_target_would_be_found() -> None:
    lab = site()
    well = lab.reading("asks")
    wrong = []
    for past in recorded(lab.records):
        trail = tuple(
            msgspec.structs.replace(entry, reading=msgspec.structs.replace(well, target_id=past.incident.target_id))
            if entry.reading is not None
            else entry
            for entry in past.trail
        )
        wrong.append(msgspec.structs.replace(past, trail=trail))
    body = replayed(lab, wrong)
    assert body["acted_on_healthy"] == 4
    assert len(body["acted_on_healthy_incidents"]) == 4
    assert body["would_act"] == 0


@pytest.mark.req("R4")
def test_another_version_is_another_runbook_unless_its_steps_are_the_same() -> None:
    lab = site()
    renamed = msgspec.structs.replace(RB, label="Start it again")
    assert replayed(lab, runbook=renamed)["ran_and_verified"] == 1
    assert replayed(lab, runbook=renamed)["predicted_by_dry_run"] == 0, "its dry run was the other's"
    shorter = msgspec.structs.replace(RB, steps=RB.steps[1:])
    body = replayed(lab, runbook=shorter)
    assert (body["would_act"], body["outcome_unknown"]) == (4, 4)


@pytest.mark.req("R4")
def test_what_a_rung_before_it_has_ended_it_would_not_have_reached() -> None:
    lab = site()
    behind = msgspec.structs.replace(RB, id="rb-behind")
    lab.runbooks = (RB, behind)
    body = replayed(lab, runbook=behind)
    assert body["not_reached"] == 1
    assert body["would_act"] == 3


# --- from the ledger and its archives -------------------------------------------------------------------------------


def fetched(ledger: Ledger, target_id: str = "", since_wall_s: float = 0.0) -> tuple[list[Past], list[str]]:
    asked = FetchHistory(tuple(a.value for a in RB.applies_to), target_id, since_wall_s)
    rows, passed_over = [], []
    for _ in range(100):
        found = ledger.past(partial(pages.page, asked=asked))
        assert isinstance(found, HistoryFound)
        rows += [msgspec.json.decode(row, type=Past) for row in found.rows]
        passed_over += [found.passed_over] if found.passed_over else []
        if not found.more:
            return rows, passed_over
        asked = msgspec.structs.replace(asked, source=found.source, after=found.after)
    raise AssertionError("it never ends")


@pytest.mark.req("R4")
@pytest.mark.parametrize("where", ["ledger", "archive", "both", "damaged"])
def test_history_is_read_from_the_ledger_and_its_archives(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_INCIDENTS", 2)
    lab = site()
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        opened = ledger.open_epoch(OpenEpoch("test", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        ledger.write([Commit(opened.snapshot.epoch, 1, tuple(lab.records))])
        if where != "ledger":
            for past in recorded(lab.records)[:3]:
                trail = msgspec.json.encode(past.trail)
                batch = archive.Batch((past.incident,), (trail,), past.executions, (), (), ())
                archive.write(tmp_path, batch)
                if where != "both":
                    ledger._durably(lambda batch=batch: archive.drop(ledger._connection, batch))
        if where == "damaged":
            (tmp_path / "archive-1970.db").write_bytes(b"no database at all" * 100)
        pasts, passed_over = fetched(ledger)
        body = replayed(lab, pasts)
        assert body["incidents"] == (3 if where == "damaged" else 6)
        assert (body["would_act"] == 4) == (where != "damaged")
        assert [what.partition(":")[0] for what in passed_over] == (["archive-1970.db"] if where == "damaged" else [])
        assert ledger.damaged() == (), "an archive is not the ledger"
        assert {past.incident.target_id for past in fetched(ledger, "bare")[0]} == {"bare"}
        assert fetched(ledger, since_wall_s=lab.now_s + 1)[0] == []


@pytest.mark.req("FR-007", "R14")
def test_the_file_of_one_incident_holds_what_was_done_and_told_wherever_it_is_kept(tmp_path: Path) -> None:
    lab = site()
    (healed, *_) = recorded(lab.records)
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        opened = ledger.open_epoch(OpenEpoch("test", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        ledger.write([Commit(opened.snapshot.epoch, 1, tuple(lab.records))])
        one = partial(pages.incident, incident_id=healed.incident.id)
        found = ledger.past(one)
        assert isinstance(found, IncidentFound)
        past = msgspec.json.decode(found.past, type=Past)
        assert (past.incident, past.trail) == (healed.incident, healed.trail)
        assert [execution.id for execution in past.executions] == [execution.id for execution in healed.executions]
        assert found.messages
        assert all(healed.incident.id in row.covers for row in found.messages)
        batch = archive.Batch((past.incident,), (msgspec.json.encode(past.trail),), past.executions, (), (), ())
        archive.write(tmp_path, batch)
        ledger._durably(lambda: archive.drop(ledger._connection, batch))
        kept = ledger.past(one)
        assert isinstance(kept, IncidentFound)
        assert msgspec.json.decode(kept.past, type=Past).trail == healed.trail
        assert ledger.past(partial(pages.incident, incident_id="inc_none")) is None
