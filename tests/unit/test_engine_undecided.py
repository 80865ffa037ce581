"""What our own probe cannot tell (R6, R7, R9): asked ever more seldom, told once, counted once, never for ever."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents.model import AnomalyType, Channel, Incident, State, Target, Tier
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DiskData, Endpoint, GatewayData, HealthReading, ReadingData, Unavailable
from tests.lab.engine import Lab

DISK, GATEWAY = "disk:/", "openclaw-gateway"
LIMIT = 0.85


class Truth(Lab):
    """One target; `says` is what every look at it finds from now on, None: it cannot be read."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.says: ReadingData | None = None
        self.looks = 0
        self.checked_mono_s: float | None = None
        super().__init__(policy=Policy(pages=True, auto_execute=()), targets=(target,))
        self.alive[target.target_id] = None  # so that the lab answers the engine's questions about it

    def reading(self, name: str, **changes: object) -> HealthReading:
        self.looks += 1
        reading = HealthReading(
            self.target.target_id,
            self.target.family,
            self.instant().mono_s,
            self.now_s,
            1.0,
            60_000,
            self.says is not None,
            self.says,
            checked_mono_s=self.checked_mono_s,
        )
        if self.says is None:
            reading = msgspec.structs.replace(reading, reason=Unavailable.DEADLINE, error="it hangs")
        return msgspec.structs.replace(reading, **changes)


def disk(used_share: float) -> DiskData:
    return DiskData("/", LIMIT, 0.95, True, used_share=used_share)


def full(then: DiskData | None) -> Truth:
    """A disk that was found full, and then, at the fresh probe, is as `then` says."""
    lab = Truth(Target(DISK, "host"))
    lab.silent.add(DISK)
    lab.says = disk(LIMIT + 0.001)
    lab.poll(DISK)
    lab.silent.clear()
    lab.says = then
    return lab


def pressure(lab: Truth) -> Incident:
    (incident,) = [i for i in lab.incidents(DISK) if i.anomaly is AnomalyType.DISK_PRESSURE]
    return incident


@pytest.mark.req("R7", "R1")
@pytest.mark.parametrize("then", [disk(LIMIT - 0.001), None], ids=["on the edge", "cannot be read"])
def test_what_its_probe_cannot_confirm_is_asked_ever_more_seldom_and_told_once(then: DiskData | None) -> None:
    lab = full(then)
    looks = lab.looks
    lab.advance(3_600)
    incident = pressure(lab)
    assert (incident.state, incident.tier) == (State.DIAGNOSING, Tier.INFORM)
    assert lab.looks - looks < 100, "it does not spin"
    told = [row for row in lab.messages() if row.incident_id == incident.id]
    assert [(row.channel, row.kind) for row in told] == [(Channel.SYNAPSE, "summary")]
    lab.says = disk(LIMIT + 0.01)
    lab.poll(DISK)  # an ordinary poll: it is asked at once, not at the next slow turn
    assert pressure(lab).state is State.ESCALATED


@pytest.mark.req("R7")
def test_what_could_not_tell_and_reads_clear_ends_at_once() -> None:
    lab = full(disk(LIMIT - 0.001))
    lab.advance(3_600)
    lab.says = disk(0.5)
    lab.poll(DISK)
    assert pressure(lab).state is State.SELF_RESOLVED


@pytest.mark.req("R6", "R9", "NFR-002")
def test_the_verdict_of_a_background_check_counts_once_however_often_it_is_told() -> None:
    lab = Truth(Target(GATEWAY, "gateway"))
    lab.says = GatewayData(Endpoint.REFUSED, 2, 2, "status")
    lab.poll(GATEWAY)
    assert lab.only(GATEWAY).state is State.ESCALATED
    lab.says = GatewayData(Endpoint.OK, 0, 2, "status")
    for told in (1, 2):
        lab.checked_mono_s = lab.instant().mono_s
        for _ in range(4):  # again and again until the next check has ended
            lab.poll(GATEWAY)
            assert lab.only(GATEWAY).clear_readings == told
            lab.advance(31)
    lab.checked_mono_s = lab.instant().mono_s
    lab.poll(GATEWAY)
    assert lab.only(GATEWAY).state is State.SELF_RESOLVED
