"""The words of the domain, as frozen values: verdicts, runbooks, incidents, executions, messages.

Readings stand in `readings.py`, what is written of a decision in `records.py`, what is sent in `supervisor.messages`.
Times ending in `_steady_s` are `Instant.steady_s`; those ending in `_wall_s` are seconds since the epoch (see
`supervisor.clock`).
"""

from __future__ import annotations

import hashlib
from enum import IntEnum, StrEnum

import msgspec

from supervisor.incidents import open_names
from supervisor.incidents.readings import HealthReading, ProcessRef
from supervisor.incidents.readings import Severity as Severity
from supervisor.incidents.readings import Status as Status


class Instant(msgspec.Struct, frozen=True):
    """A moment (seconds): `steady_s` for durable arithmetic, `wall_s` for display, `mono_s` to compare with readings.

    `supervisor.clock` makes them and says how the three differ.
    """

    steady_s: float
    wall_s: float
    mono_s: float


class AnomalyType(StrEnum):
    """What can be wrong with a target: FR-002's thirteen, then those of our own house. A plugin's are called
    `FAMILY.NAME`, and are members like any other (`open_names`)."""

    @classmethod
    def _missing_(cls, value: object) -> AnomalyType | None:
        member = open_names.opened(cls, value, open_names.ANOMALY)
        assert member is None or isinstance(member, AnomalyType)
        return member

    PROCESS_DEAD = "process_dead"
    PROCESS_ZOMBIE = "process_zombie"
    SIGNAL_STALE = "signal_stale"
    PHANTOM_POSITION = "phantom_position"
    PIPELINE_STUCK = "pipeline_stuck"
    FLEET_UNREACHABLE = "fleet_unreachable"
    DISK_PRESSURE = "disk_pressure"
    DISK_CRITICAL = "disk_critical"
    MEMORY_PRESSURE = "memory_pressure"
    MEMORY_CRITICAL = "memory_critical"
    DB_CORRUPTION = "db_corruption"
    LOG_BLOAT = "log_bloat"
    GATEWAY_UNRESPONSIVE = "gateway_unresponsive"
    # Ours: the healer's own parts are targets like any other (DESIGN §1, R9).
    WORKER_QUARANTINED = "worker_quarantined"
    WORKER_FAILING = "worker_failing"  # it keeps dying, though not often enough to be set aside
    ITEM_QUARANTINED = "item_quarantined"
    PROBE_UNAVAILABLE = "probe_unavailable"
    DELIVERY_FAILING = "delivery_failing"
    LEDGER_NEAR_LIMIT = "ledger_near_limit"
    LEDGER_DAMAGED = "ledger_damaged"  # it was set aside, and a new one begun
    LIMIT_REACHED = "limit_reached"
    BACKUP_OVERDUE = "backup_overdue"  # no good copy of a database that we write for two days
    DEAD_MAN_FAILING = "dead_man_failing"  # our pings of the watcher outside do not arrive
    DRILL = "drill"  # made up: nothing is wrong (`drill_run`)
    DRILL_FAILED = "drill_failed"


class State(StrEnum):
    """FR-004's states; the legal transitions between them are `lifecycle.TRANSITIONS`."""

    DETECTED = "detected"
    DIAGNOSING = "diagnosing"
    REMEDIATING = "remediating"
    VERIFYING = "verifying"
    REMEDIATION_FAILED = "remediation_failed"
    ESCALATED = "escalated"
    RESOLVED = "resolved"
    SELF_RESOLVED = "self_resolved"
    DISMISSED = "dismissed"


_CLOSED = (State.RESOLVED, State.SELF_RESOLVED, State.DISMISSED)


class Tier(IntEnum):
    """R1. Tier 0 is silent, 1 informs, 2 asks, 3 pages."""

    SILENT = 0
    INFORM = 1
    ASK = 2
    PAGE = 3


class Effect(StrEnum):
    """R3: what a step does to the world, from harmless to irreversible."""

    OBSERVE = "observe"
    PROTECT = "protect"
    CHANGE = "change"
    DESTROY = "destroy"


class Mode(StrEnum):
    """FR-006: a runbook only tells what it would do, or does it by itself."""

    DRY_RUN = "dry_run"
    AUTO_EXECUTE = "auto_execute"


class Verdict(msgspec.Struct, frozen=True):
    """`classify`'s answer for one anomaly type of one target. `evidence` and `hint` are plain words for people."""

    target_id: str
    family: str
    anomaly: AnomalyType
    status: Status
    severity: Severity
    evidence: str
    hint: str
    not_running: bool = False  # R3 (c): nothing of this target is alive
    process: ProcessRef | None = None  # the live process seen, for R6's "still the same"


# --- targets and runbooks ------------------------------------------------------------------------------------------


class Recipe(msgspec.Struct, frozen=True):
    """How a service is started again: the target's own configuration, never text from a reading (R11).

    `output` is the file its stdout and stderr are appended to; empty: output/TARGET.log in the state directory.
    `manager` is who runs the service ("systemd" | "pm2"; "" when it is started directly): then `argv` asks that one to
    restart it, and is over when it has. `before` is run first, and may fail (a unit's start limit is reset).
    """

    argv: tuple[str, ...]
    cwd: str = ""
    env: tuple[tuple[str, str], ...] = ()
    output: str = ""
    manager: str = ""
    before: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True):
    """What the engine knows of a target: its family, and what its owner has reviewed in writing (R3 c).

    `pid_file` and `match` are the target's own, by which the executor finds what is alive (`supervisor.identify`).
    `path` is a database's file; `written`: healctl itself writes it, so that it is halted and backed up (R10).
    `timeouts_s`: by the kind of step, what its own table says instead of the runbook.
    `service` is the process target that stands behind it, where that is another one: recipe, pid_file and match are
    then that service's, and so is the lock (DESIGN §2.7: two incidents about one service never act on it at once).
    """

    target_id: str
    family: str
    auto_restart: bool = False
    recipe: Recipe | None = None
    pid_file: str = ""
    match: str = ""
    path: str = ""
    written: bool = False
    service: str = ""
    timeouts_s: tuple[tuple[str, float], ...] = ()

    @property
    def service_id(self) -> str:
        """The service that a repair of this target touches."""
        return self.service or self.target_id

    @property
    def recipe_hint(self) -> str:
        """What to write into the configuration so that it can be restarted."""
        if self.family == "trading" and not self.service:
            return f"set process in [trading.{self.target_id.rpartition('-')[0]}] to the [process.NAME] behind it"
        table = "process" if self.service else self.family
        return f'add `restart = {{ argv = ["..."] }}` to [{table}.{self.service_id}]'

    @property
    def sought(self) -> tuple[str, str]:
        """By what its processes are found: by others it is another program."""
        return self.pid_file, self.match


class StageEntry(msgspec.Struct, frozen=True):
    """Since when a pipeline's task has stood in its stage: durable, since no file of the site says it (SITE.md)."""

    target_id: str
    stage: str
    entered_steady_s: float
    entered_wall_s: float


AGENT = "agent:"  # begins the name of an actor that is none of a person's
MANUAL = "manual"  # the kind of step that only a person can do
PLUGIN = "plugin"  # the kind of every step that a plugin brings; which one stands in its parameters
SHIPPED = "healctl"  # the author of the runbooks that come with it

ParamValue = str | int | float | bool | tuple[str, ...]


class StepSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a runbook: a registered kind with its parameters. `timeout_s` overrides the default of 30 s.

    `params` are (name, value) pairs, checked against the kind's own `Params` when the runbook is registered.
    """

    step_id: str
    kind: str
    effect: Effect
    idempotent: bool = False
    timeout_s: float = 30.0
    params: tuple[tuple[str, ParamValue], ...] = ()


class Runbook(msgspec.Struct, frozen=True, omit_defaults=True):
    """FR-003. `resource` is what it locks (DESIGN §2.7): `{target}` stands for the target's id, `{service}` for that of
    the service behind it. `author`: "healctl" for a shipped one, else who wrote it. `targets`: the only ones that it is
    for; none: all. `before`: the runbook in front of which it is tried; none: behind all that are shipped."""

    id: str
    label: str
    applies_to: tuple[AnomalyType, ...]
    steps: tuple[StepSpec, ...]
    resource: str
    confidence: float = 0.5
    starts_service: bool = False  # R3 (c) applies: it starts a known service that is not running
    summary: bool = False
    verifies: bool = True
    author: str = SHIPPED
    targets: tuple[str, ...] = ()
    before: str = ""
    once: bool = False  # an approval counts for the incidents that are open when it is given, never for a later one

    def only_protects(self) -> bool:
        """R3 (a): its steps read, or are safeguards that can be taken back; what an operator's own does, only its text
        tells."""
        return self.author == SHIPPED and all(step.effect in (Effect.OBSERVE, Effect.PROTECT) for step in self.steps)

    def version(self) -> str:
        """The hash that approvals and executions record: of what it does, not of who wrote it."""
        text = msgspec.json.encode(msgspec.structs.replace(self, author=SHIPPED), order="deterministic")
        return hashlib.sha256(text).hexdigest()[:12]

    def suits(self, anomaly: AnomalyType, target_id: str) -> bool:
        """Is it a runbook for this anomaly of this target? One with steps that only a person can do is for no one, and
        a drill is the shipped one's alone."""
        if anomaly is AnomalyType.DRILL and self.author != SHIPPED:
            return False
        return anomaly in self.applies_to and self.is_for(target_id) and not self.by_hand

    @property
    def by_hand(self) -> bool:
        """Not all of it can be run: it is a note for people."""
        return any(step.kind == MANUAL for step in self.steps)

    @property
    def foreign(self) -> bool:
        """A plugin's code acts in it: it never runs by itself before a person has approved it."""
        return any(step.kind == PLUGIN for step in self.steps)

    def is_for(self, target_id: str) -> bool:
        return not self.targets or target_id in self.targets


class Streak(msgspec.Struct, frozen=True):
    """R4: in how many consecutive incidents of this type the dry run predicted the cure; `incident_id` was the last."""

    anomaly: AnomalyType
    count: int
    incident_id: str


class RunbookState(msgspec.Struct, frozen=True):
    """What has been decided about a runbook, for one target or (`target_id == "*"`) for all (R3 d, R4, R5)."""

    runbook_id: str
    target_id: str
    mode: Mode
    confidence: float
    version: str
    approved_at_wall_s: float | None = None
    dry_run_count: int = 0  # the longest of `streaks`
    successes: int = 0
    failures: int = 0
    last_executed_wall_s: float | None = None
    last_succeeded_wall_s: float | None = None
    demoted: bool = False  # for this target, whatever holds for all (R4)
    streaks: tuple[Streak, ...] = ()  # of this version
    taken_back: bool = False  # a person has undone its last run here: not even the whitelist lets it run again


# --- incidents -----------------------------------------------------------------------------------------------------


class ActedBy(StrEnum):
    NOBODY = "nobody"
    RUNBOOK = "runbook"
    PERSON = "person"


class TierReason(StrEnum):
    """Why an incident stands at its tier: a decision returns a reason, not a bool."""

    VERIFIED_SILENTLY = "verified_silently"
    SUMMARY_ASKED = "summary_asked"
    NEEDS_APPROVAL = "needs_approval"
    CRITICAL = "critical"
    NO_RUNBOOK = "no_runbook"
    REMEDIATION_FAILED = "remediation_failed"
    VERIFICATION_FAILED = "verification_failed"
    INTERRUPTED = "interrupted"
    BREAKER_OPEN = "breaker_open"
    CANARY_FAILED = "canary_failed"
    AT_ONCE = "at_once"  # many of its family fail together: the likely cause is the network, or us
    TELLS_ONLY = "tells_only"
    CANNOT_EXECUTE = "cannot_execute"
    PAUSED = "paused"  # a person has told healctl to leave it alone (R15)
    CANCELLED = "cancelled"  # a person has stopped what ran: nothing follows by itself (R15)


class DryRun(msgspec.Struct, frozen=True):
    """What a runbook would have done about an incident (FR-003, R4). `error`: why there is no plan; else empty.

    `predicts_clear`: every step's plan sees nothing that would make it fail. `steps` is what they say, in words.
    """

    runbook_id: str
    version: str
    predicts_clear: bool
    steps: str = ""
    error: str = ""


class Incident(msgspec.Struct, frozen=True):
    """FR-004: one anomaly of one target, from detection to its end. At most one is open per (anomaly, target)."""

    id: str
    anomaly: AnomalyType
    target_id: str
    family: str
    severity: Severity
    state: State
    detected_steady_s: float
    detected_wall_s: float
    changed_wall_s: float
    last_seen_wall_s: float
    detections: int = 1
    evidence: str = ""
    hint: str = ""
    runbook_id: str | None = None
    execution_id: str | None = None  # the newest
    tier: Tier = Tier.SILENT
    tier_reason: TierReason | None = None
    escalated_wall_s: float | None = None
    resolved_wall_s: float | None = None
    dismiss_until_steady_s: float | None = None
    dismiss_until_wall_s: float | None = None
    acted_by: ActedBy = ActedBy.NOBODY
    intermittent: bool = False
    clear_readings: int = 0
    clear_counted_steady_s: float | None = None  # when the newest of them was counted
    clear_basis_steady_s: float | None = None  # when its check began
    waiting_for: str = ""  # why nothing is running although something may (a lock, a canary, a hold), in words
    held_as_canary: bool = False  # it waits until the first repairs of its family have verified
    held_by_pause: bool = False  # it would have been repaired, but for a person's pause
    page_id: str | None = None  # the outbox row of its Signal page, which may cover others too, or not be written yet
    told_in: str = ""  # the outbox row in which its end, or that it still is, is told together with others
    acknowledged_wall_s: float | None = None
    repeats: int = 0
    trail_length: int = 0
    outside: bool = False  # a reading from outside opened it, and no probe of ours has confirmed it yet
    spent: tuple[str, ...] = ()  # runbooks that ran for it and did not end it: the next rung is another (ladder)
    dry_runs: tuple[DryRun, ...] = ()
    well_wall_s: float | None = None  # when the last look of our probe began that was well: it broke after that
    looked_wall_s: float | None = None  # when the look began that found it: it had broken by then

    @property
    def open(self) -> bool:
        return self.state not in _CLOSED


class TrailEntry(msgspec.Struct, frozen=True):
    """One line of the audit trail (R14): SITE.md's {timestamp, state, actor, note, step_id?, ...}."""

    incident_id: str
    n: int
    at_wall_s: float
    state: State
    actor: str
    note: str
    step_id: str | None = None
    execution_id: str | None = None
    success: bool | None = None
    output: str | None = None
    duration_ms: float | None = None
    reading: HealthReading | None = None  # on which this entry rests: for replay (R4), not for people
    stage: StageEntry | None = None  # what was known besides it, of a pipeline's task


# --- executions ----------------------------------------------------------------------------------------------------


class ExecutionState(StrEnum):
    INTENDED = "intended"  # durable, not yet claimed
    CLAIMED = "claimed"  # one incarnation of the executor works on it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"  # nobody claimed it in time: a new decision is needed
    INTERRUPTED = "interrupted"  # its executor died while it was claimed (DESIGN §2.3)


class Authority(StrEnum):
    """R3: on what grounds an execution runs."""

    HARMLESS = "harmless"  # (a)
    WHITELIST = "whitelist"  # (b)
    NOT_RUNNING = "not_running"  # (c): may never end a live process
    APPROVED = "approved"  # (d)
    PERSON = "person"  # `execute --confirm`


class Program(msgspec.Struct, frozen=True):
    """A program that an execution started; durable before it runs its first instruction (DESIGN §2.3)."""

    step_id: str
    process: ProcessRef
    argv: tuple[str, ...]


class StepResult(msgspec.Struct, frozen=True):
    step_id: str
    success: bool
    output: str
    duration_ms: float
    artifacts: tuple[str, ...] = ()
    process: ProcessRef | None = None  # what the step started
    undo: str = ""  # what the step's undo needs, as JSON of its own (R15); empty: there is nothing to undo
    cleared: bool = False  # a fresh reading that the step asked for says that the anomaly is over
    cancelled_by: str = ""  # who had it stopped; then it is no success, and no failure of the runbook's


class Execution(msgspec.Struct, frozen=True):
    """One intent to run a runbook for a target, once. `expires_mono_s`: not claimed by then, never run.

    `grounds_mono_s` is when the check began on which it rests; the executor refuses grounds older than 5 s. A
    person's `execute` needs none (FR-007): then it is None.
    """

    id: str
    incident_id: str | None
    runbook: Runbook
    version: str
    target: Target
    resource: str
    authority: Authority
    state: ExecutionState
    created_steady_s: float
    created_wall_s: float
    boot_id: str
    expires_mono_s: float
    grounds_mono_s: float | None
    claimed_by: str = ""
    programs: tuple[Program, ...] = ()
    results: tuple[StepResult, ...] = ()
    ended_wall_s: float | None = None
    verified: bool | None = None  # None: not yet known, or nothing to verify
    verify_deadline_steady_s: float | None = None  # R6: set when the last step ended
    settling: ProcessRef | None = None  # R6: the process that must still be there after `settle`
    settled_steady_s: float | None = None  # from when on it may count as settled
    deaths: int = 0  # how often the executor died with it in work
    known: ProcessRef | None = None  # the process that was last seen to be the service: nothing starts while it lives
    exit_text: str = ""  # what it left running has ended with a failure: how, and its last words
    reading: HealthReading | None = None  # what was known of the target when it was decided: the grounds, as evidence
    undoes: str = ""  # the execution whose steps this one takes back, the last first (R15)
    taken_back: tuple[StepResult, ...] = ()  # what those steps had reported, one for each step of this runbook
    cancelled_by: str = ""  # who has had it stopped: whatever becomes of it, nothing follows by itself (R15)
    cancel_order: str = ""  # whose order that was (its token), until whoever is at it has agreed

    @property
    def steps(self) -> tuple[StepSpec, ...]:
        """The runbook's steps with the timeouts that hold for this target: one number for executor and engine."""
        own = dict(self.target.timeouts_s)
        return tuple(
            msgspec.structs.replace(step, timeout_s=own[step.kind]) if step.kind in own else step
            for step in self.runbook.steps
        )

    @property
    def to_be_proved(self) -> bool:
        """Has the probe the last word? It has, too, where a runbook that only tells has met a target that is well."""
        return self.runbook.verifies or any(result.cleared for result in self.results)

    @property
    def cancelled(self) -> bool:
        """Has a person had it stopped (R15)? It may have done its work all the same."""
        return bool(self.cancelled_by) or any(result.cancelled_by for result in self.results)


def is_over(execution: Execution) -> bool:
    """Ended, and nothing about it is still to be verified: its resource is free."""
    match execution.state:
        case ExecutionState.INTENDED | ExecutionState.CLAIMED | ExecutionState.INTERRUPTED:
            return False
        case ExecutionState.SUCCEEDED:
            return execution.verified is not None or not execution.to_be_proved
        case _:
            return True


# --- messages to people --------------------------------------------------------------------------------------------


class Channel(StrEnum):
    """Ours; a plugin's is called by its name, and is a member like any other (`open_names`)."""

    SYNAPSE = "synapse"
    SIGNAL = "signal"

    @classmethod
    def _missing_(cls, value: object) -> Channel | None:
        member = open_names.opened(cls, value, open_names.NAME)
        assert member is None or isinstance(member, Channel)
        return member


OURS = frozenset(Channel)  # any other is a plugin's


class OutboxState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    QUARANTINED = "quarantined"


class OutboxRow(msgspec.Struct, frozen=True):
    """One message to people. It stays until a receipt is recorded; nothing marks it sent without one."""

    id: str
    incident_id: str | None
    covers: tuple[str, ...]  # the incidents it speaks of
    channel: Channel
    tier: Tier
    kind: str  # page | outcome | closing | repeat | summary | approval | drill
    priority: str  # info | action | urgent (SITE.md)
    subject: str
    body: str
    created_wall_s: float
    state: OutboxState = OutboxState.PENDING
    attempts: int = 0
    last_error: str = ""
    receipt: str = ""
    delivered_wall_s: float | None = None
    offer_id: str = ""  # whose code it carries, and what a reply that quotes it is about
    to: str = ""  # on Signal the one who asked; empty: the recipient that is configured
    held: bool = False  # it waits for the end of the quiet hours (`quiet`), and nobody delivers it until then


class Metric(msgspec.Struct, frozen=True):
    """FR-008, in SITE.md's form: {task_id = metric name, stage, result}."""

    id: str
    name: str
    stage: str
    result: str
    at_wall_s: float
    incident_id: str | None = None


# FR-008's eight.
METRICS = (
    "heal_anomaly_detected",
    "heal_remediation_started",
    "heal_remediation_success",
    "heal_remediation_failed",
    "heal_escalation_fired",
    "heal_signal_sent",
    "heal_runbook_created",
    "heal_runbook_graduated",
)


class Tally(msgspec.Struct, frozen=True):
    """How often something was, since the ledger began: what `Metric`s of one kind add up to, however old they are.

    Of durations (a histogram) `sum_s` is their sum, and `buckets` how many were no longer than each of `BUCKETS_S` but
    longer than the one before; what was longer than all is in `count` alone.
    """

    name: str
    stage: str
    result: str
    count: int
    sum_s: float = 0.0
    buckets: tuple[int, ...] = ()


# From the millisecond that a death takes to be seen to what a message may take that nobody receives.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class TimerKind(StrEnum):
    VERIFY = "verify"  # probe again while verifying
    PAGE_HOLD = "page_hold"  # R2
    REPEAT = "repeat"  # R2: the page again, unacknowledged
    EXPIRE = "expire"  # an intent that nobody claimed
    HALF_OPEN = "half_open"  # a breaker allows one more try
    STUCK = "stuck"  # a task will have stood in its stage too long: probe it (AC-002)
    OWN = "own"  # look after our own house again
    PLAN = "plan"  # an incident waits for its dry runs no longer
    RECHECK = "recheck"  # probe an open incident again (R7), or one that waits
    BACKUP = "backup"  # the next good copy of a database that we write
    BACKUP_OVERDUE = "backup_overdue"  # by then one must have been made
    PROPOSED = "proposed"  # whoever recorded a fix waits to hear that its message has arrived
    REQUEST_OVER = "request_over"  # an agent's request has waited for a person too long
    CHECK_COPY = "check_copy"  # after a start: is the newest good copy of a database still what it was?
    PAUSE_OVER = "pause_over"  # a person's pause has run its time
    QUIET = "quiet"  # the quiet hours end: what waits for that leaves
    PAGED = "paged"  # this Signal message counts for the next two minutes (pages)
    GATHER = "gather"  # what waits to be told in this outbox row leaves
    STORM = "storm"  # so many grouped messages of a storm have left; it is over when this is due
    LULL = "lull"  # what was detected ten minutes before this is due, or later, is no part of the storm
    URGENT = "urgent"  # this page left by itself in the middle of a storm
    DRILL = "drill"  # a drill has taken too long, or the next one of the schedule is due


class Timer(msgspec.Struct, frozen=True):
    """A durable alarm: `subject` is the incident, execution or breaker it is for. One per (kind, subject)."""

    kind: TimerKind
    subject: str
    due_steady_s: float


class Breaker(msgspec.Struct, frozen=True):
    """An open (or half-open) breaker of (runbook, resource), or of a whole runbook (`resource == "*"`)."""

    runbook_id: str
    resource: str
    opened_steady_s: float
    opened_wall_s: float
    half_open_steady_s: float
    reason: str
    half_open: bool = False
    trial: str = ""  # the execution that is the half-open breaker's one try


class FamilyPause(msgspec.Struct, frozen=True):
    """Automatic `change` is paused for a family: its canaries failed, or the cause is likely ours (DESIGN §2.8)."""

    family: str
    since_wall_s: float
    reason: str


class HaltPhase(StrEnum):
    """R10: who may write a halted database. Nobody while it is HELD; RESTORING, the program that restores it."""

    HELD = "held"
    RESTORING = "restoring"


class Halt(msgspec.Struct, frozen=True):
    """R10: the writing of a database that we write has stopped; it stands until a check that began later reads well."""

    database: str
    path: str
    since_wall_s: float
    phase: HaltPhase
    incident_id: str | None
    why: str
    since_steady_s: float = 0.0  # by which a check is older or newer: the wall clock may be set back
