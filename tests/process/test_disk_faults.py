"""brain.db, the metrics database and the copies on a disk that fails at each of its writes in turn, is full, or may
only be read: it costs time, never a record, and is said (issue 4, "It must show"). For the ledger: test_ledger_faults.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.incidents import records as rec
from supervisor.messages import Ack, Commit
from tests.process import storelab as lab
from tests.process.test_ledger_faults import library as library
from tests.process.test_store_process import Peer, peer
from tests.process.test_store_process import runtime_dir as runtime_dir

FAULTS = (errno.EIO, errno.EROFS, errno.ENOSPC)
SAYS = {errno.EIO: "disk I/O error", errno.EROFS: "disk I/O error", errno.ENOSPC: "database or disk is full"}


def every(*ways: tuple[str, ...], soon: tuple[str, ...]) -> list[Any]:
    """EIO in all these ways; the other faults in one of them, and by `make soak` in all."""
    return [
        pytest.param(fault, *way, marks=[] if fault == errno.EIO or way == soon else pytest.mark.soak)
        for fault, way in itertools.product(FAULTS, ways)
    ]


def run(module: str, library: Path, folder: Path, *words: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.process.{module}", *map(str, (folder, *words))],
        env={**os.environ, "LD_PRELOAD": str(library), "HEALCTL_FAULT": str(folder / "fault")},
        cwd=lab.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.req("FR-004", "R14")
@pytest.mark.parametrize(
    ("fault", "target", "file"),
    every(
        *itertools.product(("brain", "synapse", "metrics"), ("new", "wal", "delete")),
        soon=("brain", "wal"),
    ),
)
def test_each_write_of_a_projection_that_fails_costs_time_and_no_record(
    library: Path, tmp_path: Path, fault: int, target: str, file: str
) -> None:
    told = run("faulty_projection", library, tmp_path, fault, target, file)
    assert told["faults"] >= 20, told
    assert any(SAYS[fault] in words for words in told["said"]), told


@pytest.mark.req("R10")
@pytest.mark.parametrize(
    ("fault", "program", "damage", "part"),
    every(
        ("backup", "none", "/backups/"),
        ("restore", "page", "/backups/"),
        ("restore", "page", "/live/"),
        ("restore", "header", "/backups/"),
        ("restore", "header", "/live/"),
        ("restore", "gone", "/live/"),
        soon=("restore", "page", "/backups/"),
    ),
)
def test_each_write_of_a_copy_or_a_restore_that_fails_leaves_what_counts_as_it_was(
    library: Path, tmp_path: Path, fault: int, program: str, damage: str, part: str
) -> None:
    told = run("faulty_copies", library, tmp_path, fault, program, damage, part)
    assert told["faults"] >= 10, told
    assert told["all_the_same"] < told["faults"], told


class Decider:
    """Makes decisions whose every part is told to each projection, and waits for what the store says of them."""

    def __init__(self, healer: Peer, epoch: int) -> None:
        self._healer = healer
        self._epoch = epoch
        self._n = 0
        self.made = 0

    @property
    def errors(self) -> list[str]:
        return [it.last_error for it in self._healer.status.projections] if self._healer.status is not None else []

    async def decide(self, count: int) -> None:
        for _ in range(count):
            self._n += 1
            self.made += 1
            records = (*lab.decision(self._epoch, self._n, self.made).records, rec.PutOutbox(lab.message(self.made)))
            assert await self._healer.ask(Commit(self._epoch, self._n, records)) == Ack(), "the ledger is not there"

    async def all_say(self, words: str) -> None:
        await self._healer.until(lambda: self.errors and all(words in error for error in self.errors))

    async def all_have_everything(self) -> None:
        def told() -> bool:
            status = self._healer.status
            return status is not None and not any(it.behind or it.last_error for it in status.projections)

        await self._healer.until(told)


@pytest.mark.req("FR-004", "R14")
def test_where_the_projections_disk_is_full_or_read_only_the_ledger_goes_on_and_they_catch_up(
    tmp_path: Path, runtime_dir: Path
) -> None:
    async def on_a_full_disk(store: lab.Store, disk: Path) -> int:
        async with peer(store) as healer:
            decider = Decider(healer, (await healer.open("first")).epoch)
            await decider.decide(5)
            await decider.all_have_everything()
            with (disk / "filler").open("wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, os.statvfs(disk).f_bavail * 4096)
            await decider.decide(400)
            await decider.all_say("database or disk is full")
            await decider.decide(5)
            (disk / "filler").unlink()
            await decider.all_have_everything()
        return decider.made

    async def on_one_that_may_only_be_read(store: lab.Store, disk: Path, made: int) -> int:
        async with peer(store) as healer:
            decider = Decider(healer, (await healer.open("second")).epoch)
            decider.made = made
            await decider.decide(5)
            await decider.all_say("is mounted read-only")
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            await decider.all_have_everything()
        return decider.made

    with lab.small_disk(tmp_path / "disk", "8m") as disk:
        for name in ("brain.db", "metrics.db"):
            lab.site_database(disk / name, lab.SITE_THREADS, lab.SITE_MESSAGES)
        config = f'[store]\nbrain_db = "{disk}/brain.db"\nmetrics_db = "{disk}/metrics.db"\n'
        store = lab.Store(tmp_path, runtime_dir, config)
        try:
            store.start()
            made = asyncio.run(on_a_full_disk(store, disk))
            assert store.stop() == "exit 0"
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            store.start()
            made = asyncio.run(on_one_that_may_only_be_read(store, disk, made))
            assert store.stop() == "exit 0"
        finally:
            store.close()
        numbers = range(1, made + 1)
        for name, query, form in (
            ("brain.db", "SELECT id FROM incidents ORDER BY id", "inc-{:06d}"),
            ("metrics.db", "SELECT id FROM heal_metrics ORDER BY id", "met-{:06d}"),
            ("brain.db", "SELECT body FROM messages ORDER BY created_at", "message {}"),
        ):
            assert [row[0] for row in lab.rows(disk / name, query)] == [form.format(n) for n in numbers], query
            assert lab.rows(disk / name, "PRAGMA integrity_check") == [("ok",)]
