"""The ways to Signal as a configuration writes them: an address of a signal-cli daemon, or the name of a program. Pure.

What is accepted here is what the notifier can use, what `healctl check` calls well formed, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un(7), less the final NUL


class Kind(StrEnum):
    HTTP = "http"  # signal-cli daemon --http HOST:PORT
    UNIX = "unix"  # signal-cli daemon --socket PATH
    TCP = "tcp"  # signal-cli daemon --tcp HOST:PORT
    OPENCLAW = "openclaw"  # openclaw message send ...
    SIGNAL_CLI = "signal-cli"  # signal-cli ... send, once for each message

    @property
    def is_daemon(self) -> bool:
        return self in (Kind.HTTP, Kind.UNIX, Kind.TCP)


class Transport(msgspec.Struct, frozen=True):
    """`text`: as configured, and as errors and receipts name it. `path`: of a UNIX socket, or of a program."""

    kind: Kind
    text: str
    host: str = ""
    port: int = 0
    path: str = ""


FORM = (
    'a signal-cli daemon ("http://HOST:PORT", "tcp://HOST:PORT" or "unix:/PATH") or a program ("openclaw", '
    '"signal-cli", or the absolute path of one)'
)


def parse(text: str) -> Transport:
    """Raises ValueError, whose text says what was expected."""
    if text in (Kind.OPENCLAW, Kind.SIGNAL_CLI):
        return Transport(Kind(text), text, path=text)
    if text.startswith("/"):
        name = text.rpartition("/")[2]
        if name not in (Kind.OPENCLAW, Kind.SIGNAL_CLI):
            raise ValueError("the path of a program that is called openclaw or signal-cli")
        return Transport(Kind(name), text, path=text)
    if text.startswith("unix:"):
        return _unix(text)
    if text.startswith(("http://", "tcp://")):
        return _address(text)
    raise ValueError(FORM)


def _unix(text: str) -> Transport:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise ValueError("unix: and an absolute path")
    if len(path.encode()) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"a path of at most {SOCKET_PATH_BYTES_MAX} bytes, the limit of a UNIX socket (unix(7))")
    return Transport(Kind.UNIX, text, path=path)


def _address(text: str) -> Transport:
    kind = Kind(text.partition(":")[0])
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or (80 if kind is Kind.HTTP else 0)
    except ValueError as error:
        raise ValueError(f"{kind}://HOST:PORT ({error})") from None
    rest = parts.query or parts.fragment or (kind is Kind.TCP and parts.path)
    if not host or not port or parts.username is not None or rest or any(char.isspace() for char in text):
        raise ValueError(f"{kind}://HOST:PORT")
    return Transport(kind, text, host=host, port=port)
