"""One execution, from its claim to its last step's report (DESIGN §2.3).

The order is the safety: checks, claim at the store, `Claimed`, then each step, whose report must be durable before the
next one begins. Whatever is not certain ends the run: it never retries a step, and never runs one unclaimed. Only a
runbook of safeguards goes on behind a step that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from remediators import registry
from remediators.base import Context, Cut, Outcome, Step, StepFailed
from remediators.cancelling import Ended, Live
from remediators.command import Programs
from remediators.evidence import WITHIN_S as EVIDENCE_S
from remediators.evidence import snapshot
from remediators.keeper import Nursery
from remediators.launcher import Held
from remediators.watches import Watches, tell
from supervisor import clock, crashpoint, proc, redact
from supervisor.aside import aside
from supervisor.bus import Link
from supervisor.config import Config
from supervisor.errors import HealError, Refused
from supervisor.incidents.model import Authority, Effect, Execution, Program, StepResult
from supervisor.incidents.readings import SignalData
from supervisor.messages import (
    Ack,
    Body,
    Claim,
    ClaimAnswer,
    Claimed,
    LedgerTrouble,
    Nack,
    ProgramStarted,
    StepReport,
)

log = logging.getLogger(__name__)

GROUNDS_S_MAX = 5.0  # DESIGN §2.3: an older reading is no grounds for an action
SIGNAL_S = 2.0  # for a look at a file that may lie on a dead mount
CLAIM_AGAIN_S = 0.25  # between claims while the ledger is in trouble
OUTPUT_CHARS_MAX = 96 * 1024  # a command's both ends, and the words around them
_CHANGES = frozenset({Effect.CHANGE, Effect.DESTROY})


class Refusal(HealError):
    """The execution may not run; nothing has run. `code` is ExecutionRefused's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Ties(msgspec.Struct, frozen=True):
    """What a run needs of its process: both links, who we are, where our files are, which pids are ours."""

    healer: Link
    store: Link
    incarnation: str
    state_dir: Path
    exclude: frozenset[int]
    watches: Watches
    nursery: Nursery
    config: Callable[[], Config]  # the one in force

    def context(self, execution: Execution, programs: Programs) -> Context:
        ask_healer, ask_store = self.healer.ask, self.store.ask
        return Context(execution, programs, self.state_dir, self.exclude, self.config(), ask_healer, ask_store)


class Evidence(msgspec.Struct, frozen=True):
    """The snapshot before the first change: the file, or why there is none."""

    path: str = ""
    problem: str = ""

    def told(self, result: StepResult) -> StepResult:
        """The result of the step before which it was taken."""
        if self.path:
            return msgspec.structs.replace(result, artifacts=(self.path, *result.artifacts))
        if self.problem in result.output:
            return result
        return msgspec.structs.replace(result, output=f"{result.output} ({self.problem})"[:OUTPUT_CHARS_MAX])


class Run:
    """Runs one execution once. `step_began_mono_s` and `step_timeout_s` tell how long the present step has had."""

    def __init__(self, ties: Ties, execution: Execution) -> None:
        self.execution = execution
        self.step_began_mono_s: float | None = None
        self.step_timeout_s = 0.0
        self.cancelled_by = ""
        self._ties = ties
        self._ahead: Held | None = None
        self._live: Live | None = None
        self._over = False  # its last step has ended, and is being reported

    async def run(self) -> None:
        """Everything, from the checks on. Raises Refusal when nothing has run; step failures are reported."""
        try:
            await self._run()
        finally:
            if self._ahead is not None:
                self._ahead.let_go()

    async def cancel(self, by: str) -> Body:
        """Stops the step at work, or begins no other. Ack, or Nack with the reason why it goes on."""
        why = ""
        if self.execution.undoes:
            why = "it takes something back, and is not left half done"
        elif not self.cancelled_by and self._live is not None:
            try:
                why = await self._live.stop()
            except OSError as error:  # not ours to signal: the hands, and what others have them do, go on
                why = f"its program could not be asked: {error}"
        if self._over:
            why = "its steps are over"
        if why:
            return Nack(Refused.code, f"{self.execution.runbook.id} was not cancelled: {why}", "`healctl heal status`")
        self.cancelled_by = self.cancelled_by or by
        return Ack()

    async def _run(self) -> None:
        check(self.execution)
        await self._claim()
        await check_signal(self.execution, self._ties.config())
        check_grounds(self.execution)  # the store or the signal may have kept us waiting; still nothing has run
        # Not awaited: the work is ours by the ledger; that the healer knows it too can come later.
        tell(self._ties.healer, Claimed(self.execution.id, self._ties.incarnation))
        specs = self.execution.steps
        reports: list[asyncio.Future[Body]] = []
        evidence: Evidence | None = None
        for index, spec in enumerate(specs):
            step = registry.step_of(spec)
            first = evidence is None and spec.effect in _CHANGES
            if first:
                evidence = await self._evidence(step)
                if index == 0 and not self.cancelled_by:  # a machine that stood still kept us waiting for longer
                    check_grounds(self.execution, GROUNDS_S_MAX + EVIDENCE_S)
            result, changed = await self._step(step, index, evidence if evidence is not None else Evidence())
            if first and evidence is not None:
                result = evidence.told(result)
            # A safeguard that fails keeps no other from being taken; what changes something ends with a failure.
            goes_on = not result.cancelled_by and (result.success or self.execution.runbook.only_protects())
            last = self._over = not goes_on or index == len(specs) - 1
            crashpoint.reach("result.before")
            reports.append(self._ties.healer.ask(StepReport(self.execution.id, index, result, last)))
            if not changed and not last:
                continue  # it has done nothing that would have to be durable before the next step begins
            for answer in await asyncio.gather(*reports):
                if isinstance(answer, Nack):
                    log.error("execution %s: the healer refused step %s: %s", self.execution.id, spec.step_id, answer)
                    return
            crashpoint.reach("result.after")
            if last:
                return
            reports.clear()

    async def _claim(self) -> None:
        crashpoint.reach("claim.before")
        asked = self._ties.store.ask(Claim(self.execution.id, self._ties.incarnation))
        with contextlib.suppress(OSError, StepFailed):  # the step tries again, and reports what it meets
            self._ahead = self._ties.nursery.take()  # forks, if it must, while the store writes
        answer = await asked
        while isinstance(answer, LedgerTrouble):  # asked again until our grounds are stale
            await asyncio.sleep(CLAIM_AGAIN_S)
            check(self.execution)
            answer = await self._ties.store.ask(Claim(self.execution.id, self._ties.incarnation))
        crashpoint.reach("claim.after")
        if not isinstance(answer, ClaimAnswer):
            raise Refusal("not_claimed", f"the store answered the claim with {_words(answer)}")
        if not answer.granted:
            raise Refusal("not_claimed", answer.reason or "another executor has claimed it")

    async def _evidence(self, step: Step) -> Evidence:
        """Before the first change. That it cannot be had is told, and keeps only a step that needs it from running."""
        programs = Programs(step.spec.step_id, self._record, self._take)
        try:
            return Evidence(str(await snapshot(self._ties.context(self.execution, programs))))
        except StepFailed as error:
            log.warning("execution %s: %s", self.execution.id, error)
            return Evidence(problem=str(error))

    async def _step(self, step: Step, index: int, evidence: Evidence) -> tuple[StepResult, bool]:
        """One step with its deadline, and whether it may have changed anything.

        Whatever it started and did not mean to leave running is over afterwards.
        """
        began_s = clock.monotonic_s()
        self.step_began_mono_s, self.step_timeout_s = began_s, step.spec.timeout_s
        programs = Programs(step.spec.step_id, self._record, self._take)
        outcome: Outcome | None = None
        failure, undo = "", ""
        try:
            if self.cancelled_by:
                raise StepFailed("nothing of this step was done")
            if step.needs_evidence and evidence.problem:
                raise StepFailed(f"nothing was done, for {evidence.problem}")
            async with asyncio.timeout(step.spec.timeout_s) as deadline:
                outcome = await self._act(step, self._ties.context(self.execution, programs), index)
        except TimeoutError as error:  # the step's deadline, or the system's own ETIMEDOUT
            failure = f"timed out after {step.spec.timeout_s:g} s" if deadline.expired() else f"failed: {error}"
        except (HealError, OSError) as error:
            failure, undo = str(error), error.undo if isinstance(error, Cut) else ""
        except Ended:
            failure = "it was ended"
        except asyncio.CancelledError:  # we are being stopped; what runs goes on, and is settled by our successor
            programs.let_go()
            raise
        except Exception as error:
            log.exception("execution %s, step %s: a defect of ours", self.execution.id, step.spec.step_id)
            failure = f"a defect of healctl: {type(error).__name__}: {error}"
        by = self.cancelled_by  # who cancels it from here on, while what it started is ended, has not made it fail
        if outcome is None and (ended := await programs.end_all()):
            failure = f"{failure}; {ended}"
        programs.let_go()
        for left in programs.left_running:
            self._ties.watches.add(self.execution.id, step.spec.step_id, left, began_s + step.spec.timeout_s)
        self.step_began_mono_s = None
        if by and outcome is None:
            failure = f"cancelled by {by}: {failure}"
        elif by and outcome is not None:
            late = f"{outcome.output} (it was done before {by} could cancel it)"
            outcome = msgspec.structs.replace(outcome, output=late)
        result = StepResult(
            step_id=step.spec.step_id,
            success=outcome is not None,
            output=redact.text(outcome.output if outcome is not None else failure)[:OUTPUT_CHARS_MAX],
            duration_ms=(clock.monotonic_s() - began_s) * 1000,
            artifacts=outcome.artifacts if outcome is not None else (),
            process=outcome.process if outcome is not None else None,
            undo=outcome.undo if outcome is not None else undo,
            cleared=outcome is not None and outcome.cleared,
            cancelled_by=by if outcome is None else "",
        )
        return result, outcome is None or outcome.changed

    async def _act(self, step: Step, context: Context, index: int) -> Outcome:
        """Raises whatever the step raises, and Ended when a person had it cancelled."""
        back = self.execution.taken_back
        acting = step.undo(context, back[index]) if self.execution.undoes else step.run(context)
        self._live = Live(step, context)
        try:
            return await self._live.run(acting, self._ties.healer)
        finally:
            self._live = None

    def _take(self) -> Held:
        held, self._ahead = self._ahead, None
        return held if held is not None and held.waits() else self._ties.nursery.take()

    async def _record(self, program: Program) -> None:
        answer = await self._ties.store.ask(ProgramStarted(self.execution.id, program))
        if not isinstance(answer, Ack):
            raise StepFailed(f"{program.argv[0]} was not started: the store answered {_words(answer)}")


def check(execution: Execution) -> None:
    """Raises Refusal when the execution may not even be claimed."""
    if execution.boot_id != proc.this_boot():
        raise Refusal("expired", "it was decided before this machine's last boot")
    late_s = clock.monotonic_s() - execution.expires_mono_s
    if late_s >= 0:
        raise Refusal("expired", f"it expired {late_s:.1f} s ago; a new decision is needed")
    check_grounds(execution)
    if execution.runbook.starts_service and execution.target.recipe is None:
        raise Refusal("no_recipe", f"{execution.target.service_id} has no restart recipe")


def check_grounds(execution: Execution, age_s_max: float = GROUNDS_S_MAX) -> None:
    """Only a person needs no reading (FR-007); every other execution rests on one that is at most 5 s old, and on the
    evidence that is written down before the first change. Raises Refusal."""
    if execution.authority is Authority.PERSON:
        return
    if execution.grounds_mono_s is None:
        raise Refusal("stale_grounds", "it rests on no reading at all")
    age_s = clock.monotonic_s() - execution.grounds_mono_s
    if age_s > age_s_max:
        raise Refusal("stale_grounds", f"the reading it rests on is {age_s:.1f} s old, at most {age_s_max:g} s")


async def check_signal(execution: Execution, config: Config) -> None:
    """A live signal that was written since it was judged stale may be fresh: nothing is ended, a new look decides."""
    reading = execution.reading
    name = execution.target.target_id.rpartition("-")[0]
    if execution.authority is Authority.PERSON or reading is None or not isinstance(reading.data, SignalData):
        return
    section = config.trading.get(name)
    if section is None:  # it is watched no more
        return
    try:
        async with asyncio.timeout(SIGNAL_S):
            status = await asyncio.wrap_future(aside(lambda: os.stat(section.signal_file), "signal file"))
    except TimeoutError as error:
        raise Refusal("stale_grounds", "the live signal could not be looked at in time") from error
    except OSError:  # it cannot be seen: then it is not known to be fresh
        return
    if status.st_mtime > reading.taken_wall_s:
        raise Refusal("stale_grounds", "the live signal has been written since it was found stale")


def _words(answer: Body) -> str:
    return f"{answer.code}: {answer.message}" if isinstance(answer, Nack) else type(answer).__name__
