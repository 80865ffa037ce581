"""What the pictures of the dashboard show: one night of a small site, as the daemon would tell it.

web has died and waits for its owner's approval, a disk fills, a gateway is being restarted, an executor crashed once.
"""

from __future__ import annotations

from supervisor.cli.item import SNAPSHOT, Item
from tests.tui.recorded import Json, Recorded, stamp

APPROVAL = "needs_approval"
PIDS = {
    "store": 4102, "healer": 4103, "executor": 4131, "notifier": 4105, "process": 4106, "gateway": 4107, "fleet": 4108,
    "host": 4109, "database": 4110, "logs": 4111,
}  # fmt: skip
USAGE = {pid: (int((9.4 + 1.7 * (pid % 7)) * 1024**2), 0.1 * (pid % 4)) for pid in PIDS.values()}


def row(id: str, anomaly: str, target: str, severity: str, state: str, ago_s: float, **more: object) -> Json:
    """An incident as `status` has it."""
    base: Json = {
        "id": id,
        "anomaly_type": anomaly,
        "target_id": target,
        "severity": severity,
        "state": state,
        "runbook_id": None,
        "detected_at": stamp(ago_s),
        "state_changed_at": stamp(ago_s * 0.9),
        "last_seen_at": stamp(2.0),
        "detections": 1 + int(ago_s // 60),
        "escalation_tier": 2,
        "escalation_reason": APPROVAL,
        "evidence": "",
        "hint": "",
        "waiting_for": None,
        "execution_id": None,
        "intermittent": False,
        "dry_runs": [],
        "acknowledged_at": None,
        "audit_trail": [],
    }
    return base | more


def trail(*entries: tuple[float, str, str, str]) -> list[Json]:
    """(seconds ago, state, actor, note), oldest first."""
    return [{"timestamp": stamp(ago), "state": state, "actor": who, "note": note} for ago, state, who, note in entries]


DIED = "no live process; its pid file names a process that is gone"
WEB_TRAIL = trail(
    (252.0, "detected", "probe", f"detected: {DIED}"),
    (252.0, "diagnosing", "engine", "a fresh probe will tell whether it is still so"),
    (251.8, "diagnosing", "executor", "dry run of rb-restart-service would clear it (start /usr/local/bin/web in /)"),
    (251.8, "escalated", "engine", "rb-restart-service may not run by itself: it is not approved for this target"),
    (251.7, "escalated", "notifier", "signal page delivered (http://127.0.0.1:8080)"),
)


GATEWAY_TRAIL = trail(
    (71.0, "detected", "probe", "detected: it refuses connections, 2 in a row, by its health address"),
    (70.9, "diagnosing", "engine", "a fresh probe will tell whether it is still so"),
    (70.6, "remediating", "engine", "runs rb-gateway-restart: auto_restart is set and nothing of it is running"),
    (66.4, "verifying", "executor", "every step is done; its probe decides"),
)
GATEWAY_RUN = {
    "execution_id": "exe_8be0417fd2a3", "runbook_id": "rb-gateway-restart", "authority": "not_running",
    "state": "succeeded", "verification_passed": None,
    "steps_executed": [{
        "step_id": "restart", "status": "success", "duration_ms": 4180.0,
        "output": "openclaw gateway restart --json: exit 0; it says 'restarted'",
    }],
    "reading": {
        "endpoint": "refused", "failures": 2, "failures_needed": 2, "judged_by": "health_url", "runtime": "stopped",
    },
}  # fmt: skip


def incidents() -> list[Json]:
    return [
        row(
            "inc_7d029917fc81", "process_dead", "web", "critical", "escalated", 252.0,
            runbook_id="rb-restart-service", escalation_tier=3, detections=1, evidence=DIED,
            hint="restart it", audit_trail=WEB_TRAIL,
        ),
        row(
            "inc_1f2e5b30aa07", "disk_pressure", "disk:/srv", "medium", "remediating", 38.0,
            runbook_id="rb-rotate-logs", escalation_tier=0, escalation_reason=None, execution_id="exe_51cc0a72be19",
            evidence="/srv is 87.4% full, 60.1 GiB are left; at the present growth it is full in 9 h",
            audit_trail=trail((37.0, "remediating", "engine", "runs rb-rotate-logs: it is on the whitelist")),
        ),
        row(
            "inc_90ab33d17c52", "gateway_unresponsive", "openclaw-gateway", "high", "verifying", 71.0,
            runbook_id="rb-gateway-restart", escalation_tier=0, escalation_reason=None, execution_id="exe_8be0417fd2a3",
            evidence="it refuses connections, 2 in a row, by its health address",
            audit_trail=GATEWAY_TRAIL,
        ),
        row(
            "inc_c410e88f0d3b", "fleet_unreachable", "fleet:atlas", "high", "escalated", 3720.0,
            runbook_id="rb-probe-then-alert", acknowledged_at=stamp(3000.0), detections=13,
            evidence="10.0.0.7 port 22: no answer within 5 s",
            audit_trail=trail((3600.0, "escalated", "engine", "three more tries say the same")),
        ),
        row(
            "inc_2d6f9c1e4477", "worker_failing", "executor", "medium", "escalated", 540.0,
            escalation_tier=1, escalation_reason="told", evidence="it was killed by SIGSEGV, and was replaced",
            hint="see the log of healctl for its last words",
            audit_trail=trail((540.0, "escalated", "engine", "told over Synapse")),
        ),
    ]  # fmt: skip


ROTATING = {
    "target_id": "disk:/srv", "execution_id": "exe_51cc0a72be19", "incident_id": "inc_1f2e5b30aa07",
    "what": "rb-rotate-logs", "stage": "archive", "done": 1_932_735_283, "total": 4_617_089_843, "unit": "bytes",
    "rate_per_s": 52_428_800.0, "left_s": 51.2, "can_be_cancelled": True, "over": False,
}  # fmt: skip


LAST_WORDS = """\
Fatal Python error: Segmentation fault
  File "/usr/lib/python3.11/gzip.py", line 287 in write"""


def children() -> list[Json]:
    rows = [
        {"name": name, "state": "ready", "pid": pid, "restarts": 0, "last_exit": None, "since": stamp(93_600.0)}
        for name, pid in PIDS.items()
    ]
    return [
        it | {"restarts": 1, "last_exit": "killed by SIGSEGV", "since": stamp(540.0), "last_words": LAST_WORDS}
        if it["name"] == "executor"
        else it
        for it in rows
    ]


PAGE = """\
web is down (since 21:15): no live process; its pid file names a process that is gone.
Nothing was tried: the repair needs your approval.
It would: start /usr/local/bin/web.
Decide: restart web?
- yes, this once: healctl heal execute rb-restart-service --target web --confirm
- yes, and always from now on: healctl heal approve rb-restart-service --target web
- I am on it, stop reminding me: healctl ack web"""


def detail(args: Json) -> Json:
    known = next(it for it in incidents() if it["id"] == args["incident_id"])
    if known["target_id"] != "web":
        return {"incident": known, "executions": [GATEWAY_RUN], "messages": []}
    page = {
        "channel": "signal", "kind": "page", "created_at": stamp(251.8), "delivered_at": stamp(251.7), "receipt": "ok",
        "subject": "web is down", "body": PAGE,
        "last_error": "",
    }  # fmt: skip
    return {"incident": known, "executions": [], "messages": [page]}


def runbook(
    id: str, label: str, applies_to: str, mode: str, good: int, bad: int, dry: int, ago_s: float | None
) -> Json:
    return {
        "id": id, "label": label, "applies_to": [applies_to], "mode": mode,
        "confidence": 1.0 if mode != "dry_run" else 0.5,
        "dry_run_count": dry, "last_executed_at": None if ago_s is None else stamp(ago_s), "approved_at": None,
        "version": "5f0c2a9e71d4b836", "author": "healctl", "steps": [{"step_id": "run", "effect": "change"}],
        "successes": good, "failures": bad, "success_rate_lower_bound": 0.0, "targets": [],
    }  # fmt: skip


RUNBOOKS = [
    runbook("rb-restart-service", "Restart a service", "process_dead", "dry_run", 14, 1, 3, 86_400.0),
    runbook("rb-kill-zombie", "Have a zombie reaped", "process_zombie", "dry_run", 2, 0, 1, 700_000.0),
    runbook("rb-rotate-logs", "Archive old logs, and what has grown", "disk_pressure", "auto_execute", 31, 0, 0, 37.0),
    runbook("rb-emergency-cleanup", "Remove old temporary files", "disk_critical", "dry_run", 0, 0, 1, None),
    runbook("rb-gc-trigger", "Write down who holds the memory", "memory_pressure", "auto_execute", 0, 0, 0, 90_000.0),
    runbook("rb-force-gc", "End what holds most memory", "memory_critical", "dry_run", 0, 0, 0, None),
    runbook("rb-db-emergency", "Halt writes to a damaged database", "db_corruption", "dry_run", 0, 0, 0, None),
    runbook("rb-db-restore", "Put a good copy in its place", "db_corruption", "dry_run", 0, 0, 0, None),
    runbook("rb-gateway-restart", "Restart the gateway", "gateway_unresponsive", "auto_execute", 6, 1, 0, 35.0),
    runbook("rb-probe-then-alert", "Look a few more times, then tell", "fleet_unreachable", "dry_run", 0, 0, 0, 3600.0),
    runbook("rb-clear-cache", "Empty the render cache", "disk_pressure", "dry_run", 0, 0, 2, None) | {"author": "Ann"},
]


def target(
    id: str, family: str, value: float | None, unit: str, trend: list[float], every_s: float, **more: object
) -> Json:
    base: Json = {
        "target_id": id, "family": family, "available": value is not None, "error": None, "anomaly": None,
        "taken_at": stamp(7.0), "took_ms": 0.4, "every_s": every_s, "value": value, "unit": unit, "trend": trend,
        "full_in_s": None,
    }  # fmt: skip
    return base | more


RISE = [0.79, 0.80, 0.80, 0.81, 0.82, 0.82, 0.83, 0.84, 0.84, 0.85, 0.86, 0.874]
TARGETS = [
    target("web", "process", None, "ms", [0.4, 0.4, 0.5, 0.9, 0.3], 60.0, anomaly="process_dead", available=True),
    target("api", "process", 3.1, "ms", [2.8, 3.0, 2.9, 3.3, 3.0, 2.9, 3.4, 3.1], 60.0, took_ms=3.4),
    target("worker", "process", 0.2, "ms", [0.2, 0.3, 0.2, 0.2], 60.0, took_ms=0.2),
    target("openclaw-gateway", "gateway", 18.0, "ms", [17.0, 19.0, 16.0, 18.0], 120.0, took_ms=21.0),
    target("fleet:atlas", "fleet", None, "ms", [], 300.0, anomaly="fleet_unreachable", took_ms=4800.0,
           error="10.0.0.7 port 22: no answer within 5 s", taken_at=stamp(131.0)),
    target("fleet:rhea", "fleet", 2.3, "ms", [2.2, 2.6, 2.1, 2.3], 300.0, took_ms=2.4, taken_at=stamp(96.0)),
    target("disk:/", "host", 0.412, "share", [0.41, 0.41, 0.412, 0.412], 600.0, full_in_s=3_900_000.0),
    target("disk:/srv", "host", 0.874, "share", RISE, 600.0, anomaly="disk_pressure", full_in_s=32_400.0),
    target("system-memory", "host", 6.2 * 1024**3, "bytes", [6.9e9, 6.8e9, 6.6e9, 6.9e9, 6.7e9, 6.6e9], 300.0),
    target("brain-db", "database", 48.2 * 1024**2, "bytes", [4.7e7, 4.8e7, 4.9e7, 5.05e7], 900.0, took_ms=0.6),
    target("log-files", "logs", 41.0, "count", [38.0, 39.0, 41.0], 1800.0, took_ms=12.7),
]  # fmt: skip


def spread(count: int, median_s: float, p95_s: float) -> Json:
    return {"count": count, "median_s": median_s, "p95_s": p95_s}


def figures(detected: int, healed: int, actions: int, pages: int) -> Json:
    return {
        "incidents": {
            "detected": detected, "open": 5, "resolved": healed + 2, "resolved_by_runbook": healed,
            "self_resolved": detected - healed - 7, "dismissed": 0,
        },
        "mttd": {"at_most": spread(detected, 0.021, 48.0), "at_least": spread(detected, 0.001, 0.02)},
        "mttr": spread(detected - 5, 1.9, 420.0),
        "mttr_by_runbook": spread(healed, 1.2, 31.0),
        "auto_resolved_percent": round(100.0 * healed / (healed + 2), 1),
        "actions": actions, "false_actions": 1, "false_action_percent": round(100.0 / actions, 1),
        "pages": pages, "pages_repeated": 1, "pages_without_receipt": 0, "pages_per_week": round(pages / 4.3, 2),
    }  # fmt: skip


def report() -> Json:
    return {
        "since": stamp(2_592_000.0),
        "until": stamp(0.0),
        "recorded_since": stamp(2_592_000.0),
        **figures(62, 53, 58, 6),
        "passed_over": [],
    }


def recorded() -> Recorded:
    data: Json = {
        "seq": 1,
        "open_incidents": incidents(),
        "children": children(),
        "halted": [],
        "paused": [],
        "at_work": [ROTATING],
    }
    answers: Json = {
        "incident": detail,
        "list_runbooks": {"runbooks": RUNBOOKS},
        "targets": {"targets": TARGETS, "more": 0},
        "report": report(),
    }
    return Recorded([Item(1, SNAPSHOT, 0.0, data)], answers)
