"""What healctl says of itself, and what is no incident's outcome: driven out of the real engine, like `stage`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents.model import AnomalyType, StepResult
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import Unavailable
from tests.lab.stage import ALLOWED, BY_HAND, SCENES, Stage, did_not_help, graduates

# A part, what is wrong with it, and how the healer's own process words it.
OWN = (
    ("worker:fleet", AnomalyType.WORKER_QUARANTINED, "it failed too often (exit 1): KeyError: 'hosts'"),
    ("worker:notifier", AnomalyType.WORKER_FAILING, "it has failed 3 times within 10 minutes (killed by SIGKILL):"),
    ("reading:web", AnomalyType.ITEM_QUARANTINED, "it was in work both times that healer died (killed by SIGSEGV)"),
    ("messages:signal", AnomalyType.DELIVERY_FAILING, "2 pages wait for a receipt, the oldest for 300 s: refused"),
    ("healctl:ledger", AnomalyType.LEDGER_DAMAGED, "it was set aside; it is kept as /s/ledger.damaged-1"),
    ("healctl:ledger", AnomalyType.LEDGER_NEAR_LIMIT, "/s/ledger.db has 870.4 MiB, 85% of ledger_max"),
    ("healctl:limits", AnomalyType.LIMIT_REACHED, "1000 things are wrong at once; of more it is not told"),
    ("drill:synapse", AnomalyType.DRILL_FAILED, "nothing was delivered over Synapse within 60 s: refused"),
    ("copies:brain-db", AnomalyType.BACKUP_OVERDUE, "no good copy of brain-db was made for 2 days"),
)
WEB = SCENES[0]


def _own(name: str, anomaly: AnomalyType, evidence: str) -> Stage:
    stage = Stage(WEB)
    stage.feed(e.OwnPart(name, anomaly, True, evidence))
    stage.advance(600)
    stage.feed(e.OwnPart(name, anomaly, False, "it is well again"))
    return stage


def _blind() -> Stage:
    stage = Stage(WEB)
    blind = {"available": False, "data": None, "reason": Unavailable.PERMISSION, "error": "/run/web.pid: not permitted"}
    stage.silent.add("web")
    for _ in range(3):
        stage.feed(e.ReadingSeen(stage.reading("web", **blind)))
    stage.advance(600)
    stage.silent.clear()
    stage.poll("web")
    stage.advance(60)
    return stage


def _asked_by_an_agent() -> Stage:
    stage = Stage(WEB, policy=BY_HAND)
    stage.order("execute", actor="agent:claude", runbook_id="rb-restart-service", target_id="web", confirm=True)
    return stage


def _recorded() -> Stage:
    stage = Stage(WEB, runbooks=())
    stage.falls_ill()
    stage.from_here()
    (incident,) = stage.incidents("web")
    commands = (("systemctl", "restart", "postgresql"),)
    stage.order(
        "record_fix", incident_id=incident.id, description="the database was down, @remember", commands=commands
    )
    return stage


def _demoted() -> Stage:
    stage = Stage(WEB, policy=Policy(auto_execute=()))
    stage.order("approve", runbook_id="rb-restart-service", target_id="web")
    stage.falls_ill()
    stage.advance(61)
    return stage


def _changed(target_id: str | None) -> Stage:
    stage = Stage(WEB, policy=BY_HAND)
    more = {} if target_id is None else {"target_id": target_id}
    stage.order("approve", runbook_id="rb-restart-service", **more)
    newer = tuple(msgspec.structs.replace(it, summary=not it.summary) for it in RUNBOOKS)
    stage.feed(e.Reconfigured(stage.targets, frozenset(), stage.engine.world.policy, newer))
    return stage


def _at_work() -> Stage:
    """Its page's hold ends while the step still runs."""
    stage = Stage(WEB, policy=ALLOWED)
    stage.hold_dispatch = True
    stage.falls_ill()
    execution = stage.dispatched[0]
    stage.feed(e.ExecutionClaimed(execution.id, stage.executor))
    stage.feed(e.StepEnded(execution.id, 0, StepResult("stop", True, "nothing of web was alive", 1.0), False))
    stage.advance(61)
    return stage


NOTICES: dict[str, Callable[[], Stage]] = {
    "an agent asks": _asked_by_an_agent,
    "a fix was recorded": _recorded,
    "a repair has graduated": lambda: graduates(WEB),
    "a repair has lost its approval": _demoted,
    "an approved repair was changed, for one": lambda: _changed("web"),
    "an approved repair was changed, for all": lambda: _changed(None),
    "on a host with a name": lambda: did_not_help(WEB, host="atlas"),
    "between two steps": _at_work,
}
OURSELVES: dict[str, Callable[[], Stage]] = {
    **{row[1].value: partial(_own, *row) for row in OWN},
    AnomalyType.PROBE_UNAVAILABLE.value: _blind,
}
