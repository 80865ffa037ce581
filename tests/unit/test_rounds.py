"""Whether the engine still goes round, and what systemd is told of it (DESIGN §1, §5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from supervisor.config import Config, Duration, TreeSection
from supervisor.incidents import events as e
from supervisor.incidents.model import Instant
from supervisor.rounds import STUCK, STUCK_S, Rounds
from supervisor.tree.model import Mode
from supervisor.tree.sd_notify import Notifier
from supervisor.tree.spec import healctl_tree
from supervisor.tree.watchdog import STOP_MAX_S, Watchdog, least_s
from tests.lab.engine import Lab


@dataclass
class Heart:
    begun: list[Callable[[], None]] = field(default_factory=list)
    rounds: int = 0
    alarms: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.beats = Rounds(self.begun.append, self.came_round, self.alarms.append)

    def came_round(self) -> None:
        self.rounds += 1


@pytest.mark.req("NFR-002")
def test_one_round_at_a_time_and_it_is_over_when_it_is_durable() -> None:
    heart = Heart()
    heart.beats.beat(0.0, explained=False)
    heart.beats.beat(5.0, explained=False)
    assert (len(heart.begun), heart.rounds) == (1, 0)
    heart.begun[0]()
    assert heart.rounds == 1
    heart.beats.beat(10.0, explained=False)
    assert len(heart.begun) == 2


@pytest.mark.req("FR-005")
def test_a_round_that_never_comes_round_is_told_once_unless_somebody_else_tells_why() -> None:
    heart = Heart()
    for now_s in range(0, 200, 5):
        heart.beats.beat(float(now_s), explained=True)
    assert heart.alarms == []
    heart.beats.beat(200.0, explained=False)
    heart.beats.beat(205.0, explained=False)
    assert heart.alarms == [STUCK]
    heart.begun[0]()
    heart.beats.beat(300.0, explained=False)
    heart.beats.beat(300.0 + STUCK_S, explained=False)
    assert heart.alarms == [STUCK], "not before its time"
    heart.beats.beat(301.0 + STUCK_S, explained=False)
    assert heart.alarms == [STUCK, STUCK]


def test_a_round_decides_nothing() -> None:
    engine = Lab("web").engine
    decision = engine.handle(e.Round(), Instant(2e6, 2e6, 2e6))
    assert (decision.records, decision.effects, decision.probes) == ([], [], [])


class Systemd(Notifier):
    def __init__(self, watchdog_s: float | None) -> None:
        super().__init__()
        self.watchdog_s = watchdog_s
        self.told: list[str] = []

    def _send(self, message: str) -> str:
        self.told.append(message)
        return ""


TREE = healctl_tree(Config())


@pytest.mark.req("NFR-002")
def test_only_the_rounds_of_a_healer_that_has_lived_for_a_third_of_the_time_count() -> None:
    systemd = Systemd(90.0)
    watchdog = Watchdog(systemd, TREE)
    for ready_at_s, now_s in ((None, 1000.0), (980.0, 1000.0), (970.1, 1000.0)):
        watchdog.round(ready_at_s, now_s)
    assert systemd.told == []
    watchdog.round(970.0, 1000.0)
    assert systemd.told == ["WATCHDOG=1"]
    nobody = Systemd(None)
    Watchdog(nobody, TREE).round(0.0, 1000.0)
    assert nobody.told == []


def test_the_tree_cures_a_hung_healer_before_the_shipped_time_is_over_and_a_shorter_one_is_told() -> None:
    assert least_s(TREE) == pytest.approx(61.5)
    assert Watchdog(Systemd(90.0), TREE).warning(TREE) == ""
    assert Watchdog(Systemd(None), TREE).warning(TREE) == ""
    assert "less than the 62 s" in Watchdog(Systemd(30.0), TREE).warning(TREE)
    slow = healctl_tree(Config(tree=TreeSection(beat_within=Duration(60))))
    assert "raise it" in Watchdog(Systemd(90.0), slow).warning(slow)


def test_the_root_speaks_for_itself_only_while_it_stops_and_not_for_ever() -> None:
    systemd = Systemd(90.0)
    watchdog = Watchdog(systemd, TREE)
    watchdog.look(Mode.RUNNING, 0.0)
    assert systemd.told == []
    assert watchdog.due_s == float("inf")
    watchdog.look(Mode.STOPPING, 100.0)
    watchdog.look(Mode.STOPPING, 144.0)
    assert (systemd.told, watchdog.due_s) == (["WATCHDOG=1"], 145.0)
    watchdog.look(Mode.STOPPING, 145.0)
    assert len(systemd.told) == 2
    watchdog.look(Mode.STOPPING, 100.0 + STOP_MAX_S)
    assert len(systemd.told) == 2
    assert watchdog.due_s == float("inf")


def test_what_goes_on_is_given_time_for_its_slowest_child_and_the_last_page() -> None:
    systemd = Systemd(None)
    Watchdog(systemd, TREE).moved()
    assert systemd.told == ["EXTEND_TIMEOUT_USEC=41000000"]
