"""ZeroMQ contexts and sockets: the only module that makes one or touches a socket option.

Without a loop of its own, so that the command line can speak to the healer without paying for asyncio (30 ms).
"""

from __future__ import annotations

import os
from pathlib import Path

import zmq

from supervisor.errors import BusError

HWM = 50_000
FEED_HWM = 1_000  # a subscriber that is further behind takes a new snapshot
FRAME_BYTES_MAX = 64 * 1024 * 1024  # beyond it libzmq drops the connection; four times what `bus` takes
RESEND_S = (0.25, 0.5, 1.0, 2.0)  # no answer: again after these, the last one for ever
IPC_PATH_BYTES_MAX = 107  # sockaddr_un(7), less the final NUL


def endpoint(runtime_dir: Path, name: str) -> str:
    """`ipc://RUNTIME_DIR/NAME.sock`. Raises BusError when the path is too long for a UNIX socket."""
    path = runtime_dir / f"{name}.sock"
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        raise BusError(
            f"{path} is longer than {IPC_PATH_BYTES_MAX} bytes, the limit of a UNIX socket (unix(7))",
            "set a shorter runtime_dir in [healctl]",
        )
    return f"ipc://{path}"


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """One per process, made after the fork (a context does not survive one)."""
    context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 256)
    return context


def open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, identity: str = "") -> zmq.Socket[bytes]:
    """A socket with every option that we depend on set explicitly."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.SNDHWM, HWM)
    socket.setsockopt(zmq.RCVHWM, HWM)
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    socket.setsockopt(zmq.RECONNECT_IVL, 1)  # the default of 100 ms costs 180 ms after each restart
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 20)
    socket.setsockopt(zmq.IMMEDIATE, 0)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a restarted worker takes its name over at once
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an absent peer is an error we see, not a silent drop
    if kind == zmq.PUB:
        socket.setsockopt(zmq.SNDHWM, FEED_HWM)
    if kind == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    if identity:
        socket.setsockopt(zmq.IDENTITY, identity.encode())
    return socket
