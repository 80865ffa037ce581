"""Signal, over the chain of transports that is configured (DESIGN §5 "Channel"): a daemon over HTTP or a socket,
openclaw, signal-cli itself.

It must never call a message sent that was not confirmed for every recipient, and it takes care not to send a second
copy where waiting would do:

* one attempt has 10 s for all its transports; a transport that does not answer within its share is passed over only if
  it does not answer a plain question either; one that does is slow, and is waited for, attempt after attempt, SLOW_S
  long: who answers late is heard, and nothing is sent twice;
* a daemon that left a call unanswered must answer a plain question before it is given a message again, and so must
  every other one while this message's call is open somewhere (they may be one daemon): a stopped one keeps each request
  in its socket and would send them all when it goes on;
* a program that has been started for a message is waited for, attempt after attempt, until its own deadline, but for
  one takeover by the next;
* what it handed over and has no answer to is written down (`flights`), before and after: an answer that is lost costs
  one extra copy, not more. The second is given only to a way that has just proved that its answers come back, for
  STEADY_S without a failure, and is waited for until it is answered or its connection breaks; a third only after
  LOST_TWICE_S, since never lost goes before never doubled (docs/adr/0008-lost-answers.md);
* after a partial failure only those who were missed are tried again;
* signal-cli itself is the last resort whatever its place in the file, and starts only when no configured daemon can be
  reached and none runs: it would wait for the account's lock.
"""

from __future__ import annotations

import asyncio

from supervisor.config import SignalSection
from supervisor.incidents.model import OutboxRow
from supervisor.notifier import backoff, signal_rpc
from supervisor.notifier.channel import (
    ATTEMPT_S,
    Channel,
    DeliveryError,
    Permanent,
    Receipt,
    Retryable,
    Unreachable,
    Unsure,
)
from supervisor.notifier.flights import Flights
from supervisor.notifier.ways import Message, Way, ways
from supervisor.transports import Kind

KNOCK_S_MAX = 1.0
LOST_MAX = 2  # copies of which nobody knows whether they arrived; more only LOST_TWICE_S later, then twice that, ...
LOST_TWICE_S = 300.0
LOST_S_MAX = 3600.0
SLOW_S = 30.0  # so long (DESIGN §5) a message waits for a daemon that answers a question but not this
STEADY_S = 2.0  # a way that loses answers now and then is not given a second copy in between,
PROOF_S = 0.25  # so old may the question be with which a way proved itself
STEADY_WITHIN_S = 60.0  # unless none is steady for so long
TEXT_CHARS_MAX = 4_000
CUT = "\n… (cut: `healctl heal status` has the rest)"
NO_TRANSPORT = 'no way to send is configured: set notify.signal.transports, e.g. ["http://127.0.0.1:8080"]'


class _Proof:
    """One question to a way, for all who want to know whether its answers come back."""

    def __init__(self, way: Way) -> None:
        self.began_s = asyncio.get_running_loop().time()
        self._way = way
        self._task = asyncio.get_running_loop().create_task(_proof(way))

    def serves(self) -> bool:
        """It is under way, or has just been answered well."""
        if not self._task.done():
            return True
        return self._task.result() is None and asyncio.get_running_loop().time() - self.began_s <= PROOF_S

    async def answered(self, timeout_s: float) -> None:
        """Raises what was answered; Retryable when nothing was."""
        await asyncio.wait({self._task}, timeout=timeout_s)
        if not self._task.done():
            raise Retryable(f"{self._way.transport.text}: hangs: it has not answered a question for {timeout_s:.3g} s")
        if (error := self._task.result()) is not None:
            raise type(error)(str(error), error.pause_s)

    def drop(self) -> None:
        self._task.cancel()


class _Call:
    """The message handed over on one way. Its task never raises a DeliveryError: nobody may be waiting any more."""

    def __init__(self, way: Way, message: Message) -> None:
        self.way = way
        self._began_s = asyncio.get_running_loop().time()
        self._task = asyncio.get_running_loop().create_task(_outcome(way, message))

    @property
    def done(self) -> bool:
        return self._task.done()

    @property
    def age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    async def answered(self, timeout_s: float) -> bool:
        await asyncio.wait({self._task}, timeout=timeout_s)
        return self._task.done()

    def proof(self) -> str:
        """Of an answered call. Raises what was answered."""
        outcome = self._task.result()
        if isinstance(outcome, DeliveryError):
            raise outcome
        return outcome

    def drop(self) -> asyncio.Task[str | DeliveryError]:
        """Gives it up; a program is ended, which takes until the task has ended."""
        self._task.cancel()
        return self._task


class SignalCli(Channel):
    """`[notify.signal]`: its transports in their order, but the daemon that was good last comes first."""

    def __init__(self, config: SignalSection, attempt_s: float = ATTEMPT_S, flights: Flights | None = None) -> None:
        self._config = config
        self._flights = flights or Flights()
        self._lost_at_s: dict[str, float] = {}  # by row: the loop's time of the newest loss that this process knows of
        self._attempt_s = attempt_s
        self._ways = sorted(ways(config), key=lambda way: way.transport.kind is Kind.SIGNAL_CLI)
        self._good: Way | None = None
        self._steady_s: dict[Way, float] = {}  # since when (the loop's time) it answers without a failure
        self._proofs: dict[Way, _Proof] = {}
        self._silent: set[Way] = set()  # left their last call unanswered
        self._open: dict[str, _Call] = {}  # by row
        self._begun: dict[str, set[Way]] = {}  # by row: the programs that were started for it
        self._ending: set[asyncio.Task[str | DeliveryError]] = set()
        self._missing: dict[str, tuple[str, ...]] = {}  # by row: who was not reached when others were
        self._count = 0

    async def deliver(self, row: OutboxRow) -> Receipt:
        """Raises Retryable or Permanent, with the words of every transport that was tried."""
        return await self.send(message_text(row), key=row.id, to=row.to)

    async def send(self, text: str, key: str, to: str = "") -> Receipt:
        """`deliver` for a bare text; attempts with the same `key` are attempts to send the same message. `to`: a number
        or UUID, when it is not for the recipient that is configured."""
        whom = signal_rpc.To(people=(to,)) if to else signal_rpc.address(self._config.recipient)
        if not self._ways:
            raise Permanent(NO_TRANSPORT)
        deadline_s = asyncio.get_running_loop().time() + self._attempt_s
        order = sorted(self._ways, key=lambda way: way is not self._good)
        failures: dict[Way, DeliveryError] = {}
        if (receipt := self._late(key)) is not None:
            return receipt
        self._may_be_given(key)
        for left, way in zip(range(len(order), 0, -1), order, strict=True):
            remaining_s = deadline_s - asyncio.get_running_loop().time()
            share_s = remaining_s if left == 1 else remaining_s / 2
            try:
                self._may(way, key, failures)
                receipt = await self._try(way, key, whom, text, share_s)
            except DeliveryError as error:
                failures[way] = self._remember(key, error)
                if isinstance(error, Unreachable | Unsure):
                    self._steady_s.pop(way, None)
                if (receipt := self._late(key)) is not None:  # of one that was passed over
                    return receipt
            else:
                return receipt
        if (receipt := await self.settle(key, deadline_s - asyncio.get_running_loop().time())) is not None:
            return receipt
        raise _together(list(failures.values()))

    async def settle(self, key: str, timeout_s: float) -> Receipt | None:
        """Waits so long for the call that is still open, if there is one."""
        call = self._open.get(key)
        return self._late(key) if call is not None and await call.answered(max(timeout_s, 0.0)) else None

    async def close(self) -> None:
        for key in tuple(self._open):
            self._drop(key)
        for proof in self._proofs.values():
            proof.drop()
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._flights.close()

    async def _proved(self, way: Way, key: str, timeout_s: float) -> None:
        """Raises Retryable for a way that does not answer, or only since a moment, if an answer was lost already."""
        proof = self._proofs.get(way)
        if proof is None or not proof.serves():
            proof = self._proofs[way] = _Proof(way)
        try:
            await proof.answered(timeout_s)
        except DeliveryError:
            self._steady_s.pop(way, None)
            raise
        now_s = asyncio.get_running_loop().time()
        steady_s = now_s - self._steady_s.setdefault(way, now_s)
        waits_s = now_s - self._lost_at_s.setdefault(key, now_s)
        if self._flights.lost(key) and steady_s < STEADY_S and waits_s < STEADY_WITHIN_S:
            message = f"{way.transport.text}: a second copy is given to it once it has answered for {STEADY_S:g} s"
            raise Retryable(message, STEADY_S - steady_s)

    def _may_be_given(self, key: str) -> None:
        """Raises Retryable for one that may have arrived twice already: it waits, longer each time."""
        lost = self._flights.lost(key)
        if lost < LOST_MAX or key in self._open:
            return
        now_s = asyncio.get_running_loop().time()
        since_s = self._lost_at_s.setdefault(key, now_s)
        wait_s = since_s + min(LOST_TWICE_S * 2.0 ** (lost - LOST_MAX), LOST_S_MAX) - now_s
        if wait_s > 0:
            raise Retryable(
                f"it was given away {lost} times and every answer was lost: it may have arrived, "
                f"and is given away again in {wait_s:.0f} s"
            )

    def _may(self, way: Way, key: str, failures: dict[Way, DeliveryError]) -> None:
        """Raises Retryable for a program that must not start now.

        A program takes over from one that still runs once for each message; after that each is let end, or two slow
        ones would end each other for ever. signal-cli itself starts only when every configured daemon is known, from
        this attempt, to be out of reach.
        """
        running = self._open.get(key)
        if running is not None and running.way is not way and running.way.patient and way in self._begun.get(key, ()):
            raise Retryable(f"{way.transport.text}: not started again: {running.way.transport.text} still runs")
        if way.transport.kind is not Kind.SIGNAL_CLI:
            return
        for other in self._ways:
            if other.transport.kind.is_daemon and not isinstance(failures[other], Unreachable):
                at = other.transport.text
                raise Retryable(f"{way.transport.text}: not started: the daemon at {at} may hold the account")

    async def _try(self, way: Way, key: str, to: signal_rpc.To, text: str, share_s: float) -> Receipt:
        deadline_s = asyncio.get_running_loop().time() + share_s
        call = self._open.get(key)
        if call is not None and not call.done and self._flights.lost(key):
            pass  # the second copy: only its own answer, or the end of its connection, ends the waiting for it
        elif call is None or call.way is not way or not way.patient:
            knock_s = min(KNOCK_S_MAX, share_s / 3)
            lost = self._flights.lost(key)
            if call is not None or lost:
                await self._proved(way, key, knock_s)
            elif way.patient or way in self._silent:
                await way.knock(knock_s)
            slow = call is not None and await _is_slow(call, knock_s)
            if (receipt := self._late(key)) is not None:
                return receipt
            if self._flights.lost(key) > lost:  # just now: what is given next is the second copy
                await self._proved(way, key, knock_s)
            if call is None or not slow or key not in self._open:
                self._drop(key)
                self._may_be_given(key)
                missing = self._missing.get(key)
                call = self._begin(way, key, signal_rpc.To(missing) if missing else to, text)
        try:
            answered = await call.answered(deadline_s - asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            self._drop(key)
            raise
        if not answered:
            if call.way is not way:
                raise Retryable(f"{way.transport.text}: not asked: {call.way.transport.text} has not answered yet")
            if way.patient:
                raise Retryable(f"{way.transport.text}: it has not ended within {share_s:.3g} s and goes on")
            self._steady_s.pop(way, None)
            self._silent.add(way)
            message = f"{way.transport.text}: no answer within {share_s:.3g} s; it may still send"
            raise Retryable(message, backoff.CAP_PAGE_S)
        return self._answer(key, call)

    def _begin(self, way: Way, key: str, to: signal_rpc.To, text: str) -> _Call:
        self._count += 1
        self._flights.begin(key)
        call = self._open[key] = _Call(way, Message(f"{key}.{self._count}", to, text))
        if way.patient:
            self._begun.setdefault(key, set()).add(way)
        return call

    def _answer(self, key: str, call: _Call) -> Receipt:
        """Of the answered call of this row, which is closed by it. Raises what was answered."""
        del self._open[key]
        self._silent.discard(call.way)
        try:
            proof = call.proof()
        except Unsure:
            self._lose(key)
            raise
        except DeliveryError:
            self._flights.refused(key)
            raise
        if call.way.transport.kind.is_daemon:
            self._good = call.way
        self._missing.pop(key, None)
        self._begun.pop(key, None)
        self._lost_at_s.pop(key, None)
        receipt = Receipt(f"signal:{proof} by {call.way.transport.text}")
        self._flights.arrived(key, receipt)
        return receipt

    def _late(self, key: str) -> Receipt | None:
        """The receipt, if the open call was answered since its share was over. None: still open, or failed."""
        call = self._open.get(key)
        if call is None or not call.done:
            return None
        try:
            return self._answer(key, call)
        except DeliveryError as error:
            self._remember(key, error)  # the attempt that begins now will say how things stand
            return None

    def _remember(self, key: str, error: DeliveryError) -> DeliveryError:
        if not isinstance(error, signal_rpc.NotEveryone):
            return error
        self._missing[key] = error.missing
        return error.cause

    def _lose(self, key: str) -> None:
        self._flights.lose(key)
        self._lost_at_s[key] = asyncio.get_running_loop().time()

    def _drop(self, key: str) -> None:
        if (call := self._open.pop(key, None)) is not None:
            self._lose(key)
            task = call.drop()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


def message_text(row: OutboxRow) -> str:
    """Subject and body as one text; a body that begins with its subject does not get it twice."""
    whole = row.body if not row.subject or row.body.startswith(row.subject) else f"{row.subject}\n\n{row.body}"
    return whole if len(whole) <= TEXT_CHARS_MAX else whole[: TEXT_CHARS_MAX - len(CUT)] + CUT


async def _is_slow(call: _Call, timeout_s: float) -> bool:
    """Its daemon lives, so that its answer may yet come: a slow answer is not a lost one. Asked after another way has
    answered, so that one daemon that had stood still, and goes on, is not taken for two."""
    if call.done or call.way.patient or call.age_s >= SLOW_S:
        return False
    try:
        await call.way.prove(timeout_s)
    except DeliveryError:
        return False
    return not call.done


async def _proof(way: Way) -> DeliveryError | None:
    try:
        await way.prove(KNOCK_S_MAX)
    except DeliveryError as error:
        return error
    return None


async def _outcome(way: Way, message: Message) -> str | DeliveryError:
    try:
        return await way.call(message)
    except DeliveryError as error:
        return error


def _together(failures: list[DeliveryError]) -> DeliveryError:
    """One error for the whole chain: it may pass by itself if any of its transports' may."""
    message = "; ".join(str(error) for error in failures)
    if any(isinstance(error, Retryable) for error in failures):
        return Retryable(message, max(error.pause_s for error in failures))
    return Permanent(message)
