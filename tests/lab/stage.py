"""The engine's bench with targets of every family: what its messages say in each outcome that can be reached.

A `Scene` says how one anomaly looks and what its repairs report, in the words of the real steps; an outcome is a
function that makes it happen. Nothing here makes an incident or a text: all comes out of the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents.effects import DeliverRow, Effect
from supervisor.incidents.local_time import Shift, Zone
from supervisor.incidents.model import (
    AnomalyType,
    Execution,
    ExecutionState,
    Instant,
    OutboxRow,
    Recipe,
    Runbook,
    State,
    StepResult,
    Target,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import (
    DatabaseData,
    DiskData,
    Endpoint,
    FleetData,
    GatewayData,
    HealthReading,
    Integrity,
    LogFile,
    LogsData,
    MemoryData,
    PidFile,
    PipelineData,
    Position,
    PositionsData,
    ProcessData,
    ProcessRef,
    ReadingData,
    SignalData,
    Stamp,
    Unavailable,
    Zombie,
)
from supervisor.notifier.signal_cli import message_text
from tests.lab.engine import BOOT, START, Lab

BERLIN: Zone = (Shift(1_761_440_400.0, 3600.0, "CET"), Shift(1_774_746_000.0, 7200.0, "CEST"))
WALL = 1_772_964_300.0  # Sunday 8 March 2026, 11:05 in Berlin
GIB = 1024**3


class Scene(msgspec.Struct, frozen=True):
    """`bad` and `good`: what its probe reads; `bad` None: the host cannot be reached. `fails`: how a step fails."""

    anomaly: AnomalyType
    target: Target
    bad: ReadingData | None
    good: ReadingData
    done: dict[str, str]
    fails: str
    plan: str = ""
    others: tuple[str, ...] = ()  # of the same kind


def service(name: str, *, auto_restart: bool = False) -> Target:
    return Target(name, "process", auto_restart=auto_restart, recipe=Recipe(("/usr/bin/start", name)))


def _alive(**more: Any) -> ProcessData:
    return ProcessData(alive=True, process=ProcessRef(BOOT, 812, 812), pid_file=PidFile.OK, **more)


_ZOMBIE = Zombie(ProcessRef(BOOT, 4711, 4711), 802, "supervise-web", 25.0)
_RESTART = {
    "stop-service": "nothing of web was alive: nothing ended",
    "start-service": "started /usr/bin/start web as process 4242",
}
_ROTATED = {"rotate-logs": "archived 14 logs with 3.2 GiB, 2.9 GiB are free again"}
_HALT = "Halted within 0.10 s of the reading: its write lock is held (process 7); readers go on"

SCENES = (
    Scene(
        AnomalyType.PROCESS_DEAD,
        service("web"),
        ProcessData(alive=False, pid_file=PidFile.STALE),
        _alive(),
        _RESTART,
        "/usr/bin/start web: exit 1 at once\nbind: address already in use",
        "would start /usr/bin/start web",
        ("api", "cache", "mail", "queue", "search"),
    ),
    Scene(
        AnomalyType.PROCESS_ZOMBIE,
        service("web"),
        _alive(zombies=(_ZOMBIE,)),
        _alive(),
        {"kill-zombie": "sent SIGKILL to zombie 4711; its parent is supervise-web (802), which was sent SIGCHLD"},
        "zombie 4711 of supervise-web (802) could not be signalled: it is another user's",
        "would send SIGKILL to zombie 4711, then SIGCHLD to its parent supervise-web (802)",
    ),
    Scene(
        AnomalyType.SIGNAL_STALE,
        msgspec.structs.replace(service("augur-executor"), target_id="augur-signals", family="trading",
                                service="augur-executor"),
        SignalData(720.0, 300.0, Stamp.KEY, "augur-executor"),
        SignalData(4.0, 300.0, Stamp.KEY, "augur-executor"),
        {"stop-service": "augur-executor: ended 812", "start-service": "started augur_live_v4.py as process 4242"},
        "augur-executor: could not end 812",
        "would end process 812; start augur_live_v4.py",
    ),
    Scene(
        AnomalyType.PHANTOM_POSITION,
        Target("augur-positions", "trading"),
        PositionsData(True, 2, (Position("118", "BTC", "long"),)),
        PositionsData(True, 1),
        {"clear-phantom": "closed trade 118 (BTC long) in /srv/augur/live_trades.db"},
        "/srv/augur/live_trades.db is locked, all the time: nothing was written",
        "would set status to 'closed' in /srv/augur/live_trades.db: trade 118 (BTC long)",
    ),
    Scene(
        AnomalyType.PIPELINE_STUCK,
        Target("pipeline:task-014-login", "pipeline"),
        PipelineData("task-014-login", True, 3600.0, stage="build", title="Login with a key"),
        PipelineData("task-014-login", True, 3600.0, stage="test", title="Login with a key"),
        {"kick-pipeline": "pipeline-stage-done build task-014-login blocked: exit 0"},
        "pipeline-stage-done build task-014-login blocked: exit 2\nno such task",
        "would run pipeline-stage-done build task-014-login blocked to its end",
    ),
    Scene(
        AnomalyType.FLEET_UNREACHABLE,
        Target("fleet:nas", "fleet"),
        None,
        FleetData("10.0.0.5", 22),
        {"probe-again": "still not clear after 3 tries: try 1: timed out after 5 s; try 2: timed out after 5 s; try 3: "
         "timed out after 5 s"},
        "no answer within 10 s",
        "",
        ("fleet:db1", "fleet:db2", "fleet:edge", "fleet:mail", "fleet:vpn"),
    ),
    Scene(
        AnomalyType.DISK_PRESSURE,
        Target("disk:/", "host"),
        DiskData("/", 0.85, 0.95, used_share=0.91, size_bytes=100 * GIB, available_bytes=9 * GIB, full_in_s=18_000.0),
        DiskData("/", 0.85, 0.95, used_share=0.5, size_bytes=100 * GIB, available_bytes=50 * GIB),
        _ROTATED,
        "no configured log on / is older than its archive_after or larger than its max_size",
        "would archive 14 logs with 3.2 GiB to .archive/ beside them",
    ),
    Scene(
        AnomalyType.DISK_CRITICAL,
        Target("disk:/", "host"),
        DiskData("/", 0.85, 0.95, used_share=0.973, size_bytes=100 * GIB, available_bytes=2 * GIB, full_in_s=1_800.0),
        DiskData("/", 0.85, 0.95, used_share=0.5, size_bytes=100 * GIB, available_bytes=50 * GIB),
        _ROTATED | {"prune-files": "2310 files with 4.5 GiB removed"},
        "no configured log on / is older than its archive_after or larger than its max_size",
        "would archive 14 logs with 3.2 GiB to .archive/ beside them",
    ),
    Scene(
        AnomalyType.MEMORY_PRESSURE,
        Target("system-memory", "host"),
        MemoryData(430 * 1024**2, 16 * GIB, 512 * 1024**2, 256 * 1024**2),
        MemoryData(4 * GIB, 16 * GIB, 512 * 1024**2, 256 * 1024**2),
        {"record-memory": "430 MiB of 16 GiB are available; postgres (1201) holds 6.1 GiB, java (977) 3.4 GiB"},
        "/proc cannot be read",
    ),
    Scene(
        AnomalyType.MEMORY_CRITICAL,
        Target("system-memory", "host"),
        MemoryData(120 * 1024**2, 16 * GIB, 512 * 1024**2, 256 * 1024**2, stalled_share=0.4),
        MemoryData(4 * GIB, 16 * GIB, 512 * 1024**2, 256 * 1024**2),
        {"end-largest-process": "crunch (3301), which held 9.2 GiB: ended 3301"},
        "every process that holds much is protected: nothing was ended",
        "would end crunch (3301), which holds 9.2 GiB",
    ),
    Scene(
        AnomalyType.DB_CORRUPTION,
        Target("brain-db", "database", path="/s/brain.db", written=True),
        DatabaseData("/s/brain.db", Integrity.CORRUPT, "quick_check", ("page 7 is bad",)),
        DatabaseData("/s/brain.db", Integrity.OK, "quick_check"),
        {
            "halt-writes": f"{_HALT}. Copies go to /s/copies/brain-db",
            "backup-database": "raw copies with checksums are in /s/copies/brain-db/damaged-0308; no good copy of it "
            "can be made: page 7 is bad",
            "restore-database": "/s/brain.db is now the copy of 8 March, 06:00",
        },
        "healctl writes brain-db no more, but sqlite3 (5120) has the write lock and does not let go of it",
        "would put the copy of 8 March 06:00 in place of /s/brain.db",
    ),
    Scene(
        AnomalyType.LOG_BLOAT,
        Target("log-files", "logs"),
        LogsData(31, 2 * GIB, 100 * 1024**2, (LogFile("/var/log/app/web.log", 412 * 1024**2),)),
        LogsData(31, 200 * 1024**2, 100 * 1024**2, (LogFile("/var/log/app/web.log", 1024**2),)),
        {"rotate-logs": "archived /var/log/app/web.log with 412.0 MiB, 390.0 MiB are free again"},
        "/var/log/app: permission denied",
        "would archive 1 log with 412.0 MiB to .archive/ beside it",
    ),
    Scene(
        AnomalyType.GATEWAY_UNRESPONSIVE,
        Target("openclaw-gateway", "gateway", recipe=Recipe(("openclaw", "gateway", "restart"))),
        GatewayData(Endpoint.TIMEOUT, 2, 2, "health_url", detail="no answer within 5 s"),
        GatewayData(Endpoint.OK, 0, 2, "health_url"),
        {"restart-gateway": "openclaw gateway restart --json: exit 0; it says restarted"},
        "openclaw gateway restart --json: exit 1\nits service is not installed, nothing was restarted",
        "would run openclaw gateway restart --json to its end, at most 60 s",
        tuple(f"gateway-{n}" for n in range(2, 7)),
    ),
)  # fmt: skip


class Stage(Lab):
    """One scene. `ill`: the names whose probe reads badly; `heals_by`: the runbooks that help; none: none does."""

    def __init__(self, scene: Scene, *, policy: Policy | None = None, runbooks: tuple[Runbook, ...] = RUNBOOKS) -> None:
        self.scene = scene
        self.ill: set[str] = set()
        self.heals_by: frozenset[str] = frozenset()
        self.failing = ""
        self._said = 0
        given = policy or Policy()
        more = tuple(
            msgspec.structs.replace(scene.target, target_id=name, service="" if scene.target.service == "" else name)
            for name in scene.others
        )
        policy = msgspec.structs.replace(given, zone=BERLIN, pages=True)
        super().__init__(targets=(scene.target, *more), policy=policy, runbooks=runbooks)

    @property
    def name(self) -> str:
        return self.scene.target.target_id

    def instant(self) -> Instant:
        wall_s = self.now_s - START + WALL
        return Instant(steady_s=self.now_s, wall_s=wall_s, mono_s=self.now_s - START + 50.0)

    def reading(self, name: str, **changes: Any) -> HealthReading:
        ill = name in self.ill
        data = self.scene.bad if ill else self.scene.good
        at = self.instant()
        reading = HealthReading(
            name, self.scene.target.family, at.mono_s, at.wall_s, 1.0, 60_000, data is not None, data
        )
        if data is None:
            reading = msgspec.structs.replace(reading, reason=Unavailable.TIMEOUT, error="no answer within 5 s")
        return msgspec.structs.replace(reading, **changes)

    def _carry_out(self, effect: Effect) -> None:
        super()._carry_out(effect)
        if isinstance(effect, DeliverRow):
            self.feed(e.Delivered(effect.row.id, 1, "receipt", ""))

    def answer_plan(self, asked: Any) -> None:
        steps: tuple[dict[str, object], ...] = tuple(
            {"step_id": step.step_id, "description": self.scene.plan, "predicts_clear": True}
            for step in asked.execution.runbook.steps[:1]
        )
        self.feed(e.Planned(asked.token, asked.execution, () if self.plan_error else steps, self.plan_error))

    def run(self, execution: Execution) -> None:
        self.feed(e.ExecutionClaimed(execution.id, self.executor))
        steps = execution.runbook.steps
        for index, step in enumerate(steps):
            failed = self.failing == execution.runbook.id and index == len(steps) - 1
            last = failed or index == len(steps) - 1
            if last and not failed and execution.runbook.id in self.heals_by:
                self.ill.discard(execution.target.target_id)
            output = self.scene.fails if failed else self.scene.done.get(step.kind, "done")
            self.feed(e.StepEnded(execution.id, index, StepResult(step.step_id, not failed, output, 1.0), last))
            if last:
                return

    def falls_ill(self, *names: str) -> None:
        """All of it reads badly from now on, and is seen to, as often as the anomaly needs."""
        for name in names or (self.name,):
            if self.scene.anomaly is AnomalyType.PIPELINE_STUCK:
                self.poll(name)
                self.ill.add(name)
                self.poll(name)
                self.advance(3601.0)
            self.ill.add(name)
            self.poll(name)

    def gets_well(self, *names: str) -> None:
        for name in names or (self.name,):
            self.ill.discard(name)
            for _ in range(3):
                self.poll(name)
                self.advance(31.0)

    def from_here(self) -> None:
        """What was said so far leads up to what an outcome is about, and stands under another one."""
        self._said = len(self.messages())

    def said(self) -> list[OutboxRow]:
        return self.messages()[self._said :]


def as_sent(row: OutboxRow) -> str:
    if row.channel == "signal":
        return f"--- Signal, {row.kind}\n{message_text(row)}"
    return f"--- Synapse, {row.kind}, {row.priority}\nSubject: {row.subject}\n{row.body}"


# --- outcomes -------------------------------------------------------------------------------------------------------

BY_HAND = Policy(auto_execute=())
ALLOWED = Policy(auto_execute=tuple(runbook.id for runbook in RUNBOOKS), page_hold_s=60.0)
RUNBOOK_IDS = frozenset(runbook.id for runbook in RUNBOOKS if runbook.verifies)


def nothing_known(scene: Scene) -> Stage:
    stage = Stage(scene, runbooks=())
    stage.falls_ill()
    stage.advance(60)
    return stage


def asked(scene: Scene) -> Stage:
    stage = Stage(scene, policy=BY_HAND)
    stage.falls_ill()
    stage.advance(61)
    return stage


def healed(scene: Scene) -> Stage:
    stage = Stage(scene, policy=ALLOWED)
    stage.heals_by = RUNBOOK_IDS
    stage.falls_ill()
    stage.advance(200)
    return stage


def not_over_within_the_hold(scene: Scene) -> Stage:
    stage = Stage(scene, policy=ALLOWED)
    stage.hold_dispatch = True
    stage.falls_ill()
    stage.feed(e.ExecutionClaimed(stage.dispatched[0].id, stage.executor))
    stage.advance(61)
    return stage


def failed(scene: Scene) -> Stage:
    stage = Stage(scene, policy=ALLOWED)
    stage.failing = next(it.id for it in RUNBOOKS if scene.anomaly in it.applies_to)
    stage.falls_ill()
    stage.advance(61)
    return stage


def did_not_help(scene: Scene, host: str = "") -> Stage:
    stage = Stage(scene, policy=msgspec.structs.replace(ALLOWED, host=host))
    stage.falls_ill()
    stage.advance(61)
    return stage


def does_not_last(scene: Scene) -> Stage:
    """The breaker opens: three repairs within the hour did not hold."""
    stage = Stage(scene, policy=ALLOWED)
    for _ in range(3):
        stage.heals_by = RUNBOOK_IDS
        stage.falls_ill()
        stage.advance(120)
    stage.from_here()
    stage.heals_by = frozenset()
    stage.falls_ill()
    stage.advance(90)
    return stage


def interrupted(scene: Scene) -> Stage:
    stage = Stage(scene, policy=ALLOWED)
    stage.hold_dispatch = True
    stage.falls_ill()
    begun = stage.dispatched[0]
    stage.feed(e.ExecutionClaimed(begun.id, stage.executor))
    stage.feed(e.ExecutorIs(""))
    stage.executor = "exec-2"
    stage.feed(e.ExecutorIs("exec-2"))
    claimed = msgspec.structs.replace(begun, state=ExecutionState.CLAIMED, claimed_by="exec-1")
    stage.feed(e.ExecutionSeen(claimed))
    stage.feed(e.ExecutionSettled(begun.id, False, False, ("process 7 does not end",)))
    stage.advance(61)
    return stage


def many_at_once(scene: Scene) -> Stage | None:
    if not scene.others:
        return None
    stage = Stage(scene, policy=ALLOWED)
    stage.falls_ill(scene.target.target_id, *scene.others)
    stage.advance(120)
    return stage


def reminded(scene: Scene) -> Stage:
    stage = Stage(scene, runbooks=())
    stage.falls_ill()
    stage.advance(60)
    stage.from_here()
    stage.advance(30 * 3600.0)
    return stage


def over_by_itself(scene: Scene) -> Stage:
    stage = Stage(scene, runbooks=())
    stage.falls_ill()
    stage.advance(600)
    stage.from_here()
    stage.gets_well()
    return stage


def over_once_approved(scene: Scene) -> Stage | None:
    stage = Stage(scene, policy=BY_HAND)
    stage.falls_ill()
    stage.advance(600)
    stage.from_here()
    stage.heals_by = RUNBOOK_IDS
    runbooks = [it for it in RUNBOOKS if scene.anomaly in it.applies_to]
    stage.order("approve", runbook_id=runbooks[-1].id, target_id=stage.name)
    stage.advance(200)
    return stage if stage.only(stage.name).state is State.RESOLVED else None


def paused(scene: Scene) -> Stage:
    stage = Stage(scene, policy=ALLOWED)
    stage.order("pause", target_id=stage.name, for_s=7200.0, reason="moving the disk")
    stage.falls_ill()
    stage.advance(61)
    return stage


def fails_again_once_approved(scene: Scene) -> Stage:
    """What was approved does not help: it is demoted."""
    stage = Stage(scene, policy=BY_HAND)
    for runbook in RUNBOOKS:
        if scene.anomaly in runbook.applies_to:
            stage.order("approve", runbook_id=runbook.id, target_id=stage.name)
    stage.falls_ill()
    stage.advance(61)
    return stage


def graduates(scene: Scene) -> Stage:
    stage = Stage(scene, policy=BY_HAND)
    for _ in range(2):
        stage.falls_ill()
        stage.advance(30)
        stage.gets_well()
        stage.advance(4000)
    stage.from_here()
    stage.heals_by = RUNBOOK_IDS
    stage.falls_ill()
    stage.advance(120)
    return stage


OUTCOMES: dict[str, Callable[[Scene], Stage | None]] = {
    "healctl knows no repair": nothing_known,
    "its repair waits for approval": asked,
    "repaired": healed,
    "no outcome within the hold": not_over_within_the_hold,
    "the repair failed": failed,
    "the repair did not help": did_not_help,
    "repairs do not last": does_not_last,
    "the repair was interrupted": interrupted,
    "many at once": many_at_once,
    "paused by a person": paused,
    "nobody has answered": reminded,
    "over by itself": over_by_itself,
    "over once approved": over_once_approved,
    "what was approved did not help": fails_again_once_approved,
    "three dry runs in a row would have helped": graduates,
}
