"""AC-002 on the real daemon: a pipeline is stuck, and Synapse says which stage within two minutes of the threshold."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.conftest import signal_toml
from tests.acceptance.test_anomaly_pipeline import FAST, pipeline_toml, state, task
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import Site, until
from tests.lab.heard import synapse

STUCK_AFTER_S = 2.0
WITHIN_S = 120.0


@pytest.mark.req("AC-002", "FR-002", "FR-005", "NFR-003", "R8")
def test_ac_002_a_stuck_pipeline_alerts_on_synapse_with_its_stage_within_2_min_of_the_threshold(
    here: Site, phone: SignalDouble
) -> None:
    # It is polled once an hour: the alarm at the threshold alone can be in time.
    moving, stuck = task(2, "test", updated_at="2026-02-18T09:30:00Z", status="blocked"), task(1, "security")
    state(here.folder, stuck, moving)
    with synapse("brain_db") as mail:
        daemon = here.daemon(
            FAST + pipeline_toml(here.folder, "1h", f"{STUCK_AFTER_S:g}s") + signal_toml(phone) + mail.toml
        )
        began = time.time()  # it stands in its stage from when it is first seen, which is later
        daemon.start()
        (alert,) = mail.wait(daemon, "the alert", bool)
        assert STUCK_AFTER_S <= time.time() - began < STUCK_AFTER_S + WITHIN_S
        (row,) = daemon.wait_state("pipeline:task-001", "escalated")
        assert row["anomaly_type"] == "pipeline_stuck"
        assert "The task task-001 is stuck" in alert.subject
        assert "it has stood in stage security for" in alert.body
        assert "rb-kick-pipeline" in alert.body
        assert f"healctl heal approve rb-kick-pipeline --target {row['target_id']}" in alert.body
        assert row["id"] in alert.body
        assert alert.priority == "action"
        until("nothing else is on its way", lambda: daemon.ask("tree")["outbox"]["pending"] == 0)
        state(here.folder, task(1, "test"), moving)
        daemon.wait_state("pipeline:task-001", "self_resolved")
        daemon.stop()
        assert mail.told(daemon)[0] == alert
        assert {one["target_id"] for one in daemon.incidents()} == {"pipeline:task-001"}, "the other one is not stuck"
    assert phone.sent == [], "tier 2 is for Synapse alone"
