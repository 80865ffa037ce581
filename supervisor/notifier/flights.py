"""What the notifier handed over and has no answer to, kept beside the ledger so that a kill -9 does not forget it.

Signal cannot tell two copies of one message apart, and signal-cli takes no id from us: whether a message whose answer
was lost has been sent, nobody can find out. So each handing over is written down before it begins, and its outcome
after it: a row that was begun and has none is *lost* once more. `signal_cli` gives a row that was lost away again with
more care, and after a second loss only seldom (docs/adr/0008-lost-answers.md).
A receipt is written down too, until the ledger has it.

One JSON object a line, the newest of a row counts. Nothing is synced: it is for a process that is killed, and a page
does not wait for a disk. When the power fails, a handing over may be forgotten, which may cost one copy more. It must
never keep a message from being sent: a disk that takes no more is said once, and the memory of this process serves on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

FILE = "notifier.flights"
ROWS_MAX = 20_000  # remembered; beyond it the oldest are forgotten
LINES_SLACK = 2_000  # lines beyond four a row, before the file is written anew


class Flight(msgspec.Struct, frozen=True, omit_defaults=True):
    """How things stand with one row. `lost`: how often it was handed over and nobody knows what came of it."""

    row: str
    lost: int = 0
    begun: bool = False  # handed over, and not answered yet
    receipt: str = ""
    gone: bool = False  # nothing is to be remembered of it


class Flights:
    """`path` None: nothing survives this process, which makes one attempt only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._fd: int | None = None
        self._lines = 0
        self._known: dict[str, Flight] = {}
        if path is not None:
            self._known = {flight.row: _after_a_crash(flight) for flight in _read(path)}
            self._rewrite()

    def lost(self, row: str) -> int:
        flight = self._known.get(row)
        return flight.lost if flight is not None else 0

    def receipts(self) -> dict[str, str]:
        """Those that the ledger may not have yet."""
        return {flight.row: flight.receipt for flight in self._known.values() if flight.receipt}

    def begin(self, row: str) -> None:
        """Written before it returns: the message is handed over next."""
        self._put(Flight(row, self.lost(row), begun=True))

    def refused(self, row: str) -> None:
        """Answered: it was not sent."""
        if lost := self.lost(row):
            self._put(Flight(row, lost))
        else:
            self.forget(row)

    def lose(self, row: str) -> None:
        """Its answer will never be known."""
        flight = self._known.get(row)
        if flight is not None and flight.begun:
            self._put(Flight(row, flight.lost + 1))

    def arrived(self, row: str, receipt: str) -> None:
        self._put(Flight(row, self.lost(row), receipt=receipt))

    def forget(self, row: str) -> None:
        if row in self._known:
            self._put(Flight(row, gone=True))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _put(self, flight: Flight) -> None:
        self._known.pop(flight.row, None)
        if not flight.gone:
            self._known[flight.row] = flight
        if len(self._known) > ROWS_MAX:
            del self._known[next(iter(self._known))]
        self._lines += 1
        if self._lines > 4 * len(self._known) + LINES_SLACK:
            self._rewrite()
        elif self._fd is not None:
            try:
                os.write(self._fd, _line(flight))
            except OSError as error:
                log.error("%s cannot be written: %s; a crash now may cost a second copy", self._path, error)
                self.close()  # until this process starts anew, or the file is written anew

    def _rewrite(self) -> None:
        """Only what still counts, all or nothing."""
        if self._path is None:
            return
        self.close()
        self._lines = len(self._known)
        beside = self._path.with_name(self._path.name + ".new")
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, b"".join(map(_line, self._known.values())))
                os.rename(beside, self._path)
            except OSError:
                os.close(fd)
                raise
            self._fd = fd
        except OSError as error:
            log.error("%s cannot be written: %s; a crash may cost a second copy", self._path, error)


def _after_a_crash(flight: Flight) -> Flight:
    return Flight(flight.row, flight.lost + 1) if flight.begun else flight


def _line(flight: Flight) -> bytes:
    return msgspec.json.encode(flight) + b"\n"


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _read(path: Path) -> Iterable[Flight]:
    """The newest of each row. A line that is torn was being written when the power failed: nothing had left for it."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        log.error("%s cannot be read: %s; what it knew is forgotten", path, error)
        return ()
    newest: dict[str, Flight] = {}
    for line in lines:
        try:
            flight = msgspec.json.decode(line, type=Flight)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("%s has a line that cannot be read; it is left out", path)
            continue
        newest.pop(flight.row, None)
        if not flight.gone:
            newest[flight.row] = flight
    return newest.values()
