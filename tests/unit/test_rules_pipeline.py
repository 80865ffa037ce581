"""What a reading of a pipeline's task means, at each mark, by the engine's knowledge of its stage (FR-002)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents.classify import UNAVAILABLE_READINGS, Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, StageEntry, Status, Verdict
from supervisor.incidents.readings import HealthReading, PipelineData

LIMIT_S = 3600.0
NOW = Instant(500_000.0, 1_700_000_000.0, 50.0)
TASK = "pipeline:task-001"


def observe(classifier: Classifier, stood_s: float | None, **keys: object) -> dict[AnomalyType, Verdict]:
    data = PipelineData("task-001", moving=True, stuck_after_s=LIMIT_S, stage="build", title="A title")
    reading = HealthReading(TASK, "pipeline", 50.0, NOW.wall_s, 1.0, 1000, True, msgspec.structs.replace(data, **keys))
    stage = None
    if stood_s is not None:
        stage = StageEntry(TASK, "build", NOW.steady_s - stood_s, NOW.wall_s - stood_s)
    return {v.anomaly: v for v in classifier.observe(Judge(reading, NOW, lambda anomaly: False, stage))}


def stuck(stood_s: float | None, **keys: object) -> Verdict:
    return observe(Classifier(), stood_s, **keys)[AnomalyType.PIPELINE_STUCK]


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("stood_s", "expected"),
    [
        (None, Status.CLEAR),
        (0.0, Status.CLEAR),
        (LIMIT_S - 1, Status.CLEAR),
        (LIMIT_S, Status.CLEAR),
        (LIMIT_S + 0.01, Status.FIRING),
        (LIMIT_S * 100, Status.FIRING),
    ],
)
def test_a_task_is_stuck_beyond_the_limit(stood_s: float | None, expected: Status) -> None:
    assert stuck(stood_s).status is expected
    assert stuck(stood_s).severity is Severity.HIGH


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("spoken_ago_s", "expected"),
    [
        (0.0, Status.CLEAR),
        (LIMIT_S, Status.CLEAR),
        (LIMIT_S + 0.01, Status.FIRING),
        (LIMIT_S * 10, Status.FIRING),
    ],
)
def test_a_message_starts_the_limit_anew(spoken_ago_s: float, expected: Status) -> None:
    assert stuck(LIMIT_S * 5, message_wall_s=NOW.wall_s - spoken_ago_s).status is expected


@pytest.mark.req("FR-002")
def test_a_message_from_before_the_stage_does_not_make_it_older() -> None:
    assert stuck(60.0, message_wall_s=NOW.wall_s - LIMIT_S * 10).status is Status.CLEAR


@pytest.mark.req("FR-002")
def test_what_moves_no_more_is_not_stuck() -> None:
    verdict = stuck(LIMIT_S * 5, moving=False, detail="its status is blocked")
    assert verdict.status is Status.CLEAR
    assert verdict.evidence == "its status is blocked"


@pytest.mark.req("FR-002")
def test_the_evidence_names_task_stage_time_and_title() -> None:
    evidence = stuck(LIMIT_S * 3).evidence
    assert "it has stood in stage build for 3 h" in evidence
    assert "A title" in evidence


@pytest.mark.req("R9")
def test_without_its_messages_nothing_is_stuck_and_that_is_reported_in_the_long_run() -> None:
    classifier = Classifier()
    for count in range(1, UNAVAILABLE_READINGS + 1):
        verdicts = observe(classifier, LIMIT_S * 5, messages_known=False, detail="brain.db is locked")
        assert verdicts[AnomalyType.PIPELINE_STUCK].status is Status.UNKNOWN
        expected = Status.FIRING if count == UNAVAILABLE_READINGS else Status.PENDING
        assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is expected
    assert "brain.db is locked" in verdicts[AnomalyType.PROBE_UNAVAILABLE].evidence
    assert observe(classifier, 1.0)[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR


@pytest.mark.req("R9")
def test_a_task_that_moves_no_more_needs_no_messages() -> None:
    verdicts = observe(Classifier(), None, moving=False, messages_known=False)
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR
