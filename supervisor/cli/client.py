"""One question to the daemon, one answer: a plain DEALER on the healer's control socket.

The question is sent again, with the same id, until it is answered or the deadline has passed; the daemon answers an
id it knows with the same answer. Nothing here starts, stops or writes anything, and nothing here imports what one
question does not need: this module's imports are most of what `healctl heal status` costs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import zmq

from supervisor.errors import HealError, NotRunning
from supervisor.sockets import RESEND_S, endpoint, new_context, open_socket
from supervisor.wire import OPERATOR, VERSION, Nack, Reply, Request, Said, decode

DEADLINE_S = 10.0


class RemoteError(HealError):
    """The daemon's refusal, with its own word and exit code."""

    def __init__(self, nack: Nack) -> None:
        super().__init__(nack.message, nack.hint)
        self.code = nack.code
        self.exit_code = nack.exit_code


class NoAnswer(HealError):
    """A daemon runs, but its healer did not answer in time."""

    code = "no_answer"


class Control:
    """A connection to the healer. Use it as a context manager: a socket left open would leak its thread."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        address = endpoint(runtime_dir, "control")
        if not os.path.exists(address.removeprefix("ipc://")) and not is_running(runtime_dir):
            raise not_running(runtime_dir)
        self._name = f"cli.{os.getpid()}.{os.urandom(4).hex()}"
        self._counter = 0
        self._context = new_context()
        try:
            self._socket = open_socket(self._context, zmq.DEALER, identity=self._name)
            self._socket.connect(address)
        except zmq.ZMQError as error:  # no more descriptors, or no memory
            self._context.destroy(linger=0)
            raise HealError(
                f"{address} cannot be connected to: {error}", "ulimit -a shows this shell's limits"
            ) from error

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def ask(
        self,
        action: str,
        args: dict[str, Any] | None = None,
        deadline_s: float = DEADLINE_S,
        actor: str = "",
    ) -> bytes:
        """The answer's JSON. Raises RemoteError, NotRunning when nobody is there, NoAnswer when none came in time."""
        self._counter += 1
        frame_id = f"{self._name}.{self._counter}"
        request = Request(action, msgspec.json.encode(args or {}), actor or OPERATOR)
        raw = msgspec.msgpack.encode(Said(VERSION, frame_id, "", request))
        waited_s, attempt = 0.0, 0
        while waited_s < deadline_s:
            self._send(raw)
            wait_s = min(RESEND_S[min(attempt, len(RESEND_S) - 1)], deadline_s - waited_s)
            body = self._receive(frame_id, wait_s)
            if body is not None:
                return body
            # At first for the socket file of one that was killed, later for who waits long.
            if (attempt == 0 or waited_s > DEADLINE_S) and not is_running(self._runtime_dir):
                raise not_running(self._runtime_dir)
            waited_s += wait_s
            attempt += 1
            if waited_s >= min(DEADLINE_S, deadline_s) and (pid := stopped(self._runtime_dir)):
                raise NoAnswer(f'"{action}" got no answer: {held(pid)}', let_go(pid))
        raise NoAnswer(
            f'"{action}" got no answer within {deadline_s:g} s, though healctl runs',
            "its healer may be restarting or busy: see its log, and try again",
        )

    def _send(self, raw: bytes) -> None:
        try:
            self._socket.send(raw, zmq.NOBLOCK)
        except zmq.Again:
            return  # the queue is full or nobody is connected: `ask` sends again

    def _receive(self, frame_id: str, wait_s: float) -> bytes | None:
        """The answer to `frame_id`, None when nothing came for that long. Answers to earlier questions are dropped."""
        while self._socket.poll(max(1, int(wait_s * 1000))):
            try:
                said = decode(self._socket.recv())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                hint = "is it of another version? healctl stop, then healctl start"
                raise HealError(f"the daemon's answer cannot be read: {error}", hint) from error
            if said.re != frame_id:
                continue
            if isinstance(said.body, Nack):
                raise RemoteError(said.body)
            if isinstance(said.body, Reply):
                return said.body.body
        return None


def is_running(runtime_dir: Path) -> bool:
    from supervisor.tree.lock import holder

    return holder(runtime_dir) is not None


def stopped(runtime_dir: Path) -> int | None:
    """The pid of a daemon that does nothing until somebody lets it go on."""
    from supervisor.tree import lock

    ref = lock.holder(runtime_dir)
    return ref.pid if ref is not None and lock.stopped(ref) else None


def held(pid: int) -> str:
    return f"healctl (pid {pid}) is held (Ctrl-Z, SIGSTOP), and does nothing until it is let go on"


def let_go(pid: int) -> str:
    return f"kill -CONT {pid}, or fg in the shell that started it"


def not_running(runtime_dir: Path) -> NotRunning:
    return NotRunning(f"no healctl is running in {runtime_dir}", "start it with: healctl start")
