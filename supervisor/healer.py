"""The process around the incident engine: sockets in, decisions to the store, effects out (DESIGN §2.1, §3).

An event becomes a decision; its records go to the store as one commit; only when that is acknowledged are steps
dispatched, messages handed on, answers and events sent. Whatever brought a report is acknowledged only then, too. An
error in the engine ends this process: the next one rebuilds everything from the ledger.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from functools import partial

from remediators.runbooks import ladder
from supervisor import messages as m
from supervisor import proc
from supervisor.asking import Asking
from supervisor.bus import Hub, Link, Publisher, nack_of
from supervisor.capturing import Capturing
from supervisor.clock import SteadyClock, monotonic_s
from supervisor.committer import Committer, open_epoch, reopening
from supervisor.config import Config
from supervisor.crashpoint import reach
from supervisor.desk import Desk
from supervisor.errors import HealError, Refused, StoreError
from supervisor.feed import FeedServer
from supervisor.fresh import Fresh
from supervisor.halted import Halted
from supervisor.history import History
from supervisor.house import MAY_WAIT, WAITING, beginning, corrupt_ledger, item_of, ledger_parts, policy_of
from supervisor.incidents import events as e
from supervisor.incidents import replies
from supervisor.incidents.effects import (
    Answer,
    CarryDrill,
    DeliverRow,
    DispatchExecution,
    Effect,
    FetchExecutionState,
    FindIncident,
    PlanExecution,
    SettleExecution,
    TellCancel,
)
from supervisor.incidents.engine import Engine
from supervisor.incidents.model import AGENT
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.records import Record
from supervisor.incidents.recover import rebuild
from supervisor.incidents.seed import parts as seed_parts
from supervisor.incidents.world import Decision
from supervisor.lookup import LOOKUPS, look_up
from supervisor.meanings import meanings
from supervisor.metering import Metering
from supervisor.newsdesk import NewsDesk
from supervisor.outgoing import Outgoing
from supervisor.pinging import Pinging
from supervisor.progressing import Progressing
from supervisor.recording import FOLDER, Recorder
from supervisor.reporting import Reporting
from supervisor.rounds import Rounds
from supervisor.samples import Samples
from supervisor.showing import Showing
from supervisor.slices import in_slices
from supervisor.sockets import endpoint, new_context
from supervisor.staged import Staged
from supervisor.stopping import Stopping
from supervisor.targets import channels, families, open_families, targets
from supervisor.trails import fetch as trails_of
from supervisor.treetable import ALIVE, TreeTable
from supervisor.waking import Waking
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

ACTOR_CHARS_MAX = 100
PUT_OFF_S = 1.0
STRANGE_MAX = 1_000
FLUSH_WITHIN_S = 2.0  # at a stop, for decisions that are not yet durable


class HealerWorker(Worker):
    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._waking = Waking(lambda: self._decide(e.TimersDue()), lambda: self._clock.now().steady_s)
        self._tree = TreeTable(lambda name: name == "notifier" or name in channels(self.boot.config))
        self._skipped: set[str] = set()
        self._limit_told = False
        self._strange: dict[str, HealthReading] = {}  # of targets that we do not know
        self._listening = False
        self._before: m.Frame | None = None  # the store's status of before we listened: it tells only what has changed
        self._samples = Samples()

    # -- life --

    async def start(self) -> None:
        boot, config = self.boot, self.boot.config
        self._context = new_context()
        # By its bare name: a store that starts anew must find us without a word from us.
        self._store = Link(self._context, endpoint(boot.runtime_dir, "store"), "healer", in_slices(self._from_store))
        policy = policy_of(config)
        wanted = m.OpenEpoch(boot.incarnation, policy.breaker_window_s, policy.reopen_window_s)
        opened = await open_epoch(self._store, wanted, self.alarm)
        snapshot = opened.snapshot
        trails = await trails_of(self._store, tuple(incident.id for incident in snapshot.open_incidents))
        self._clock = SteadyClock(opened.anchor)
        self._targets = targets(config)
        books = ladder(config.runbook.values())
        world = rebuild(snapshot, proc.this_boot(), policy, books, self._targets, open_families(config), trails)
        world.meanings = meanings(config)
        world.secret = secrets.token_hex(32)  # kept nowhere: codes that were sent are in the ledger
        self._engine = Engine(world)
        self._recorder = Recorder(boot.state_dir / FOLDER, int(config.healctl.record), world)
        self._capturing = Capturing(boot.runtime_dir)
        self._staged = Staged(boot.runtime_dir)
        self._metering = Metering(snapshot.tallies)
        self._halted = Halted(snapshot.halts, self._tell)
        self._committer = Committer(
            self._store,
            snapshot.epoch,
            self._durable,
            self.fail,
            reopen=lambda: reopening(boot.incarnation, self._committer.beginnings, self._clock.anchor()),
            seed=self._seed,
            alarm=self.alarm,
        )
        self._news = NewsDesk(Publisher(self._context, endpoint(boot.runtime_dir, "events")))
        self._hub = Hub(self._context, endpoint(boot.runtime_dir, "healer"), "healer", in_slices(self._from_worker))
        self._pinging = Pinging(self._hub, lambda: self.boot.config, world, self._decide, monotonic_s())
        self._progressing = Progressing(world, lambda told: self._news.progress(told, self._clock.now().wall_s))
        known = (self._clock, self._committer, self._news, self._metering, self._tree, self._samples, self._pinging)
        self._showing = Showing(world, *known, lambda: self.boot.config, self._progressing)
        self._desk = Desk(self._order, self._showing.by_name())
        self._outgoing = Outgoing(self._hub, lambda: self.boot.config)
        self._control = Hub(self._context, endpoint(boot.runtime_dir, "control"), "control", self._desk.receive)
        self._desk.open(self._control)
        self._asking = Asking(self._hub, self._store, self._readings, self._decide)
        self._fresh = Fresh(self._hub, world, self._clock.now, self._desk.answer, self._readings)
        self._cancelling = Stopping(self._hub, self._decide)
        self._history = History(self._store, world, self._clock.now, self._desk.answer)
        self._rounds = Rounds(partial(self._decide, e.Round()), self._came_round, self.alarm)
        self._reporting = Reporting(self._store, self._clock.now, self._desk.answer, self._progressing.hear)
        self._feed = FeedServer(
            boot.runtime_dir,
            self._hub,
            lambda: self.boot.config,
            lambda target: self._decide(e.Hinted(target.target_id, target.family)),
        )
        await self._feed.open()
        log.info("epoch %d: %d open incidents, %d targets", snapshot.epoch, len(world.incidents), len(self._targets))
        self._listen()

    def _listen(self) -> None:
        """From here on everything is there that what others say may need."""
        self._listening = True
        for event in beginning(self._engine.world, self.boot.config):
            self._decide(event)
        if self._before is not None:
            self._from_store("", self._before)
        self._tell_known()
        for family in families(self.boot.config):
            self._hub.request(family, m.Resync())

    async def stop(self) -> None:
        await self._committer.flush(FLUSH_WITHIN_S)
        asking = (self._history, self._reporting, self._feed)
        for part in (*asking, self._hub, self._control, self._store, self._news, self._recorder):
            part.close()
        self._context.destroy(linger=200)

    # -- one event --

    def _decide(self, event: e.Event, ack: Callable[[], None] | None = None) -> None:
        """Handles one event; `ack` is called when what it led to is durable."""
        item = item_of(event)
        if item in self.boot.quarantined:
            self._set_aside(item, event, ack)
            return
        if self._committer.full and self._put_off(event):
            return
        reach("decide.before")
        now = self._clock.now()
        self._recorder.given(event, now)
        try:
            decision = self._engine.handle(event, now)
        except Exception:
            # Named to the root before this process dies: the same item a second time, and it is quarantined.
            self.working(item)
            raise
        self._recorder.decided(decision)
        self.done += 1
        for probe in decision.probes:
            self._asking.probe(probe)
        if decision.records or isinstance(event, e.Round):
            reach("decide.after")
            self._committer.commit(decision, ack)
            if self._committer.trouble:  # to stop is always safe, and must not wait for a disk to have room
                self._carry_out([effect for effect in decision.effects if isinstance(effect, TellCancel)])
        elif decision.effects or ack is not None:
            answers: list[Effect] = [effect for effect in decision.effects if isinstance(effect, Answer)]
            others: list[Effect] = [effect for effect in decision.effects if not isinstance(effect, Answer)]
            self._carry_out(answers)  # views and refusals: told even while the ledger is in trouble
            # The rest, and the acknowledgement of a doubled report, may rest on decisions still on their way.
            if others or ack is not None:
                self._committer.when_all_durable(partial(self._carry_out_and_ack, others, ack))
        self._waking.at(self._engine.next_due_steady_s())

    def on_beat(self) -> None:
        self._rounds.beat(monotonic_s(), explained=bool(self._committer.trouble))

    def _came_round(self) -> None:
        self._tell(m.Round())
        self._pinging.came_round(monotonic_s())

    def _put_off(self, event: e.Event) -> bool:
        """So much waits for the ledger that nothing more is taken in. What matters is sent again by its sender."""
        if not self._limit_told:
            self._limit_told = True
            log.error("%d decisions wait for the ledger, the limit: nothing more is taken in", self._committer.waiting)
            self._decide(e.LimitIs(WAITING, f"{self._committer.waiting} decisions waited to be written down"))
        match event:
            case e.Order(token):
                self._desk.answer(token, StoreError(f"the ledger takes no records: {self._committer.trouble}"))
            case e.TimersDue():
                self._waking.after(PUT_OFF_S)
        return isinstance(event, MAY_WAIT)

    def _carry_out_and_ack(self, effects: list[Effect], ack: Callable[[], None] | None) -> None:
        if ack is not None:
            ack()
        self._carry_out(effects)

    def _durable(self, decision: Decision) -> None:
        self._halted.durable(decision.records)
        self._metering.durable(decision.records)
        self._capturing.look(self._engine.world)
        self._carry_out(decision.effects)
        if self._limit_told and not self._committer.waiting:
            self._limit_told = False
            self._decide(e.LimitIs(WAITING, ""))
        reach("publish.before")
        self._news.records(decision.records, self._clock.now().wall_s)

    # -- effects --

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case DispatchExecution(execution):
                    reach("dispatch.before")
                    self._hub.request("executor", m.Dispatch(execution))
                    reach("dispatch.after")
                case SettleExecution(execution):
                    self._asking.settle(execution)
                case FetchExecutionState(execution_id):
                    self._asking.fetch(execution_id)
                case FindIncident(incident_id):
                    self._asking.find(incident_id)
                case PlanExecution():
                    self._asking.plan(effect)
                case DeliverRow(row):
                    self._outgoing.add(row)
                case CarryDrill(drill_id, stage):
                    self._decide(e.DrillTold(drill_id, stage, self._staged.carry_out(drill_id, stage)))
                case TellCancel():
                    self._cancelling.tell(effect)
                case Answer(token, body, error):
                    self._desk.answer(token, error if error is not None else body or {})

    # -- what comes in --

    def _from_worker(self, source: str, frame: m.Frame) -> None:
        ack = partial(self._hub.answer, source, frame, m.Ack())
        match frame.body:
            case m.Readings(readings):
                self._readings(readings)
                ack()
                if doubted := corrupt_ledger(readings, self.boot.state_dir):
                    self._store.post(m.ProbeNow(doubted))
            case m.Claimed(execution_id, incarnation):
                self._decide(e.ExecutionClaimed(execution_id, incarnation), ack)
            case m.StepReport(execution_id, index, result, last):
                known = self._engine.world.executions.get(execution_id)
                if known is None or index <= len(known.results):  # else the report before it is still to come
                    self._decide(e.StepEnded(execution_id, index, result, last), ack)
            case m.ExecutionRefused(execution_id, code, message):
                self._decide(e.ExecutionNotRun(execution_id, code, message), ack)
            case m.ProgramExited(execution_id, step_id, exit_text, output):
                self._decide(e.ProgramEnded(execution_id, step_id, exit_text, output), ack)
            case m.DeliveryReport(row_id, attempts, receipt, error):
                self._decide(e.Delivered(row_id, attempts, receipt, error), ack)
            case m.ReplyReceived(reply):
                if self._hub.is_worker(source, "notifier"):  # nobody else may speak for a person's phone
                    self._decide(e.ReplySeen(reply), ack)
            case m.ReadNow(target_id):
                self._fresh.ask_for_step(frame.id, target_id, partial(self._hub.answer, source, frame))
            case m.FetchMetrics():
                self._hub.answer(source, frame, m.MetricsFound(self._showing.families()))
            case m.AtWork():
                self._progressing.hear(frame.body)
            case m.Listening():
                self._metering.listening = frame.body
            case m.Hello(name):  # the bus has already sent what waited for it; the tree says who is who
                if name == "process":
                    self._tell_known()
            case _:
                self._hub.refuse(source, frame, HealError(f"the healer takes no {type(frame.body).__name__}"))

    def _tell_known(self) -> None:
        """A probe worker has no memory of its own from before its time; a lost pid file would make a service dead."""
        if self.boot.config.process:
            self._hub.request("process", m.Known(dict(self._engine.world.known)))

    def _from_store(self, _source: str, frame: m.Frame) -> None:
        if not self._listening:  # it speaks as soon as an epoch is open; a delivery it reports again
            self._before = frame if isinstance(frame.body, m.StoreStatus) else self._before
            return
        match frame.body:
            case m.StoreStatus():
                self._showing.store = frame.body
                if frame.body.ledger_id != self._engine.world.ledger_id:
                    self._committer.begin_anew()
                self._look_at_ledger()
            case m.DeliveryReport(row_id, attempts, receipt, error):
                ack = partial(self._store.post, m.Ack(), re=frame.id)
                self._decide(e.Delivered(row_id, attempts, receipt, error), ack)
            case _:
                self._store.post(nack_of(HealError(f"no {type(frame.body).__name__} is taken here")), re=frame.id)

    def _look_at_ledger(self) -> None:
        for found in ledger_parts(self._engine.world, self._showing.store, self.boot.config):
            self._decide(found)

    def _seed(self, opened: m.EpochOpened, waiting: list[Record]) -> list[tuple[Record, ...]]:
        """A ledger that knows nothing, or only what was salvaged, is given all that we have."""
        world, snapshot = self._engine.world, opened.snapshot
        world.ledger_id, world.epoch = snapshot.ledger_id, snapshot.epoch
        self._recorder.anew()
        return seed_parts(world, waiting)

    def _readings(self, readings: tuple[HealthReading, ...]) -> None:
        for reading in readings:
            if self._engine.world.target(reading.target_id) is None:
                # Its probe heard of another configuration before we did, or has not heard of it yet.
                if len(self._strange) < STRANGE_MAX and not reading.external:
                    self._strange[reading.target_id] = reading
                continue
            if self._engine.world.readings.get(reading.target_id) != reading:  # one that was asked for comes twice
                self._samples.observe(reading)
                self._decide(e.ReadingSeen(reading))

    def _set_aside(self, item: str, event: e.Event, ack: Callable[[], None] | None) -> None:
        """A poison item: it is answered or acknowledged, so that nobody sends it again, and never touched."""
        if item not in self._skipped:
            self._skipped.add(item)
            log.error("%s is set aside: it killed the healer twice", item)
        if isinstance(event, e.Order):
            self._desk.answer(event.token, HealError(f"{event.action} is set aside: it killed the healer twice"))
        if ack is not None and not isinstance(event, e.Round):  # which is over only when it has come round
            ack()

    def on_tree_event(self, event: m.TreeEvent) -> None:
        self._news.tree(event)
        if event.kind in ALIVE:
            self._hub.expect(event.child, event.incarnation)
        for reaction in self._tree.observe(event):
            self._decide(reaction)

    def on_reload(self, config: Config) -> None:
        self._targets = targets(config)
        books = ladder(config.runbook.values())
        self._decide(e.Reconfigured(self._targets, open_families(config), policy_of(config), books, meanings(config)))
        self._look_at_ledger()
        self._metering.moved(config.metrics.listen)
        self._pinging.reconfigured(monotonic_s())
        self._outgoing.reconfigured()
        kept, self._strange = self._strange, {}
        self._readings(tuple(kept.values()))

    def on_reloaded(self, news: m.Reloaded) -> None:
        self._news.reloaded(news)
        self._showing.reloaded = news

    def _order(self, token: str, request: m.Request) -> None:
        if token.startswith(replies.PREFIX) or request.actor.startswith(replies.ACTOR):
            self._desk.answer(token, Refused("nobody but a phone speaks for it: not by this id, not as this actor"))
            return
        elsewhere = {"probe": self._fresh.ask, "history": self._history.ask, "report": self._reporting.ask}.get(
            request.action
        )
        if elsewhere is not None:
            elsewhere(token, request.args)
            return
        if request.action in LOOKUPS and not request.actor.startswith(AGENT):
            look_up(self._store, request, partial(self._desk.answer, token))
            return
        actor = request.actor[:ACTOR_CHARS_MAX]
        self._decide(e.Order(token, request.action, request.args, actor, secrets.token_hex(16)))
