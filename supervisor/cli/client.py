"""One question to the daemon, one answer: a plain DEALER on the healer's control socket.

The question is sent again, with the same id, until it is answered or the deadline has passed; the daemon answers an
id it knows with the same answer. Nothing here starts, stops or writes anything.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import zmq

from supervisor import clock
from supervisor.errors import HealError, NotRunning
from supervisor.messages import VERSION, Frame, Nack, Reply, Request, decode_frame, encode
from supervisor.sockets import RESEND_S, endpoint, new_context, open_socket

DEADLINE_S = 10.0
LOOK_AGAIN_S = 0.05


class RemoteError(HealError):
    """The daemon's refusal, with its own word and exit code."""

    def __init__(self, nack: Nack) -> None:
        super().__init__(nack.message, nack.hint)
        self.code = nack.code
        self.exit_code = nack.exit_code


class Control:
    """A connection to the healer. Use it as a context manager: a socket left open would leak its thread."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._address = endpoint(runtime_dir, "control")
        self._name = f"cli.{os.getpid()}.{os.urandom(4).hex()}"
        self._counter = 0
        self._context = new_context()
        self._socket = open_socket(self._context, zmq.DEALER, identity=self._name)
        self._connected = False

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def ask(self, action: str, args: dict[str, Any] | None = None, deadline_s: float = DEADLINE_S) -> bytes:
        """The answer's JSON. Raises RemoteError, NotRunning, or HealError when no answer came in time."""
        until = clock.monotonic_s() + deadline_s
        if not self._connected:
            wait_for_listener(self._runtime_dir, until)
            self._socket.connect(self._address)
            self._connected = True
        self._counter += 1
        frame_id = f"{self._name}.{self._counter}"
        raw = encode(Frame(VERSION, frame_id, "", Request(action, msgspec.json.encode(args or {}))))
        attempt = 0
        while (now := clock.monotonic_s()) < until:
            self._send(raw)
            again = min(until, now + RESEND_S[min(attempt, len(RESEND_S) - 1)])
            attempt += 1
            body = self._receive(frame_id, again)
            if body is not None:
                return body
        raise self._silent(action, deadline_s)

    def _send(self, raw: bytes) -> None:
        try:
            self._socket.send(raw, zmq.NOBLOCK)
        except zmq.Again:
            return  # the queue is full or nobody is connected: `ask` sends again

    def _receive(self, frame_id: str, until: float) -> bytes | None:
        """The answer to `frame_id`, None when it has not come by then. Answers to earlier questions are dropped."""
        while (left_s := until - clock.monotonic_s()) > 0:
            if not self._socket.poll(max(1, int(left_s * 1000))):
                return None
            try:
                frame = decode_frame(self._socket.recv())
            except msgspec.DecodeError as error:
                raise HealError(
                    f"the daemon's answer cannot be read: {error}",
                    "is it of another version? healctl stop, then healctl start",
                ) from error
            if frame.re != frame_id:
                continue
            if isinstance(frame.body, Nack):
                raise RemoteError(frame.body)
            if isinstance(frame.body, Reply):
                return frame.body.body
        return None

    def _silent(self, action: str, deadline_s: float) -> HealError:
        if not is_running(self._runtime_dir):
            return not_running(self._runtime_dir)
        error = HealError(f'"{action}" got no answer within {deadline_s:g} s', "healctl runs; its log tells more")
        error.code = "timeout"
        return error


def wait_for_listener(runtime_dir: Path, until: float) -> None:
    """Returns when the control socket accepts. Raises NotRunning at once when no daemon holds the directory."""
    import time

    while not _listens(runtime_dir / "control.sock"):
        if not is_running(runtime_dir):
            raise not_running(runtime_dir)
        if clock.monotonic_s() >= until:
            raise HealError(
                "healctl runs, but its healer does not take questions", "it may be restarting: see its log, try again"
            )
        time.sleep(LOOK_AGAIN_S)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


def is_running(runtime_dir: Path) -> bool:
    from supervisor.tree.lock import holder

    return holder(runtime_dir) is not None


def not_running(runtime_dir: Path) -> NotRunning:
    return NotRunning(f"no healctl is running in {runtime_dir}", "start it with: healctl start")
