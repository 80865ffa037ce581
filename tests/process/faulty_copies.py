"""The programs that copy and restore a database, on a disk that fails: run by test_disk_faults with `disk_fault.c`
preloaded.

`python -m tests.process.faulty_copies FOLDER ERRNO PROGRAM DAMAGE PART`: makes each write to files whose path holds
PART fail in turn, with all that come after it, until a run is not touched any more. Each time what counts must be as
it was: every good copy good, the database the old one or the new one; and the next run, on a disk that is well,
succeeds.

Prints how many runs were made to fail, and how many of those said that they had done their work all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from supervisor import backups
from supervisor.store import backup, restore
from supervisor.store.backup import Report
from tests.lab.databases import destroy_header
from tests.process.test_store_restore import NAME, Site, rows_of_pages

CONTROL = Path(os.environ["HEALCTL_FAULT"])
HIT = CONTROL.with_name(f"{CONTROL.name}.hit")
ROWS = 60
POINTS_MAX = 400
PROGRAMS: dict[str, tuple[Callable[[], int], tuple[str, ...]]] = {
    "backup": (backup.main, ("--raw",)),
    "restore": (restore.main, ()),
}


def damaged(site: Site, damage: str) -> bytes | None:
    """The database as it is at the beginning of each run; None: there is none."""
    site.add(ROWS, ROWS)  # since the good copy: of a bad page more can be salvaged than that has
    site.overwrite(*([4] if damage == "page" else []))
    if damage == "header":
        destroy_header(site.live)
    return None if damage == "gone" else site.live.read_bytes()


def put(site: Site, content: bytes | None) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{site.live}{suffix}").unlink(missing_ok=True)
    if content is not None:
        site.live.write_bytes(content)


def run(site: Site, program: str) -> Report:
    main, more = PROGRAMS[program]
    sys.argv = [program, "--source", str(site.live), "--folder", str(site.copies), "--name", NAME, *more]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        code = main()
    report = msgspec.json.decode(said.getvalue(), type=Report)
    assert (code == 0) is report.ok
    assert report.ok or report.said, "it failed, and does not say why"
    return report


def image(site: Site) -> bytes:
    return rows_of_pages(site) if site.live.exists() else b""


def rows(site: Site) -> int:
    """Of a database that is whole; 0 of any other."""
    with contextlib.suppress(sqlite3.DatabaseError):
        return site.count() + site.count("messages") if site.live.exists() and site.whole() else 0
    return 0


def nobodys(site: Site) -> bool:
    """No database for anybody, as one whose header is destroyed was before."""
    return site.live.read_bytes()[:6] != b"SQLite"


def good(site: Site) -> dict[Path, str]:
    """The good copies, each as good as it says."""
    found = {one.path: one.manifest.sha256 for one in backups.good(site.copies)}
    assert found == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    return found


def main(folder: Path, number: int, program: str, damage: str, part: str) -> None:
    (folder / "live").mkdir()
    site = Site(folder / "live", ROWS)
    site.copies = backups.folder(folder / "state", NAME)
    site.copies.parent.mkdir(parents=True)
    assert run(site, "backup").ok
    content = damaged(site, damage)
    put(site, content)
    assert run(site, program).ok
    best = rows(site)
    assert best > 0
    all_the_same = 0
    for point in range(1, POINTS_MAX):
        put(site, content)
        before, kept = image(site), good(site)
        HIT.unlink(missing_ok=True)
        CONTROL.write_text(f"{number} {point} {part}\n")
        report = run(site, program)
        CONTROL.unlink()
        assert max(kept) in good(site), "a good copy is gone"
        if program == "backup":
            assert image(site) == before
            assert not report.good or Path(report.good) in good(site).keys() - kept.keys()
        elif report.ok:
            assert rows(site) == best, report
        else:
            assert image(site) == before or rows(site) == best or (damage == "header" and nobodys(site)), report
        assert run(site, program).ok
        assert rows(site) == best
        if not HIT.exists():
            print(json.dumps({"faults": point - 1, "all_the_same": all_the_same}))
            return
        all_the_same += report.ok
    raise AssertionError(f"more than {POINTS_MAX} writes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
