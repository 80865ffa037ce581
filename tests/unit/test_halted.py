"""The root is told of a halt only when it is durable, and of every change (R10)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.halted import Halted
from supervisor.incidents.model import Halt, HaltPhase
from supervisor.incidents.records import DropHalt, DropKnown, PutHalt
from supervisor.messages import Holds

HELD = Halt("brain-db", "/s/brain.db", 1.0, HaltPhase.HELD, None, "page 7 is bad")
RESTORING = msgspec.structs.replace(HELD, phase=HaltPhase.RESTORING)
OTHER = msgspec.structs.replace(HELD, database="metrics-db")


@pytest.mark.req("R10")
def test_a_healer_tells_at_its_start_even_that_nothing_is_halted() -> None:
    told: list[Holds] = []
    Halted((), told.append)
    Halted((OTHER, HELD), told.append)
    Halted((RESTORING,), told.append)
    assert told == [Holds(()), Holds(("brain-db", "metrics-db")), Holds(())]


@pytest.mark.req("R10")
def test_every_change_is_told_once() -> None:
    told: list[Holds] = []
    halted = Halted((), told.append)
    for records in (
        (DropKnown("x"),),
        (PutHalt(HELD),),
        (PutHalt(HELD), DropKnown("x")),
        (PutHalt(RESTORING),),
        (PutHalt(OTHER), PutHalt(HELD)),
        (DropHalt("brain-db"), PutHalt(HELD)),
        (DropHalt("brain-db"), DropHalt("metrics-db")),
    ):
        halted.durable(records)
    both = Holds(("brain-db", "metrics-db"))
    assert told == [Holds(()), Holds(("brain-db",)), Holds(()), both, Holds(())]
