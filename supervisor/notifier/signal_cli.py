"""Signal, through the HTTP interface of a signal-cli daemon (`signal-cli daemon --http HOST:PORT`).

It must never call a message sent that the daemon did not confirm for every recipient, and it takes care not to send a
second copy where waiting would do:

* an attempt ends after 10 s, but its call stays open until the message is given away again: a daemon that answers
  late is heard, and nothing is sent twice;
* a daemon that left a call unanswered must answer a plain check before it is given the message again: a stopped one
  keeps every request in its socket and would send them all when it goes on;
* after a partial failure only those who were missed are tried again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from supervisor import http
from supervisor.config import SignalSection
from supervisor.incidents.model import OutboxRow
from supervisor.notifier import backoff, signal_rpc
from supervisor.notifier.channel import (
    ATTEMPT_S,
    DeliveryError,
    Permanent,
    Receipt,
    Retryable,
    of_http,
    of_status,
)

CHECK_PATH, RPC_PATH = "/api/v1/check", "/api/v1/rpc"
TEXT_CHARS_MAX = 4_000
CUT = "\n… (cut: `healctl heal status` has the rest)"
NO_TRANSPORT = 'no way to send is configured: set notify.signal.transports, e.g. ["http://127.0.0.1:8080"]'


class _Overdue:
    """A call that was not answered within its attempt, and how to read its answer if one comes after all."""

    def __init__(self, url: str, request_id: str, call: asyncio.Task[http.Response | http.HttpError]) -> None:
        self.url = url
        self.request_id = request_id
        self.call = call


class SignalCli:
    """`notify.signal.transports`: every entry an http address of a daemon, tried in order, the last good one first."""

    def __init__(self, config: SignalSection, attempt_s: float = ATTEMPT_S) -> None:
        self._config = config
        self._attempt_s = attempt_s
        self._good = config.transports[0] if config.transports else ""
        self._silent: set[str] = set()  # transports that left their last call unanswered
        self._overdue: dict[str, _Overdue] = {}  # by row
        self._missing: dict[str, tuple[str, ...]] = {}  # by row: who was not reached when others were
        self._count = 0

    async def deliver(self, row: OutboxRow) -> Receipt:
        """Raises Retryable or Permanent, with the words of every transport that was tried."""
        return await self.send(message_text(row), key=row.id)

    async def send(self, text: str, key: str) -> Receipt:
        """`deliver` for a bare text; attempts with the same `key` are attempts to send the same message."""
        to = signal_rpc.address(self._config.recipient)
        if not self._config.transports:
            raise Permanent(NO_TRANSPORT)
        if (timestamp := self._late_answer(key)) is not None:
            return self._done(key, timestamp)
        failures: list[DeliveryError] = []
        for url in sorted(self._config.transports, key=lambda url: url != self._good):
            missing = self._missing.get(key)
            try:
                timestamp = await self._try(url, key, {"recipient": list(missing)} if missing else to, text)
            except DeliveryError as error:
                failures.append(self._remember(key, error))
            else:
                self._good = url
                return self._done(key, timestamp)
        raise _together(failures)

    async def close(self) -> None:
        calls = [overdue.call for overdue in self._overdue.values()]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self._overdue.clear()

    def _done(self, key: str, timestamp: int) -> Receipt:
        self._drop_overdue(key)
        self._missing.pop(key, None)
        return Receipt(f"signal:{timestamp}")

    def _remember(self, key: str, error: DeliveryError) -> DeliveryError:
        if not isinstance(error, signal_rpc.NotEveryone):
            return error
        self._missing[key] = error.missing
        return error.cause

    def _late_answer(self, key: str) -> int | None:
        """The timestamp, if the last attempt's call was answered after its deadline. None: still open, or failed."""
        overdue = self._overdue.get(key)
        if overdue is None or not overdue.call.done():
            return None
        del self._overdue[key]
        try:
            timestamp = _read(overdue.url, overdue.request_id, overdue.call.result())
        except DeliveryError as error:
            self._remember(key, error)  # the attempt that begins now will say how things stand
            return None
        self._silent.discard(overdue.url)
        return timestamp

    def _drop_overdue(self, key: str) -> None:
        if (overdue := self._overdue.pop(key, None)) is not None:
            overdue.call.cancel()

    async def _try(self, url: str, key: str, to: dict[str, Any], text: str) -> int:
        if not url.startswith(("http://", "http+unix://")):
            raise Permanent(f'notify.signal.transports: {url!r} is not supported; expected "http://host:port"')
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._attempt_s
        if url in self._silent:
            await self._knock(url)
            if (timestamp := await self._last_chance(url, key)) is not None:
                return timestamp
        self._drop_overdue(key)
        self._count += 1
        request_id = f"{key}.{self._count}"
        call = loop.create_task(_call(url, signal_rpc.request(request_id, self._config.account, to, text)))
        try:
            await asyncio.wait({call}, timeout=deadline_s - loop.time())
        except asyncio.CancelledError:
            call.cancel()
            raise
        if not call.done():
            self._silent.add(url)
            self._overdue[key] = _Overdue(url, request_id, call)
            raise Retryable(f"{url}: no answer within {self._attempt_s:g} s; it may still send", backoff.CAP_PAGE_S)
        self._silent.discard(url)
        return _read(url, request_id, call.result())

    async def _last_chance(self, url: str, key: str) -> int | None:
        """A daemon that hung and answers again may just be about to answer the open call, too."""
        overdue = self._overdue.get(key)
        if overdue is None or overdue.url != url:
            return None
        await asyncio.wait({overdue.call}, timeout=self._attempt_s / 2)
        return self._late_answer(key)

    async def _knock(self, url: str) -> None:
        try:
            response = await http.request(url, path=CHECK_PATH, timeout_s=self._attempt_s / 3)
        except http.TimedOut:
            raise Retryable(f"{url}: hangs: it accepts connections and answers nothing") from None
        except http.HttpError as error:
            raise of_http(error) from error
        if response.status != 200:
            raise of_status(url + CHECK_PATH, "signal-cli's daemon", response)


def message_text(row: OutboxRow) -> str:
    """Subject and body as one text; a body that begins with its subject does not get it twice."""
    whole = row.body if not row.subject or row.body.startswith(row.subject) else f"{row.subject}\n\n{row.body}"
    return whole if len(whole) <= TEXT_CHARS_MAX else whole[: TEXT_CHARS_MAX - len(CUT)] + CUT


async def _call(url: str, body: bytes) -> http.Response | http.HttpError:
    """One POST, its error as a value: the attempt that would have raised it may be over."""
    try:
        return await http.request(
            url,
            method="POST",
            path=RPC_PATH,
            headers=(("content-type", "application/json"),),
            body=body,
            timeout_s=backoff.CAP_S,
        )
    except http.HttpError as error:
        return error


def _read(url: str, request_id: str, outcome: http.Response | http.HttpError) -> int:
    if isinstance(outcome, http.HttpError):
        raise of_http(outcome)
    if outcome.status != 200:
        raise of_status(url + RPC_PATH, "signal-cli's daemon", outcome)
    return signal_rpc.read(url, request_id, outcome.body)


def _together(failures: list[DeliveryError]) -> DeliveryError:
    """One error for the whole chain: it may pass by itself if any of its transports' may."""
    message = "; ".join(str(error) for error in failures)
    if any(isinstance(error, Retryable) for error in failures):
        return Retryable(message, max(error.pause_s for error in failures))
    return Permanent(message)
