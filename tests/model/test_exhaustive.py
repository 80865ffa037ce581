"""The engine in every state within small bounds (tests/model/exhaustive.py), and that the rules there can be broken.

`python -m tests.model.exhaustive --depth N --states N` prints the figures of a larger walk.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.incidents import classify, detect, escalation, remedy, verify
from supervisor.incidents.model import is_over
from supervisor.incidents.records import Record, Snapshot
from supervisor.incidents.world import Turn
from supervisor.messages import Ack, Commit, EpochOpened, OpenEpoch
from supervisor.store.ledger import Ledger
from tests.lab.engine import EMPTY
from tests.lab.worlds import Ledger as InMemory
from tests.model.exhaustive import Broken, Node, explore, first, moves
from tests.model.sites import SITES

CI_STATES, SOAK_STATES = 300, 40_000
WINDOW_S = 1e10  # of virtual time everything is recent
ALL = sorted(SITES)


@pytest.mark.req("FR-004", "NFR-002", "R3", "R7")
@pytest.mark.parametrize("name", ALL)
def test_every_state_within_small_bounds_keeps_every_rule(name: str) -> None:
    found = explore(SITES[name], depth=30, states=CI_STATES)
    assert found.states >= CI_STATES
    assert found.open_states > CI_STATES / 3, "hardly any incident: the walk shows nothing"
    assert found.helped > 0


@pytest.mark.soak
@pytest.mark.req("FR-004", "NFR-002", "R3", "R7")
@pytest.mark.parametrize("name", ALL)
def test_every_state_within_large_bounds_keeps_every_rule(name: str) -> None:
    found = explore(SITES[name], depth=60, states=SOAK_STATES)
    print(msgspec.json.encode(found).decode())
    assert found.complete or found.states >= SOAK_STATES


# --- a broken engine is found --------------------------------------------------------------------------------------


def _any_reading_is_fresh(patch: pytest.MonkeyPatch) -> None:
    real = detect._diagnosing
    patch.setattr(detect, "_diagnosing", lambda *args, fresh: real(*args, fresh=True))


def _nobody_looks_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verify, "_look_again", lambda turn, execution, after_s: None)


def _pages_twice(patch: pytest.MonkeyPatch) -> None:
    real = escalation.tell

    def tell(turn: Turn, incident: Any, kind: str) -> Any:
        return real(turn, msgspec.structs.replace(incident, page_id=None), kind)

    patch.setattr(escalation, "tell", tell)


def _forgets_to_write_it(patch: pytest.MonkeyPatch) -> None:
    real = Turn.update

    def update(self: Turn, incident: Any, **changes: Any) -> Any:
        new = real(self, incident, **changes)
        self.records.pop()
        return new

    patch.setattr(Turn, "update", update)


def _runs_what_may_not(patch: pytest.MonkeyPatch) -> None:
    real = remedy.begin

    def begin(turn: Turn, runbook: Any, target: Any, authority: Any, *args: Any, **more: Any) -> Any:
        return real(turn, runbook, target, remedy.Authority.WHITELIST, *args, **more)

    patch.setattr(remedy, "begin", begin)


def _never_clear(patch: pytest.MonkeyPatch) -> None:
    real = classify.Classifier.observe

    def observe(self: Any, judge: Any) -> Any:
        return tuple(it for it in real(self, judge) if it.status is not detect.Status.CLEAR)

    patch.setattr(classify.Classifier, "observe", observe)


@pytest.mark.req("NFR-002", "R2", "R3")
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_any_reading_is_fresh, "the reading began before the question"),
        (_nobody_looks_again, "nobody waits for"),
        (_pages_twice, "a second page"),
        (_forgets_to_write_it, "is not what was written"),
        (_runs_what_may_not, "AssertionError"),
        (_never_clear, "not over after"),
    ],
)
def test_a_broken_engine_is_found(damage: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch)
    with pytest.raises(Broken, match=says):
        explore(SITES["auto"], depth=9, states=400)


# --- the ledger in memory is the ledger ----------------------------------------------------------------------------


def _walk(node: Node, steps: int, choose: random.Random) -> list[list[Record]]:
    """The records of each decision on one way through the states."""
    written: list[list[Record]] = []
    real = InMemory.after

    def after(self: InMemory, records: Any) -> InMemory:
        if kept := list(records):
            written.append(kept)
        return real(self, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InMemory, "after", after)
        for _ in range(steps):
            found = [it for it in moves(node) if "crash" not in it[0]]
            choose.choice(found)[1](node)
            node.now_s += 0.01
    return written


def _comparable(snapshot: Snapshot) -> dict[str, Any]:
    def plain(execution: Any) -> Any:
        return msgspec.structs.replace(execution, claimed_by="", programs=())

    executions = {x.id: plain(x) for x in (*snapshot.executions, *snapshot.recent_executions)}
    rest = {
        name: sorted(getattr(snapshot, name), key=repr)
        for name in ("open_incidents", "recent_closed", "runbook_states", "timers", "breakers", "known", "tallies")
    }
    open_ones = sorted(key for key, it in executions.items() if not is_over(it))
    return rest | {"executions": executions, "open": open_ones, "outbox": list(snapshot.outbox)}


@pytest.mark.req("FR-004")
@pytest.mark.parametrize("seed", range(3))
def test_the_real_ledger_gives_back_what_the_one_in_memory_does(seed: int, tmp_path: Path) -> None:
    node = first(SITES["asks"])
    assert not any(node.ledger.tables.values()), "the start writes what the walk below would miss"
    ledger = Ledger(tmp_path / "ledger.db")
    opened = ledger.open_epoch(OpenEpoch("healer-1", WINDOW_S, WINDOW_S))
    assert isinstance(opened, EpochOpened)
    for n, written in enumerate(_walk(node, 120, random.Random(seed)), 1):
        assert ledger.write([Commit(opened.snapshot.epoch, n, tuple(written))]) == [Ack()]
    again = ledger.open_epoch(OpenEpoch("healer-2", WINDOW_S, WINDOW_S))
    assert isinstance(again, EpochOpened)
    assert len(again.snapshot.recent_executions) > 0
    assert _comparable(again.snapshot) == _comparable(node.ledger.snapshot(2, EMPTY.ledger_id))
    ledger.close()
