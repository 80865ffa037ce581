"""A ledger in a process whose disk fails: run by test_ledger_faults with `disk_fault.c` preloaded.

`python -m tests.process.faulty_ledger FOLDER ERRNO`: makes each write of the ledger fail in turn, from the first to the
first that is beyond all; after each fault the next decisions must be taken again. Prints the numbers of all decisions
that were acknowledged, and how many writes were made to fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from supervisor.messages import Ack, EpochOpened, LedgerTrouble, OpenEpoch
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab

CONTROL = Path(os.environ["HEALCTL_FAULT"])
POINTS_MAX = 200


def main(folder: Path, number: int) -> None:
    acked: list[int] = []
    faults = 0
    with closing(Ledger(folder / "ledger.db")) as ledger:
        opened = ledger.open_epoch(OpenEpoch("healer", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        ledger_id, epoch, n = ledger.ledger_id, opened.snapshot.epoch, 0
        for part in ("ledger.db-wal", "ledger.db"):
            for point in range(1, POINTS_MAX):
                CONTROL.write_text(f"{number} {point} {part}\n")
                batch = [lab.decision(epoch, n + i) for i in range(1, 8)]
                answers = ledger.write(batch)
                if part == "ledger.db":
                    with contextlib.suppress(sqlite3.OperationalError):
                        ledger._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                CONTROL.unlink()
                assert ledger.ledger_id == ledger_id, "a disk that fails is no damage: nothing was set aside"
                failed = any(isinstance(answer, LedgerTrouble) for answer in answers)
                if failed:
                    assert set(map(type, answers)) == {LedgerTrouble}
                    answers = ledger.write(batch)
                assert set(map(type, answers)) == {Ack}, (part, point, answers)
                n += len(batch)
                acked = list(range(1, n + 1))
                faults += failed
                if not failed and part == "ledger.db-wal":
                    break
                if part == "ledger.db" and point > 20:
                    break
    print(json.dumps({"acked": acked, "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
