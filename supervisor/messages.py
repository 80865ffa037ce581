"""Everything that crosses a process boundary: versioned msgspec unions, nothing else.

Two wires:

* root <-> child: `Up` / `Down` over an inherited SOCK_SEQPACKET pair, one message a packet.
* worker <-> worker and command line <-> healer: `Frame`s over ZeroMQ (see `supervisor.bus`).

Every message may be lost, doubled or late (DESIGN §2.2). What must arrive is re-sent until it is answered (`re` names
the frame it answers); what acts is idempotent by the id of a durable row, never by the frame.

Who talks to whom: probes, executor and notifier connect to the healer; the executor and the healer to the store; the
command line to the healer's control socket; the healer publishes `Event`s.
"""

from __future__ import annotations

import msgspec

from supervisor.clock import Anchor
from supervisor.errands import GuardedWrite as GuardedWrite
from supervisor.errands import ReadNow as ReadNow
from supervisor.errands import ReadSays as ReadSays
from supervisor.incidents.model import Execution, OutboxRow, Program, StepResult
from supervisor.incidents.orders import SignalReply
from supervisor.incidents.readings import HealthReading, ProcessRef, SourceReading
from supervisor.incidents.records import Record, Snapshot
from supervisor.past import AuditFound as AuditFound
from supervisor.past import FetchAudit as FetchAudit
from supervisor.past import FetchHistory as FetchHistory
from supervisor.past import FetchIncident as FetchIncident
from supervisor.past import FetchReport as FetchReport
from supervisor.past import FetchTrail as FetchTrail
from supervisor.past import HistoryFound as HistoryFound
from supervisor.past import IncidentFound as IncidentFound
from supervisor.past import ReportFound as ReportFound
from supervisor.past import TrailFound as TrailFound
from supervisor.standing import Family as Family
from supervisor.standing import FetchMetrics as FetchMetrics
from supervisor.standing import Listening as Listening
from supervisor.standing import MetricsFound as MetricsFound
from supervisor.standing import Pinged as Pinged
from supervisor.standing import PingNow as PingNow
from supervisor.standing import ProjectionStatus as ProjectionStatus
from supervisor.standing import Sample as Sample
from supervisor.standing import StoreStatus as StoreStatus
from supervisor.uplink import Alarm as Alarm
from supervisor.uplink import Beat as Beat
from supervisor.uplink import Down as Down
from supervisor.uplink import Finished as Finished
from supervisor.uplink import Holds as Holds
from supervisor.uplink import Ready as Ready
from supervisor.uplink import Refusal as Refusal
from supervisor.uplink import Reload as Reload
from supervisor.uplink import Reloaded as Reloaded
from supervisor.uplink import Round as Round
from supervisor.uplink import Stop as Stop
from supervisor.uplink import TreeEvent as TreeEvent
from supervisor.uplink import TreeKind as TreeKind
from supervisor.uplink import Up as Up
from supervisor.uplink import Working as Working
from supervisor.wire import MESSAGE_BYTES_MAX as MESSAGE_BYTES_MAX
from supervisor.wire import VERSION as VERSION
from supervisor.wire import Ack as Ack
from supervisor.wire import Event as Event
from supervisor.wire import Hello as Hello
from supervisor.wire import Nack as Nack
from supervisor.wire import Reply as Reply
from supervisor.wire import Request as Request
from supervisor.working import AtWork as AtWork
from supervisor.working import Cancel as Cancel

# --- probes <-> healer ---------------------------------------------------------------------------------------------


class Readings(msgspec.Struct, frozen=True, tag="readings"):
    """Probe -> healer: new readings, acked. As the answer to ProbeNow (`re`), exactly the one asked for."""

    readings: tuple[HealthReading, ...]


class ProbeNow(msgspec.Struct, frozen=True, tag="probe_now"):
    """Healer -> probe: read this target now; answered by Readings within 5 s, or Nack when it is not ours."""

    target_id: str  # to the store, unacked: the ledger, which the `database` probe has just called corrupt


class Resync(msgspec.Struct, frozen=True, tag="resync"):
    """Healer -> probe, acked: a new healer knows nothing; read every target now and send it."""


class Known(msgspec.Struct, frozen=True, tag="known_processes"):
    """Healer -> the `process` family, acked: by target the processes last seen to be it, as the ledger has them."""

    processes: dict[str, ProcessRef]


class Outside(msgspec.Struct, frozen=True, tag="outside"):
    """Healer -> probe, answered by Ack, or Nack with what is wrong: a reading that was handed in from outside."""

    reading: SourceReading


# --- executor <-> store, executor <-> healer -----------------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """Executor -> store: compare-and-set `intended` -> `claimed` by this incarnation; answered by ClaimAnswer.

    Asking again with the same incarnation is granted again (the first answer may have been lost).
    """

    execution_id: str
    incarnation: str


class ClaimAnswer(msgspec.Struct, frozen=True, tag="claim_answer"):
    granted: bool
    reason: str = ""


class ProgramStarted(msgspec.Struct, frozen=True, tag="program_started"):
    """Executor -> store, acked when durable: only then is the gate opened and the program runs (DESIGN §2.3)."""

    execution_id: str
    program: Program


class Dispatch(msgspec.Struct, frozen=True, tag="dispatch"):
    """Healer -> executor, acked on receipt: run this execution, once."""

    execution: Execution


class Claimed(msgspec.Struct, frozen=True, tag="claimed"):
    """Executor -> healer, acked: the claim was granted; the work begins."""

    execution_id: str
    incarnation: str


class StepReport(msgspec.Struct, frozen=True, tag="step_report"):
    """Executor -> healer, acked when durable: step `index` ended. The next begins after the ack; `last` ends it all.

    A failed step is the last, unless the runbook only protects.
    """

    execution_id: str
    index: int
    result: StepResult
    last: bool


class ExecutionRefused(msgspec.Struct, frozen=True, tag="execution_refused"):
    """Executor -> healer, acked: nothing was run.

    `code`: expired | stale_grounds | not_claimed | quarantined | no_recipe.
    """

    execution_id: str
    code: str
    message: str


class ProgramExited(msgspec.Struct, frozen=True, tag="program_exited"):
    """Executor -> healer, acked: a program that a finished step had left running ended early with a failure.

    Evidence only: verification decides what it means.
    """

    execution_id: str
    step_id: str
    exit_text: str
    output: str


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """Healer -> executor, answered by Settled: an interrupted execution's programs are ended or awaited."""

    execution: Execution


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """`ended`: one line per program, what was found and done. `ok`: none is left in the middle of its work.

    `running`: a service that was started (or its starter) is alive: it may not be started a second time.
    """

    execution_id: str
    ok: bool
    ended: tuple[str, ...]
    running: bool = False


class PlanRequest(msgspec.Struct, frozen=True, tag="plan_request"):
    """Healer -> executor, answered by PlanAnswer: what would these steps do? Reads only (FR-003 dry run)."""

    execution: Execution


class StepPlan(msgspec.Struct, frozen=True):
    """`frees_bytes`: how much room it would make, where that is what it is for."""

    step_id: str
    description: str
    predicts_clear: bool
    artifacts: tuple[str, ...] = ()
    frees_bytes: int = 0


class PlanAnswer(msgspec.Struct, frozen=True, tag="plan_answer"):
    ok: bool
    steps: tuple[StepPlan, ...]
    error: str = ""


# --- notifier <-> healer -------------------------------------------------------------------------------------------


class Deliver(msgspec.Struct, frozen=True, tag="deliver"):
    """Healer -> notifier, acked on receipt: keep trying until there is a receipt (R2, DESIGN §5)."""

    row: OutboxRow


class DeliveryReport(msgspec.Struct, frozen=True, tag="delivery_report"):
    """Notifier or store -> healer, acked when durable: one attempt's outcome. `receipt` is set exactly on success."""

    row_id: str
    attempts: int
    receipt: str = ""
    error: str = ""


class ReplyReceived(msgspec.Struct, frozen=True, tag="reply_received"):
    """Notifier -> healer, acked when what came of it is durable: somebody has written to the account that pages.

    Sent again, and after a restart of either side too: it is known by its sender and the sender's time.
    """

    reply: SignalReply


# --- healer <-> store ----------------------------------------------------------------------------------------------


class OpenEpoch(msgspec.Struct, frozen=True, tag="open_epoch"):
    """Healer -> store, answered by EpochOpened: from now on only decisions of the new epoch are taken.

    `incarnation` makes asking again harmless: the same incarnation gets the same epoch. The windows say how far back
    the snapshot's `recent_executions` and `recent_closed` reach (seconds before now, by the steady clock). `anchor`:
    the clock of a healer that goes on; a ledger that has just been begun anew goes on with it.
    """

    incarnation: str
    executions_window_s: float
    closed_window_s: float
    anchor: Anchor | None = None


class EpochOpened(msgspec.Struct, frozen=True, tag="epoch_opened"):
    """`anchor`: the ledger's clock, which the healer goes on with (the store made it durable before answering)."""

    snapshot: Snapshot
    anchor: Anchor


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Healer -> store, acked when durable: one decision, one transaction. Idempotent by (epoch, n); n has no gaps.

    Nacked with `new_ledger` when the ledger never had this epoch: the old one was damaged. Then the healer opens an
    epoch and writes down what it has in memory, first of all and marked `seed`: it replaces what was salvaged.
    """

    epoch: int
    n: int
    records: tuple[Record, ...]
    seed: bool = False


class FetchExecution(msgspec.Struct, frozen=True, tag="fetch_execution"):
    """Healer -> store: an execution as the ledger has it, claim and programs too. Answer: ExecutionFound or Nack."""

    execution_id: str


class ExecutionFound(msgspec.Struct, frozen=True, tag="execution_found"):
    """`undone_by`: the execution that has taken it back (R15), empty when none has."""

    execution: Execution
    undone_by: str = ""


class Acks(msgspec.Struct, frozen=True, tag="acks"):
    """Store -> whoever sent it: each frame of these ids is answered with Ack, as if by one of its own."""

    ids: tuple[str, ...]


class LedgerTrouble(msgspec.Struct, frozen=True, tag="ledger_trouble"):
    """Store -> healer, as the answer to whatever wants the ledger: it cannot now (disk full, I/O error). Try again."""

    message: str


Body = (
    Ack
    | Hello
    | Nack
    | Readings
    | ProbeNow
    | Resync
    | Known
    | Outside
    | Claim
    | ClaimAnswer
    | ProgramStarted
    | Dispatch
    | Claimed
    | StepReport
    | ExecutionRefused
    | ProgramExited
    | ReadNow
    | ReadSays
    | GuardedWrite
    | Settle
    | Settled
    | Cancel
    | AtWork
    | PlanRequest
    | PlanAnswer
    | Deliver
    | DeliveryReport
    | ReplyReceived
    | PingNow
    | Pinged
    | OpenEpoch
    | EpochOpened
    | Commit
    | FetchExecution
    | ExecutionFound
    | FetchAudit
    | AuditFound
    | FetchIncident
    | IncidentFound
    | FetchTrail
    | TrailFound
    | FetchHistory
    | HistoryFound
    | FetchReport
    | ReportFound
    | StoreStatus
    | Listening
    | FetchMetrics
    | MetricsFound
    | Acks
    | LedgerTrouble
    | TreeEvent
    | Event
    | Request
    | Reply
)


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One ZeroMQ message. `id` is unique for its sender; `re` is the id of the frame it answers, else empty."""

    v: int
    id: str
    re: str
    body: Body


_frame_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(Frame)
_up_decoder: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
_down_decoder: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)


def encode(message: Frame | Up | Down) -> bytes:
    return _frame_encoder.encode(message)


def decode_frame(raw: bytes) -> Frame:
    """Raises msgspec.DecodeError (or its ValidationError) for anything that is not a frame of this version."""
    frame = _frame_decoder.decode(raw)
    if frame.v != VERSION:
        raise msgspec.ValidationError(f"frame version {frame.v}, this program speaks {VERSION}")
    return frame


def decode_up(raw: bytes) -> Up:
    return _up_decoder.decode(raw)


def decode_down(raw: bytes) -> Down:
    return _down_decoder.decode(raw)
