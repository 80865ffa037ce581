"""The lifecycle, exhaustively over its table: what is not in it raises and changes nothing (FR-004)."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from supervisor.incidents.lifecycle import TRANSITIONS, IllegalTransition, Trigger, advance, mermaid
from supervisor.incidents.model import Incident, State
from supervisor.incidents.world import (
    Turn,
)
from tests.lab.engine import Lab, service

ENDS = {State.RESOLVED, State.SELF_RESOLVED, State.DISMISSED}
EVERY = list(itertools.product(State, Trigger))


def lab_with(state: State) -> tuple[Lab, Incident]:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    incident = msgspec.structs.replace(lab.only("web"), state=state)
    lab.engine.world.incidents[incident.id] = incident
    return lab, incident


@pytest.mark.req("FR-004")
@pytest.mark.parametrize(("state", "trigger"), EVERY)
def test_every_pair_is_either_in_the_table_or_raises_and_changes_nothing(state: State, trigger: Trigger) -> None:
    lab, incident = lab_with(state)
    world, turn = lab.engine.world, Turn(lab.engine.world, lab.instant())
    expected = TRANSITIONS.get((state, trigger))
    if expected is not None:
        moved = turn.move(incident, trigger, "test", "why")
        assert moved.state is expected is advance(state, trigger)
        assert moved.trail_length == incident.trail_length + 1
        assert (incident.id in world.incidents) is moved.open
        assert ((incident.anomaly, incident.target_id) in world.by_key) is moved.open
        return
    before = (dict(world.incidents), dict(world.by_key), {k: list(v) for k, v in world.trails.items()})
    with pytest.raises(IllegalTransition) as raised:
        turn.move(incident, trigger, "test", "why")
    assert (raised.value.state, raised.value.trigger) == (state, trigger)
    assert (dict(world.incidents), dict(world.by_key), {k: list(v) for k, v in world.trails.items()}) == before
    assert turn.records == []


@pytest.mark.req("FR-004")
def test_every_state_is_reachable_and_every_open_one_can_end() -> None:
    reached, edge = {State.DETECTED}, {State.DETECTED}
    while edge:
        edge = {new for (old, _), new in TRANSITIONS.items() if old in edge} - reached
        reached |= edge
    assert reached == set(State)
    for end in ENDS:
        assert not any(old is end for old, _ in TRANSITIONS)
    for start in set(State) - ENDS:
        reached, edge = {start}, {start}
        while edge:
            edge = {new for (old, _), new in TRANSITIONS.items() if old in edge} - reached
            reached |= edge
        assert reached & ENDS, start
        assert TRANSITIONS[start, Trigger.DISMISS] is State.DISMISSED


def test_the_diagram_in_the_docs_is_drawn_from_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs/lifecycle.md").read_text()
    assert mermaid() in text, "run: python -m supervisor.incidents.lifecycle > docs/lifecycle.md"
