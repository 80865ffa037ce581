"""Which databases the root has to hold: those whose halt is durable, and that nobody restores (R10).

The healer tells at its start, since the root may be a new one, and whenever it changes. It must not tell before the
ledger has it: a lock without a record would be nobody's to let go of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisor.incidents.model import Halt, HaltPhase
from supervisor.incidents.records import DropHalt, PutHalt, Record
from supervisor.messages import Holds


class Halted:
    """`tell` sends to the root; called at once, and again for every change."""

    def __init__(self, halts: Iterable[Halt], tell: Callable[[Holds], None]) -> None:
        self._held = {halt.database for halt in halts if halt.phase is HaltPhase.HELD}
        self._tell = tell
        self._tell(self._message())

    def durable(self, records: Iterable[Record]) -> None:
        """These records are in the ledger."""
        before = set(self._held)
        for record in records:
            match record:
                case PutHalt(Halt(database=database, phase=HaltPhase.HELD)):
                    self._held.add(database)
                case PutHalt(Halt(database=database)) | DropHalt(database):
                    self._held.discard(database)
                case _:
                    pass
        if self._held != before:
            self._tell(self._message())

    def _message(self) -> Holds:
        return Holds(tuple(sorted(self._held)))
