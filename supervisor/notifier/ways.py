"""The ways to Signal: a signal-cli daemon over HTTP, UNIX or TCP; the program openclaw; signal-cli itself, once.

Each hands one message over and says what was answered. It keeps no schedule, tries nothing twice, and knows of no other
way. It must never return for a message that the other side did not confirm in so many words.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

import msgspec

from supervisor import http, jsonlines, proc
from supervisor.config import SignalSection
from supervisor.notifier import backoff, program, signal_rpc
from supervisor.notifier.channel import Permanent, Retryable, Unsure, of_http, of_status, quote
from supervisor.notifier.signal_rpc import To
from supervisor.transports import Kind, Transport, parse

CHECK_PATH, RPC_PATH = "/api/v1/check", "/api/v1/rpc"
DAEMON = "signal-cli's daemon"
KNOCK_ID = "knock"
PROGRAM_S = 120.0  # a program's own deadline: on a busy machine openclaw was seen to take 60 s
OPENCLAWS_MAX = 2  # at once: each is a Node of some hundred megabytes
MAIN_CLASS = "org.asamk.signal.Main"  # of signal-cli, in a Java command line


class Message(msgspec.Struct, frozen=True):
    """`id`: of this handing over, never used twice."""

    id: str
    to: To
    text: str


class Way(Protocol):
    transport: Transport
    patient: bool  # a call that is not answered yet ends by itself, and is waited for rather than made again

    async def knock(self, timeout_s: float) -> None:
        """Does it answer at all? Raises Retryable or Permanent."""

    async def prove(self, timeout_s: float) -> None:
        """Does an answer come back by the very way that a message takes? Raises Retryable or Permanent."""

    async def call(self, message: Message) -> str:
        """Hands the message over; its timestamp or other proof. Raises Retryable, Permanent or NotEveryone; Unsure,
        and only that, where it may have been sent all the same."""


def ways(config: SignalSection) -> list[Way]:
    """Those configured, in their order."""
    found: list[Way] = []
    for transport in map(parse, config.transports):
        match transport.kind:
            case Kind.HTTP:
                found.append(HttpDaemon(transport, config.account))
            case Kind.UNIX | Kind.TCP:
                found.append(SocketDaemon(transport, config.account))
            case Kind.OPENCLAW:
                found.append(OpenClaw(transport))
            case Kind.SIGNAL_CLI:
                found.append(OneShot(transport, config.account))
    return found


class HttpDaemon:
    """`signal-cli daemon --http HOST:PORT`."""

    patient = False

    def __init__(self, transport: Transport, account: str) -> None:
        self.transport = transport
        self._account = account

    async def knock(self, timeout_s: float) -> None:
        url = self.transport.text
        try:
            response = await http.request(url, path=CHECK_PATH, timeout_s=timeout_s)
        except http.TimedOut:
            raise _hangs(self.transport) from None
        except http.HttpError as error:
            raise of_http(error) from error
        if response.status != 200:
            raise of_status(url + CHECK_PATH, DAEMON, response)

    async def prove(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._post(signal_rpc.version_request(KNOCK_ID), 2 * timeout_s)
        except TimeoutError:
            raise _hangs(self.transport) from None
        signal_rpc.read_version(self.transport.text, KNOCK_ID, answer)

    async def call(self, message: Message) -> str:
        body = signal_rpc.request(message.id, self._account, message.to, message.text)
        return signal_rpc.read(self.transport.text, message.id, await self._post(body, backoff.CAP_S))

    async def _post(self, body: bytes, timeout_s: float) -> bytes:
        url = self.transport.text
        headers = (("content-type", "application/json"),)
        try:
            response = await http.request(
                url, method="POST", path=RPC_PATH, headers=headers, body=body, timeout_s=timeout_s
            )
        except http.HttpError as error:
            raise of_http(error) from error
        if response.status != 200:
            raise of_status(url + RPC_PATH, DAEMON, response)
        return response.body


class SocketDaemon:
    """`signal-cli daemon --socket PATH` or `--tcp HOST:PORT`."""

    patient = False

    def __init__(self, transport: Transport, account: str) -> None:
        self.transport = transport
        self._account = account

    async def knock(self, timeout_s: float) -> None:
        """A stopped daemon accepts connections: only an answer proves anything."""
        await self.prove(timeout_s)

    async def prove(self, timeout_s: float) -> None:
        try:
            answer = await self._ask(KNOCK_ID, signal_rpc.version_request(KNOCK_ID), timeout_s)
        except http.TimedOut:
            raise _hangs(self.transport) from None
        except http.HttpError as error:
            raise of_http(error) from error
        signal_rpc.read_version(self.transport.text, KNOCK_ID, answer)

    async def call(self, message: Message) -> str:
        body = signal_rpc.request(message.id, self._account, message.to, message.text)
        try:
            line = await self._ask(message.id, body, backoff.CAP_S)
        except http.HttpError as error:
            raise of_http(error) from error
        return signal_rpc.read(self.transport.text, message.id, line)

    async def _ask(self, request_id: str, body: bytes, timeout_s: float) -> bytes:
        at = self.transport
        return await jsonlines.request(at.text, at.host, at.port, at.path, request_id, body, timeout_s)


class OpenClaw:
    """`openclaw message send`: it speaks to the daemon by itself, also while its gateway is down (SITE.md)."""

    patient = True

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._turns = asyncio.Semaphore(OPENCLAWS_MAX)

    async def knock(self, timeout_s: float) -> None:
        """Nothing to ask: it is a program of its own each time."""

    async def prove(self, timeout_s: float) -> None:
        """Its exit code will tell."""

    async def call(self, message: Message) -> str:
        target = message.to.target()
        argv = (self.transport.path, "message", "send", "--channel", "signal", "--target", target,
                "--message", no_option(message.text), "--json")  # fmt: skip
        async with self._turns:
            output = await _run(argv)
        return signal_rpc.read_openclaw(self.transport.text, output.code, output.stdout, output.stderr)


class OneShot:
    """`signal-cli -a ACCOUNT send`. Only while nobody else has the account open: it would wait for its lock."""

    patient = True

    def __init__(self, transport: Transport, account: str) -> None:
        self.transport = transport
        self._account = account
        self._turn = asyncio.Lock()

    async def knock(self, timeout_s: float) -> None:
        """Raises Retryable while a signal-cli daemon of the account runs, whether or not it answers."""
        name = self.transport.text
        if (pid := holder(self._account)) is not None:
            raise Retryable(f"{name}: not started: the daemon with process id {pid} holds the account")

    async def prove(self, timeout_s: float) -> None:
        """Its exit code will tell."""
        await self.knock(timeout_s)

    async def call(self, message: Message) -> str:
        if not self._account:
            raise Permanent(f"{self.transport.text}: it needs to know who sends: set notify.signal.account")
        # JSON, since the plain output does not tell every kind of failure for one of several recipients.
        argv = (self.transport.path, "-a", self._account, "-o", "json", "send", "-m", no_option(message.text),
                *message.to.arguments())  # fmt: skip
        async with self._turn:
            await self.knock(0)
            output = await _run(argv)
        return signal_rpc.read_one_shot(self.transport.text, output.code, output.stdout, output.stderr)


def no_option(text: str) -> str:
    """As an argument that no program takes for an option."""
    return f" {text}" if text.startswith("-") else text


def holder(account: str) -> int | None:
    """The process id of a signal-cli daemon that serves `account`, as far as the process table tells."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    ours = os.path.realpath(os.path.join(data, "signal-cli"))
    for pid in sorted(proc.pids()):
        words = proc.command_line(pid)
        if words and serves(words, account, ours):
            status = proc.stat(pid)
            if status is not None and status.live:
                return pid
    return None


def serves(words: tuple[str, ...], account: str, data_dir: str) -> bool:
    """Is this the command line of a daemon of `account`? One that names no account serves every one of its folder."""
    if not any(word == MAIN_CLASS or os.path.basename(word) == "signal-cli" for word in words):
        return False
    if "daemon" not in words and "jsonRpc" not in words:
        return False
    named = _option(words, "-a", "-u", "--account", "--username")
    folder = _option(words, "-c", "--config")
    if named:
        return named == account
    return not folder or os.path.realpath(folder) == data_dir


def _option(words: tuple[str, ...], *names: str) -> str:
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word in names:
            return following
        name, equals, value = word.partition("=")
        if equals and name in names:
            return value
    return ""


async def _run(argv: tuple[str, ...]) -> program.Output:
    try:
        output = await program.run(argv, PROGRAM_S)
    except program.NotStarted as error:
        raise Retryable(str(error)) from error
    except program.ProgramFailed as error:
        raise Unsure(str(error)) from error
    if output.code < 0:
        raise Unsure(f"{argv[0]}: it was ended by signal {-output.code} ({quote(output.stderr or output.stdout)})")
    return output


def _hangs(transport: Transport) -> Retryable:
    return Retryable(f"{transport.text}: hangs: it accepts connections and answers nothing")
