"""`healctl report`'s arithmetic, what the store tells it, and a person's marks (FR-006, R15)."""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from supervisor.bus import Link
from supervisor.errors import HealError, Refused, StoreError, UnknownId, UsageError
from supervisor.incidents import drill_run
from supervisor.incidents import events as e
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.incidents.counted import PastAction, PastIncident, PastMark, PastPage
from supervisor.incidents.effects import FindIncident
from supervisor.incidents.orders import AuditEntry
from supervisor.incidents.records import AddAudit, AddLateTrail
from supervisor.incidents.report import By, Report, rank
from supervisor.messages import AtWork, FetchReport, IncidentFound, Nack, ReportFound
from supervisor.reporting import Reporting
from supervisor.store import history, reporting
from supervisor.store.ledger import Ledger
from tests.lab.engine import Lab
from tests.process import storelab as lab

NOW = 1_000_000_000.0
DAY = 86_400.0


def incident(n: int, *, ended: float | None, state: str = "resolved", by: str = "runbook", **more: Any) -> PastIncident:
    at = NOW - 10 * DAY + n
    resolved = None if ended is None else at + ended
    fields: dict[str, Any] = {"runbook_id": "rb-a", "acted_by": by, "resolved_wall_s": resolved, **more}
    return PastIncident(f"inc{n}", "process_dead", "web", state, at, **fields)


def action(n: int, incident_id: str, **more: bool) -> PastAction:
    fields = {"by_itself": True, "acts": True, "ran": True, **more}
    return PastAction(f"exe{n}", incident_id, "rb-a", "web", NOW - DAY, **fields)


@pytest.mark.req("FR-008")
@pytest.mark.parametrize(
    ("values", "median", "p95"),
    [([], None, None), ([3.0], 3.0, 3.0), ([1.0, 2.0], 1.0, 2.0), ([float(n) for n in range(1, 101)], 50.0, 95.0)],
)
def test_median_and_p95_are_values_that_occurred(values: list[float], median: float | None, p95: float | None) -> None:
    assert (rank(values, 0.5), rank(values, 0.95)) == (median, p95)


@pytest.mark.req("FR-008")
def test_what_a_report_says_of_a_small_history() -> None:
    report = Report(NOW - 30 * DAY, NOW)
    rows = [
        incident(1, ended=2.0, well_wall_s=NOW - 10 * DAY + 1 - 30.0, looked_wall_s=NOW - 10 * DAY + 1 - 0.5),
        incident(2, ended=4.0, looked_wall_s=NOW - 10 * DAY + 2 + 9.0),  # the wall clock was set back meanwhile
        incident(3, ended=600.0, by="person"),
        incident(4, ended=60.0, state="self_resolved", by="nobody", runbook_id=None),
        incident(5, ended=5.0, state="dismissed", by="nobody"),
        incident(6, ended=None, state="escalated", by="nobody"),
    ]
    rows[2] = msgspec.structs.replace(rows[2], target_id="db")
    undo = PastAction("exe9", "inc1", "undo:rb-a", "web", NOW, False, True, True, undoes="exe1")
    pages = [PastPage("out1", "inc3", NOW - DAY, True, True), PastPage("out2", "inc3", NOW, False, True)]
    pages.append(PastPage("out3", None, NOW, True, True))
    pages += [PastPage("out4", "inc3", NOW, True, False), PastPage("out5", "inc3", NOW, False, False)]  # nobody took it
    marks = [PastMark("inc2", "should_not_have", NOW - 5), PastMark("inc3", "fine", NOW)]
    marks.append(PastMark("inc3", "should_not_have", 1.0))
    actions = [action(1, "inc1"), action(2, "inc2"), action(3, "inc3"), action(4, "inc4", acts=False)]
    actions += [action(5, "inc4", ran=False), action(6, "inc4", by_itself=False), undo]
    report.reaches_back(NOW - 14 * DAY)
    report.take(rows, actions, pages, marks)
    report.take(rows, actions[:2], pages[:1], [])  # of an archive, and still in the ledger
    body = report.body(By.TARGET)
    assert body["incidents"] == {
        "detected": 6, "open": 1, "resolved": 3, "resolved_by_runbook": 2, "self_resolved": 1, "dismissed": 1,
    }  # fmt: skip
    assert body["mttd"]["at_most"] == {"count": 1, "median_s": 30.0, "p95_s": 30.0}
    assert body["mttd"]["at_least"] == {"count": 2, "median_s": 0.0, "p95_s": 0.5}
    assert body["mttr"] == {"count": 4, "median_s": 4.0, "p95_s": 600.0}
    assert body["mttr_by_runbook"] == {"count": 2, "median_s": 2.0, "p95_s": 4.0}
    assert body["auto_resolved_percent"] == 66.7
    assert (body["actions"], body["false_actions"], body["false_action_percent"]) == (3, 2, 66.7)
    assert (body["pages"], body["pages_repeated"], body["pages_per_week"]) == (2, 1, 1.0)
    assert body["pages_without_receipt"] == 2
    assert [(it["name"], it["incidents"]["detected"], it["pages"]) for it in body["groups"]] == [
        ("web", 5, 0), ("db", 1, 1), ("-", 0, 1),
    ]  # fmt: skip


@pytest.mark.req("FR-008")
def test_a_report_of_too_much_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.incidents.report.ROWS_MAX", 2)
    report = Report(NOW - DAY, NOW)
    report.take([incident(n, ended=1.0) for n in (1, 2, 2)], [], [], [])
    with pytest.raises(Refused) as refused:
        report.take([incident(3, ended=1.0)], [], [], [])
    assert refused.value.hint == "less --since"


@pytest.mark.req("FR-008")
def test_of_nothing_nothing_is_claimed() -> None:
    body = Report(NOW - DAY, NOW).body(By.RUNBOOK)
    assert (body["mttr"]["median_s"], body["auto_resolved_percent"], body["false_action_percent"]) == (None, None, None)
    assert (body["pages_per_week"], body["groups"]) == (0.0, [])


@pytest.mark.req("FR-008", "R14")
def test_the_store_tells_every_row_once_from_archives_and_ledger_in_small_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "PAGE_ROWS", 2)
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        book = lab.Book(ledger)
        for n in range(1, 6):
            done = lab.execution(n, state=m.ExecutionState.SUCCEEDED, verified=True, claimed_by="x")
            steps = (m.StepResult("start", True, "", 1.0),)
            done = msgspec.structs.replace(done, incident_id=f"inc-{n:06d}", results=steps)
            args = f'{{"incident_id":"inc-{n:06d}","verdict":"fine"}}'
            book.add(
                rec.PutExecution(done),
                rec.PutIncident(lab.incident(n, state=m.State.RESOLVED)),
                rec.PutOutbox(lab.message(n, state=m.OutboxState.DELIVERED, delivered_wall_s=1.0)),
                rec.AddAudit(AuditEntry(f"ord{n}", 1.7e9, "me", "mark", args)),
            )
        assert ledger.archive(-1.0, 1 << 60)
        book.add(rec.PutIncident(lab.incident(7)), rec.AddAudit(AuditEntry("ord7", 1.7e9, "me", "ack", "{}")))
        rows = lab.rows(ledger.path, "SELECT count(*) FROM incidents")
        assert rows[0][0] < 6, "nothing was archived"
        asked, pages = FetchReport(0.0), 0
        report = Report(0.0, 2e9)
        incidents: list[str] = []
        while True:
            found = ledger.past(partial(reporting.page, asked=asked))
            assert isinstance(found, ReportFound)
            assert found.passed_over == ""
            pages += 1
            incidents += [it.id for it in found.incidents]
            report.take(found.incidents, found.actions, found.pages, found.marks)
            if not found.more:
                break
            asked = FetchReport(0.0, found.source, found.table, found.after)
        assert pages > 8
        assert sorted(incidents) == [f"inc-{n:06d}" for n in (1, 2, 3, 4, 5, 7)]
        assert report.body()["actions"] == 5
        one = partial(history.incident, incident_id="inc-000001")
        assert isinstance(ledger.past(one), IncidentFound)
        assert ledger.past(partial(history.incident, incident_id="inc-nothing")) is None
        archive = next(path for path in tmp_path.glob("archive-*.db") if lab.rows(path, "SELECT 1 FROM incidents"))
        archive.write_bytes(b"not a database")
        doubtful = ledger.past(one)
        assert isinstance(doubtful, Nack)
        assert archive.name in doubtful.message
        broken = ledger.past(partial(reporting.page, asked=FetchReport(0.0, archive.name)))
        assert isinstance(broken, ReportFound)
        assert archive.name in broken.passed_over
        assert ledger.damage == "", "that is no damage of the ledger"


@pytest.mark.req("FR-008")
def test_a_page_counts_with_its_receipt_and_a_drill_never(tmp_path: Path) -> None:
    signal = m.Channel.SIGNAL
    ended: dict[str, Any] = {"state": m.ExecutionState.SUCCEEDED, "claimed_by": "x"}
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        book = lab.Book(ledger)
        book.add(
            rec.PutOutbox(lab.message(1, channel=signal, state=m.OutboxState.DELIVERED, receipt="r")),
            rec.PutOutbox(lab.message(2, channel=signal)),
            rec.PutOutbox(lab.message(3, channel=signal, state=m.OutboxState.QUARANTINED)),
            rec.PutOutbox(msgspec.structs.replace(lab.message(4, channel=signal), kind=drill_run.KIND)),
            rec.PutOutbox(msgspec.structs.replace(lab.message(5, channel=signal), kind="closing")),
            rec.PutIncident(msgspec.structs.replace(lab.incident(6), anomaly=m.AnomalyType.DRILL)),
            rec.PutIncident(lab.incident(7)),
        )
        made_up, real = lab.execution(8, **ended), lab.execution(9, **ended)
        target = msgspec.structs.replace(made_up.target, family=drill_run.FAMILY)
        book.add(rec.PutExecution(msgspec.structs.replace(made_up, target=target)), rec.PutExecution(real))
        found = [ledger.past(partial(reporting.page, asked=FetchReport(0.0, "ledger", table))) for table in range(3)]
        incidents, actions, pages = found
        assert [it.id for it in incidents.incidents] == ["inc-000007"]
        assert [it.id for it in actions.actions] == [real.id]
        assert [(it.id, it.delivered) for it in pages.pages] == [
            (lab.message(1).id, True), (lab.message(2).id, False), (lab.message(3).id, False),
        ]  # fmt: skip
        assert [(it.stage, it.done, it.total) for it in found] == [
            ("incidents in ledger", 2, 2), ("actions in ledger", 2, 2), ("pages in ledger", 5, 5),
        ]  # fmt: skip


class Store:
    """A link that gives these pages, then an error."""

    def __init__(self, *pages: ReportFound) -> None:
        self._pages = list(pages)

    async def ask(self, body: FetchReport) -> ReportFound:
        if not self._pages:
            raise StoreError("it is gone")
        return self._pages.pop(0)


@pytest.mark.req("FR-007", "FR-008")
@pytest.mark.parametrize("more", [False, True], ids=["to the end", "the store goes"])
def test_a_long_report_says_how_far_it_is_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch, more: bool) -> None:
    monkeypatch.setattr("supervisor.reporting.TELL_S", 0.0)
    pages = [ReportFound("ledger", True, stage="incidents in ledger", done=1, total=2),
             ReportFound("ledger", more, stage="pages in ledger", done=2, total=2)]  # fmt: skip
    answers: list[object] = []
    told: list[AtWork] = []

    async def ask() -> None:
        store = cast(Link, Store(*pages))
        asking = Reporting(store, lambda: m.Instant(NOW, NOW, NOW), lambda _, it: answers.append(it), told.append)
        asking.ask("t1", b'{"since_s":60}')
        while not told or not told[-1].over:
            await asyncio.sleep(0)

    asyncio.run(ask())
    assert isinstance(answers[0], StoreError if more else dict)
    assert [(it.stage, it.done, it.over) for it in told] == [
        ("incidents in ledger", 1, False), ("pages in ledger", 2, False), ("", 0, True),
    ]  # fmt: skip


def marked(lab_: Lab, actor: str = "matthew", **args: str) -> list[object]:
    before = len(lab_.effects)
    lab_.order("mark", actor, token="t1", **args)
    return lab_.effects[before:]


@pytest.mark.req("FR-006", "R15")
def test_a_mark_is_audited_and_in_the_trail_of_an_incident_however_old() -> None:
    it = Lab("web")
    assert marked(it, incident_id="inc_old", verdict="should_not_have", note="token=abcdefgh1234567890") == [
        FindIncident("inc_old")
    ]
    assert "t1" not in it.answers
    before = len(it.records)
    it.feed(e.IncidentFound("inc_old", True))
    audit, trail = it.records[before:]
    assert isinstance(audit, AddAudit)
    assert audit.entry.action == "mark"
    assert "abcdefgh1234567890" not in audit.entry.args, "a secret is kept"
    assert isinstance(trail, AddLateTrail)
    assert trail.incident_id == "inc_old"
    note = msgspec.json.decode(audit.entry.args)["note"]
    told = {"success": True, "incident_id": "inc_old", "verdict": "should_not_have", "note": note}
    assert it.answers["t1"].body == told


@pytest.mark.req("R15")
@pytest.mark.parametrize(
    ("answer", "error"),
    [(e.IncidentFound("inc_x", False), UnknownId), (e.IncidentFound("inc_x", False, "no disk"), StoreError)],
)
def test_what_does_not_exist_is_not_marked(answer: e.IncidentFound, error: type[HealError]) -> None:
    it = Lab("web")
    marked(it, incident_id="inc_x", verdict="fine")
    before = len(it.records)
    it.feed(answer)
    assert isinstance(it.answers["t1"].error, error)
    assert it.records[before:] == []


@pytest.mark.req("R15")
def test_an_agent_may_not_mark_and_a_wrong_verdict_is_refused() -> None:
    it = Lab("web")
    marked(it, "agent:claude", incident_id="inc_x", verdict="fine")
    assert isinstance(it.answers["t1"].error, Refused)
    it = Lab("web")
    marked(it, incident_id="inc_x", verdict="perhaps")
    assert isinstance(it.answers["t1"].error, UsageError)


@pytest.mark.req("FR-008")
def test_an_incident_knows_between_which_looks_it_broke() -> None:
    it = Lab("web")
    it.advance(100.0)
    it.poll("web")
    well_s = it.now_s
    it.advance(42.0)
    it.kill("web")
    incident_ = it.only("web")
    assert (incident_.well_wall_s, incident_.looked_wall_s) == (well_s, well_s + 42.0)
    fresh = Lab("web")
    fresh.kill("web")
    assert fresh.only("web").well_wall_s is None, "nothing was known before"
