"""The dashboard's model: a snapshot, brought forward by events; what is shown, in which order."""

from __future__ import annotations

import random
from typing import Any

import pytest

from supervisor.cli.feed import Item
from supervisor.incidents.model import Severity, State
from supervisor.uplink import TreeKind
from tests.tui.recorded import NOW_S, incident, snapshot
from tui import look
from tui.model import _CHILD, OVER_MAX, SORTS, STANDING, Model, age_s

pytestmark = pytest.mark.req("FR-007")


def event(name: str, /, **data: Any) -> Item:
    return Item(2, name, NOW_S, data)


def changed(name: str, state: str) -> Item:
    row = incident(name, state=state)
    del row["audit_trail"]
    return Item(2, "incident", NOW_S, row)


def progress(**more: Any) -> Item:
    told: dict[str, Any] = {"execution_id": "exe_1", "target_id": "web", "done": 1, "total": 2, "over": False}
    return event("progress", **{**told, **more})


def test_how_far_it_is_stands_with_its_execution_and_its_target_until_it_is_over(model: Model) -> None:
    def done(*of: str) -> object:
        found = model.progress(*of)
        return found and found["done"]

    assert done("web", "exe_1") is None
    before = model.version
    model.apply(progress())
    assert model.version > before
    assert (done("web", "exe_1"), done("web", "exe_0"), done("web"), done("db")) == (1, 1, 1, None)
    model.apply(progress(execution_id="exe_2", done=5))
    assert (done("web", "exe_2"), done("web", "exe_1")) == (5, 1), "its own before another's"
    model.apply(progress(execution_id="exe_2", over=True))
    model.apply(event("execution", execution_id="exe_1", state="claimed"))
    assert done("web", "exe_1") == 1
    model.apply(event("execution", execution_id="exe_1", state="failed"))
    assert done("web", "exe_1") is None
    model.apply(progress(execution_id=None, target_id="db"))
    assert done("db") == 1, "the check of a database"
    model.apply(progress(execution_id=None, target_id="db", over=True))
    assert done("db") is None


@pytest.fixture
def model() -> Model:
    model = Model()
    model.apply(
        snapshot([incident("web", "critical"), incident("db", "medium", ago_s=900.0), incident("api", ago_s=60.0)])
    )
    return model


def shown(
    model: Model, order: str = "severity", words: str = "", ended: bool = False, reverse: bool = False
) -> list[str]:
    return [name.removeprefix("inc_") for name in model.select(order, reverse=reverse, words=words, ended=ended)]


def test_the_gravest_and_oldest_come_first(model: Model) -> None:
    assert shown(model) == ["web", "api", "db"]
    assert shown(model, "age") == ["db", "web", "api"]
    assert shown(model, "target", reverse=True) == ["web", "db", "api"]
    assert {order: len(shown(model, order)) for order in SORTS} == dict.fromkeys(SORTS, 3)


def test_every_word_of_the_filter_must_be_found(model: Model) -> None:
    assert shown(model, words="DEAD web") == ["web"]
    assert shown(model, words="alive db") == ["db"]
    assert shown(model, words="web db") == []


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("words", ["", "quick"])
@pytest.mark.parametrize("order", SORTS)
def test_the_order_that_is_brought_forward_is_the_one_of_all(
    order: str, words: str, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever changes, and whatever of it decides: severity, state, the last word, an end, a limit, a snapshot."""
    monkeypatch.setattr("tui.model.OVER_MAX", 10)
    chance, model = random.Random(f"{order} {words} {ended}"), Model()
    for n in range(400):
        name = f"t{chance.randrange(60)}"
        if chance.random() < 0.4:
            model.apply(event("trail", incident_id=f"inc_{name}", note=chance.choice(["quick", "slow"])))
        else:
            row = incident(name, chance.choice([*Severity]), chance.choice([*State]), chance.randrange(5) * 100.0)
            model.apply(snapshot([row]) if n % 100 == 50 else Item(2, "incident", NOW_S, row))
        if chance.random() < 0.3:
            rows = [*model.incidents.values(), *(model.over.values() if ended else ())]
            rows.sort(key=lambda it: (*SORTS[order](it), it["id"]))
            wanted = [it["id"] for it in rows if words in it["note"]]
            assert model.select(order, reverse=False, words=words, ended=ended) == wanted
            assert model.select(order, reverse=True, words=words, ended=ended) == wanted[::-1]


def test_an_incident_that_ends_leaves_the_list_and_can_be_called_back(model: Model) -> None:
    version = model.version
    model.apply(changed("web", "resolved"))
    assert model.version > version
    assert shown(model) == ["api", "db"]
    assert shown(model, ended=True) == ["web", "api", "db"]
    assert model.counts()["critical"] == 0
    model.apply(changed("web", "detected"))
    assert (shown(model), list(model.over)) == (["web", "api", "db"], [])


def test_what_is_over_is_kept_within_a_limit() -> None:
    model = Model()
    for n in range(OVER_MAX + 10):
        model.apply(changed(f"t{n}", "resolved"))
    assert (len(model.over), "inc_t9" in model.over, "inc_t10" in model.over) == (OVER_MAX, False, True)


def test_a_crash_is_seen_with_its_last_words_and_a_new_snapshot_replaces_what_was_known(model: Model) -> None:
    died = event("tree", kind="exited", child="executor", pid=7, restarts=1, exit_text="signal 9", last_words="boom")
    model.apply(died)
    assert (model.children["executor"]["state"], model.children["executor"]["last_words"]) == ("exited", "boom")
    model.apply(snapshot([incident("new")]))
    assert shown(model) == ["new"]
    assert model.children["executor"]["state"] == "ready"


def test_what_ended_while_nobody_listened_is_named(model: Model) -> None:
    model.apply(snapshot([incident("db", "medium"), incident("new")]))
    assert model.missed == ["inc_web", "inc_api"]
    model.apply(snapshot([incident("db", "medium"), incident("new")]))
    assert model.missed == []


def test_what_is_paused_or_halted_is_as_the_newest_standing_says(model: Model) -> None:
    version = model.version
    model.apply(event(STANDING, pauses=[{"name": "web"}], halted=[{"database": "brain"}]))
    assert (len(model.paused), len(model.halted), model.version) == (1, 1, version + 1)
    model.apply(event(STANDING, pauses=[{"name": "web"}], halted=[{"database": "brain"}]))
    assert model.version == version + 1, "nothing new is no reason to draw"
    model.apply(event(STANDING, pauses=[], halted=[]))
    assert (model.paused, model.halted) == ([], [])


def test_a_trail_entry_is_the_newest_word_on_its_incident(model: Model) -> None:
    model.apply(event("trail", incident_id="inc_web", note="restarting it", state="remediating", actor="engine"))
    model.apply(event("trail", incident_id="inc_unknown", note="?", state="detected", actor="engine"))
    found = model.get("inc_web")
    assert found is not None
    assert found["note"] == "restarting it"


def test_a_worker_that_leaves_the_tree_leaves_the_list(model: Model) -> None:
    model.apply(event("tree", kind="stopped", child="host", pid=0))
    model.apply(event("tree", kind="item_quarantined", child="healer", pid=0, items=["reading:web"]))
    assert "host" not in model.children
    assert model.children["healer"]["state"] == "ready"


def test_every_word_of_the_engine_has_a_symbol() -> None:
    assert set(look.SEVERITY) == set(Severity)
    assert set(look.STATE) == set(State)
    assert set(_CHILD) == set(TreeKind) - {TreeKind.STOPPED, TreeKind.ITEM_QUARANTINED}
    assert set(_CHILD.values()) == set(look.CHILD)
    for table in (look.SEVERITY, look.STATE):
        symbols = [symbol for word, (symbol, _) in table.items() if word != State.SELF_RESOLVED]
        assert len(set(symbols)) == len(symbols), "a symbol that stands for two things says neither"


def test_an_age_goes_on_while_it_is_open_and_stops_with_it() -> None:
    assert age_s({"state": "escalated", "detected_at": "2026-02-18T09:30:00.000Z"}, 1_771_407_060.0) == 60.0
    ended = {"state": "resolved", "detected_at": "2026-02-18T09:30:00Z", "state_changed_at": "2026-02-18T09:30:05Z"}
    assert age_s(ended, 1_771_500_000.0) == 5.0
    assert age_s({"state": "escalated", "detected_at": "nonsense"}, 0.0) is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s"), (59.9, "59s"), (60, "1m"), (3600, "1h"), (172_800, "2d"), (None, "-"), (-5, "0s")]
)
def test_spans(seconds: float | None, said: str) -> None:
    assert look.span(seconds) == said


def test_figures_and_bars() -> None:
    assert look.figure(0.915, "share") == "91.5%"
    assert look.figure(3.5 * 2**30, "bytes") == "3.5 GiB"
    assert look.figure(None, "ms") == "-"
    assert look.spark([0, 1, 2, 3, 4, 5, 6, 7], 8) == look.BARS
    assert look.spark([5, 5], 8) == "▄▄"
    assert look.spark([9, 9, 0, 1], 2) == "▁█"
    assert look.spark([], 8) == ""
    assert look.plain("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
