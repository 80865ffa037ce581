"""A task that stands still, on the pure engine in virtual time: told by the alarm at the limit, not by polls (R8)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents.model import AnomalyType, Incident, Severity, State, TimerKind
from supervisor.incidents.readings import HealthReading, PipelineData, Unavailable
from tests.lab.engine import Lab

TASK = "pipeline:task-001"
LIMIT_S = 3600.0


class Pipeline(Lab):
    """One task; `task` is what its probe sees from now on, None: its state file cannot be read."""

    def __init__(self) -> None:
        super().__init__("web")
        self.alive[TASK] = None  # so that the lab answers the engine's questions about it
        self.task: PipelineData | None = PipelineData("task-001", True, LIMIT_S, stage="build", title="A title")
        self.asked = 0

    def reading(self, name: str, **changes: object) -> HealthReading:
        if name != TASK:
            return super().reading(name, **changes)
        self.asked += 1
        mono_s = self.instant().mono_s
        reading = HealthReading(TASK, "pipeline", mono_s, self.now_s, 1.0, 1000, self.task is not None, self.task)
        if self.task is None:
            reading = msgspec.structs.replace(reading, reason=Unavailable.BAD_DATA, error="no JSON")
        return msgspec.structs.replace(reading, **changes)

    def now(self, **changes: object) -> None:
        """The task is so from now on, and its probe has just seen it."""
        assert self.task is not None
        self.task = msgspec.structs.replace(self.task, **changes)
        self.poll(TASK)

    def stuck(self) -> Incident:
        incident = self.only(TASK)
        assert incident.anomaly is AnomalyType.PIPELINE_STUCK
        return incident


@pytest.mark.req("AC-002", "FR-002", "R8")
def test_ac_002_a_task_is_stuck_at_the_limit_by_its_own_alarm_without_any_poll() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    asked = lab.asked
    lab.advance(LIMIT_S - 1)
    assert lab.incidents(TASK) == []
    assert lab.asked == asked, "nobody looks before the limit"
    lab.advance(2)
    incident = lab.stuck()
    assert incident.severity is Severity.HIGH
    assert incident.state is State.ESCALATED
    assert 0 < incident.detected_steady_s - (lab.now_s - 1) < 1, "within a second of the limit"
    assert "it has stood in stage build" in incident.evidence
    (message,) = lab.messages("synapse")
    assert "build" in message.body
    assert message.created_wall_s - (lab.now_s - 1) < 120


@pytest.mark.req("FR-002")
def test_a_new_stage_starts_the_hour_anew() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    lab.advance(LIMIT_S - 1)
    lab.now(stage="test")
    lab.advance(LIMIT_S - 1)
    assert lab.incidents(TASK) == []
    lab.advance(2)
    assert "in stage test" in lab.stuck().evidence


@pytest.mark.req("FR-002")
def test_going_back_to_a_stage_is_entering_it() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    lab.advance(LIMIT_S - 10)
    lab.now(stage="test")
    lab.now(stage="build")
    lab.advance(LIMIT_S - 10)
    assert lab.incidents(TASK) == []


@pytest.mark.req("FR-002")
def test_a_message_moves_the_alarm_and_a_later_silence_is_told() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    lab.advance(3000)
    spoken_s = lab.now_s
    lab.now(message_wall_s=spoken_s)
    lab.advance(LIMIT_S - 1)
    assert lab.incidents(TASK) == []
    lab.advance(2)
    lab.stuck()
    lab.now(message_wall_s=lab.now_s)
    assert lab.stuck().state is State.SELF_RESOLVED


@pytest.mark.req("FR-002")
def test_a_message_that_only_the_probe_at_the_alarm_sees_is_in_time() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    lab.advance(LIMIT_S - 1)
    assert lab.task is not None
    lab.task = msgspec.structs.replace(lab.task, message_wall_s=lab.now_s)
    lab.advance(2)
    assert lab.incidents(TASK) == []
    lab.advance(LIMIT_S)
    lab.stuck()


@pytest.mark.req("FR-002", "R9")
def test_while_nobody_can_read_the_messages_nothing_is_called_stuck() -> None:
    lab = Pipeline()
    lab.now(messages_known=False, detail="brain.db is locked")
    lab.advance(LIMIT_S + 1)
    lab.poll(TASK)
    assert AnomalyType.PIPELINE_STUCK not in {incident.anomaly for incident in lab.incidents(TASK)}
    lab.now(messages_known=True, detail="")
    assert AnomalyType.PIPELINE_STUCK in {incident.anomaly for incident in lab.incidents(TASK)}


@pytest.mark.req("FR-002", "R7")
@pytest.mark.parametrize(
    "end",
    [
        {"moving": False, "detail": "it is not among the active tasks any more", "stage": ""},
        {"moving": False, "detail": "it is completed"},
        {"moving": False, "detail": "its stage build is blocked"},
        {"stage": "test"},
    ],
)
def test_a_task_that_leaves_finishes_is_blocked_or_moves_on_closes_its_own_incident(end: dict[str, object]) -> None:
    lab = Pipeline()
    lab.poll(TASK)
    lab.advance(LIMIT_S + 1)
    assert lab.stuck().open
    lab.now(**end)
    assert lab.stuck().state is State.SELF_RESOLVED
    gone = "stage" not in end or end["stage"] == ""
    assert (TASK not in lab.engine.world.stages) is gone
    assert ((TimerKind.STUCK, TASK) not in lab.engine.world.timers) is gone


@pytest.mark.req("FR-002", "R9")
def test_a_state_file_that_cannot_be_read_neither_closes_nor_forgets() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    lab.advance(LIMIT_S + 1)
    before = lab.engine.world.stages[TASK]
    lab.task = None
    lab.poll(TASK)
    assert lab.stuck().open
    assert lab.engine.world.stages[TASK] == before


@pytest.mark.req("FR-002")
def test_a_restart_of_the_healer_keeps_since_when_it_stands_and_the_alarm() -> None:
    lab = Pipeline()
    lab.poll(TASK)
    entered = lab.engine.world.stages[TASK]
    lab.advance(2000)
    lab.crash()
    assert lab.engine.world.stages[TASK] == entered
    lab.poll(TASK)
    assert lab.engine.world.stages[TASK] == entered
    lab.crash()
    lab.advance(LIMIT_S - 2000 - 1)
    assert lab.incidents(TASK) == []
    lab.advance(2)
    lab.stuck()


@pytest.mark.req("FR-002")
def test_what_the_file_says_of_its_last_change_counts_at_the_first_sight_only() -> None:
    lab = Pipeline()
    lab.now(updated_wall_s=lab.now_s - 3000)
    lab.advance(599)
    assert lab.incidents(TASK) == []
    lab.advance(2)
    lab.stuck()
    lab.now(stage="test", updated_wall_s=lab.now_s - 10_000)
    assert lab.stuck().state is State.SELF_RESOLVED
    ahead = Pipeline()
    ahead.now(updated_wall_s=ahead.now_s + 10_000)
    ahead.advance(LIMIT_S + 1)
    ahead.stuck()


@pytest.mark.req("R7", "NFR-004")
def test_a_reading_from_outside_neither_enters_nor_leaves_a_stage_nor_calls_stuck() -> None:
    lab = Pipeline()
    lab.feed(e.ReadingSeen(lab.reading(TASK, external=True)))
    assert lab.engine.world.stages == {}
    lab.poll(TASK)
    entered = lab.engine.world.stages[TASK]
    lab.advance(10)
    assert lab.task is not None
    for changes in ({"stage": "test"}, {"moving": False}, {"messages_known": False}):
        given = lab.reading(TASK, external=True, data=msgspec.structs.replace(lab.task, **changes))
        for _ in range(4):
            lab.feed(e.ReadingSeen(given))
    assert lab.engine.world.stages[TASK] == entered
    assert lab.incidents(TASK) == []
    lab.advance(LIMIT_S)
    lab.stuck()
