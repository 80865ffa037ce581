"""A projection in a process whose disk fails: run by test_disk_faults with `disk_fault.c` preloaded.

`python -m tests.process.faulty_projection FOLDER ERRNO TARGET FILE`: makes each write to the target's files fail in
turn, with all that come after it, from the first write of its opening to the first that is beyond its close. Each time
the projection must be behind and say why, or have everything; and have everything once the disk is well.
FILE: `new`, made by the follower each time; `wal` or `delete`, another program's in that mode.

Prints how many records there are, how many writes were made to fail, and what was said.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path

from supervisor.incidents import records as rec
from supervisor.store import projection
from supervisor.store.ledger import Ledger
from supervisor.store.metrics import MetricsDb
from supervisor.store.projection import Target
from tests.process import storelab as lab

CONTROL = Path(os.environ["HEALCTL_FAULT"])
HIT = CONTROL.with_name(f"{CONTROL.name}.hit")
POINTS_MAX = 300
HELD = {  # what is asked of each target, and what each record is called there
    "brain": ("SELECT id FROM incidents ORDER BY id", "inc-{:06d}"),
    "metrics": ("SELECT id FROM heal_metrics ORDER BY id", "met-{:06d}"),
    "synapse": ("SELECT body FROM messages ORDER BY created_at", "message {}"),
}


def target_of(name: str, path: Path, *, own: bool) -> Target:
    if name == "metrics":
        return MetricsDb(path, own=own)
    return lab.brain(path, own=own) if name == "brain" else lab.synapse(path, own=own)


def failing(target: Target, book: lab.Book, line: str) -> tuple[bool, str]:
    """One life of a follower on the failing disk: (did a write fail, what it said last)."""
    HIT.unlink(missing_ok=True)
    CONTROL.write_text(line)
    with lab.following(target, book.ledger.path) as it:
        it.follower.wake(*book.at)
        it.until("an error, or everything", lambda f: f.error or f.done_rev(book.ledger.ledger_id) >= book.ledger.rev)
        status = it.follower.status(*book.at)
    CONTROL.unlink()
    assert bool(status.behind) <= bool(status.last_error), "behind, and nobody knows why"
    return HIT.exists(), status.last_error


def main(folder: Path, number: int, name: str, file: str) -> None:
    projection.CHECKPOINT_WAL_BYTES = projection.CHECKPOINT_REVS = 0  # each batch is copied back at once
    query, form = HELD[name]
    said: set[str] = set()
    point = 0
    with closing(Ledger(folder / "ledger.db")) as ledger:
        book = lab.Book(ledger)
        path = folder / "target.db"
        if file != "new":
            lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES, f"PRAGMA journal_mode={file}")
        while True:
            point += 1
            assert point < POINTS_MAX
            if file == "new":
                path = folder / str(point) / "target.db"
                path.parent.mkdir()
            target = target_of(name, path, own=file == "new")
            book.add(*lab.decision(0, 0, point).records, rec.PutOutbox(lab.message(point)))
            hit, error = failing(target, book, f"{number} {point} target.db\n")
            said |= {error} - {""}
            with lab.following(target, ledger.path) as it:
                it.reaches(*book.at)
            assert lab.rows(path, query) == [(form.format(n),) for n in range(1, point + 1)], point
            assert lab.rows(path, "PRAGMA integrity_check") == [("ok",)], point
            if not hit:
                break
    print(json.dumps({"records": point, "faults": point - 1, "said": sorted(said)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
