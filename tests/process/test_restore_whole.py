"""A database that somebody has mended while its check was at work is not replaced by itself (R10, NFR-001)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from remediators.runbooks import RUNBOOKS
from supervisor import backups
from supervisor.incidents.model import Authority, Target
from tests.lab.databases import destroy_header
from tests.process import executorlab as lab
from tests.process.restorelab import NAME, Site

RESTORE = next(book for book in RUNBOOKS if book.id == "rb-db-restore")


def emptied(site: Site) -> None:
    site.live.write_bytes(b"")
    for suffix in ("-wal", "-shm"):
        Path(f"{site.live}{suffix}").unlink(missing_ok=True)


def without_a_table(site: Site) -> None:
    with closing(sqlite3.connect(site.live)) as db:
        db.execute("DROP TABLE messages")


@pytest.mark.req("R10", "NFR-001")
def test_what_is_whole_by_now_is_left_as_it_is_with_all_that_was_written_since(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.ok("backup")
    with closing(sqlite3.connect(site.live)) as other:  # its log is not in the file yet
        other.execute("DELETE FROM incidents WHERE id >= 'incidents-000100'")
        other.commit()
        said = site.ok("restore", "--unless-whole")
        assert (said.replaced, said.said) == (False, f"{site.live} is whole by now: nothing was replaced")
    assert site.count() == 100
    assert not backups.damaged(site.copies), "nothing was damaged"
    assert [path.name for path in site.copies.iterdir() if path.name.startswith("work")] == []


@pytest.mark.req("R10")
@pytest.mark.parametrize("damage", [lambda site: destroy_header(site.live), emptied, without_a_table])
def test_what_is_not_whole_is_replaced_all_the_same(tmp_path: Path, damage: Callable[[Site], None]) -> None:
    site = Site(tmp_path)
    site.ok("backup")
    damage(site)
    assert site.ok("restore", "--unless-whole").replaced
    assert (site.count("incidents"), site.count("messages"), site.whole()) == (1000, 1000, True)
    assert backups.damaged(site.copies)


@pytest.mark.req("R10", "R3", "NFR-001")
@pytest.mark.parametrize("authority", [Authority.APPROVED, Authority.PERSON])
def test_only_a_person_s_own_order_replaces_what_is_whole(tmp_path: Path, authority: Authority) -> None:
    site = Site(tmp_path)

    async def scenario() -> None:
        async with lab.lab() as core:
            site.copies = backups.folder(core.state_dir, NAME)
            site.ok("backup")
            with closing(sqlite3.connect(site.live)) as db:
                db.execute("DELETE FROM incidents WHERE id >= 'incidents-000100'")
                db.commit()
            target = Target(NAME, "database", path=str(site.live))
            results = await core.execute(lab.execution(target, runbook=RESTORE, authority=authority))
            assert [result.success for result in results] == [True] * len(results)
            whole = any("whole by now: nothing was replaced" in result.output for result in results)
            assert whole == (authority is Authority.APPROVED)
            assert any(result.undo for result in results) == (authority is Authority.PERSON)

    asyncio.run(scenario())
    assert site.count() == (100 if authority is Authority.APPROVED else 1000)
