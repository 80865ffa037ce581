"""What the seeds have visited: transitions, tiers, reasons, authorities, kinds of faults; what cannot be visited."""

from __future__ import annotations

from collections import Counter

from supervisor.incidents.lifecycle import TRANSITIONS, Trigger
from supervisor.incidents.model import AnomalyType, Authority, State, Tier, TierReason
from tests.sim.drills import ENDS
from tests.sim.replies import REPLIES

# In the table, and out of reach of any event; each with its reason.
UNREACHABLE: dict[str, str] = {
    "transition detected/dismiss": "an incident leaves `detected` in the very decision that opens it",
    "transition remediation_failed/dismiss": "it is escalated in the very decision that fails it",
    "anomaly ledger_damaged": "the simulated disks lose no pages; see tests/acceptance/test_ledger_trouble.py",
    "anomaly dead_man_failing": "nobody outside is pinged here; see tests/process/test_dead_man_pings.py",
    "anomaly limit_reached": "10,000 open incidents, or 500 entries in one trail, are more than a short run has",
    "anomaly backup_overdue": "two days are longer than any run; see tests/unit/test_engine_copies.py",
}


class Coverage:
    """Counters by name, e.g. "tier 3"; merged over seeds and processes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def transition(self, state: State, trigger: Trigger) -> None:
        self.counts[f"transition {state}/{trigger}"] += 1

    def fault(self, what: str, which: str) -> None:
        self.counts[f"fault {what} {which}"] += 1

    def see(self, kind: str, value: object) -> None:
        self.counts[f"{kind} {value}"] += 1

    def merge(self, other: Counter[str]) -> None:
        self.counts.update(other)


def expected(faults: tuple[str, ...]) -> list[str]:
    """Everything that must have been visited."""
    names = [f"transition {state}/{trigger}" for state, trigger in TRANSITIONS]
    names += [f"reason {reason}" for reason in TierReason]
    names += [f"tier {tier:d}" for tier in Tier]
    names += [f"authority {authority}" for authority in Authority]
    names += [f"anomaly {anomaly}" for anomaly in AnomalyType]
    return [*names, *REPLIES, *ENDS, *faults]


def missing(counts: Counter[str], faults: tuple[str, ...]) -> list[str]:
    """What no seed has visited although it can be."""
    return [name for name in expected(faults) if not counts[name] and name not in UNREACHABLE]
