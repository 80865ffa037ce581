"""systemd's notify protocol (sd_notify(3)): one datagram a message; without NOTIFY_SOCKET, nothing at all.

The variables are taken out of the environment: the services that healctl restarts are not to speak for it.
"""

from __future__ import annotations

import os
import socket


class Notifier:
    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        watched = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        on = self._socket is not None and usec.isdigit() and int(usec) > 0 and watched == str(os.getpid())
        self.watchdog_s: float | None = int(usec) / 1_000_000 if on else None  # WatchdogSec; None: nobody watches

    @property
    def listens(self) -> bool:
        """systemd has started us, and wants to be told."""
        return self._socket is not None

    def ready(self, status: str) -> str:
        return self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> str:
        return self._send(f"STATUS={status}")

    def reloading(self, mono_s: float) -> str:
        """`mono_s`: CLOCK_MONOTONIC, which systemd wants to see (Type=notify-reload)."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={int(mono_s * 1_000_000)}")

    def stopping(self) -> str:
        return self._send("STOPPING=1")

    def watchdog(self) -> str:
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> str:
        """A start or stop that goes on may take so much longer, from now; systemd never shortens its time by this."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, message: str) -> str:
        """Empty when sent or when nobody listens; else why not."""
        if self._socket is None:
            return ""
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            return f"cannot notify systemd: {error}"
        return ""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
