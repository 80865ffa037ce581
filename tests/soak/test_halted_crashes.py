"""brain.db breaks again and again, and whoever has to do with it is killed at random moments: the hold, store, healer
and root while it is halted, the programs that copy and restore it while they run (issue 4, "It must show").

After each death: the ledger is sound, nobody has written the damaged file, every good copy is still good, and a restore
left the old file or the new one. After each restore: every record is in every projection exactly once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from supervisor import backups, proc
from supervisor.incidents.readings import ProcessRef
from supervisor.store import sqlite
from tests.acceptance.conftest import here as here
from tests.acceptance.test_ac_restore import same
from tests.lab.daemon import HEALCTL, Service, Site, gone, until
from tests.lab.databases import overwrite_page
from tests.lab.halted import bytes_of, tried, wait_halted, writer
from tests.soak.test_crashes import CLOSED_WITHIN_S, LAB, closed, ids, kill, pause, seed_of, sound

HOLD = "hold:brain-db"
WORKERS = (HOLD, "store", "healer", "root")
PROGRAMS = ("backup", "restore")
LAB = f"{LAB}hands_intensity = 1000\n"
ORDERS_MAX = 30  # of one restore: each may be cut off


class Scene:
    """A daemon with its brain.db, a service that it heals, and the deaths so far."""

    def __init__(self, here: Site, dice: random.Random) -> None:
        self.dice = dice
        self.toy: Service = here.service("toy")
        self.toy.start()
        self.toys = 0
        self.path = here.folder / "state" / "brain.db"
        self.folder = backups.folder(here.folder / "state", "brain-db")
        database = f'[database.brain-db]\npath = "{self.path}"\ninterval = "1s"\n'
        self.daemon = here.daemon(self.toy.toml() + database + LAB)
        self.daemon.start()
        until("brain.db", lambda: self.path.exists() and tried(self.path, "SELECT count(*) FROM incidents") == "ok")
        self.deaths: Counter[str] = Counter()

    # --- deaths ------------------------------------------------------------------------------------------------------

    def worker_dies(self, who: str) -> None:
        until("some time", pause(self.dice.random() * 0.2))
        kill(self.daemon, who)
        self.deaths[who] += 1
        sound(self.daemon.state_dir / "ledger.db")
        until("every worker READY again", self.daemon._ready)

    def program_dies(self, module: str, over: Callable[[], object]) -> None:
        """At some moment of its life, if it can be met at all before what it is to do is `over`."""
        ref = until(f"the {module} program", lambda: self._program(module) or over())
        until("some time", pause(self.dice.random() * 0.4))
        if isinstance(ref, ProcessRef) and proc.send_signal(ref, 9):
            gone(ref)
            self.deaths[module] += 1
        for one in backups.good(self.folder):
            assert hashlib.sha256(one.path.read_bytes()).hexdigest() == one.manifest.sha256

    def _program(self, module: str) -> ProcessRef | None:
        for pid in proc.pids():
            words = proc.command_line(pid)
            if f"supervisor.store.{module}" in words and str(self.folder) in words:
                status = proc.stat(pid)
                return status.ref if status is not None and status.live else None
        return None

    # --- what happens ------------------------------------------------------------------------------------------------

    def ordered(self, *words: str) -> subprocess.Popen[bytes]:
        argv = [str(HEALCTL), "-c", str(self.daemon.config_file), "db", *words]
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def backed_up(self) -> None:
        """Ordered twice: the first one's program dies, mostly."""
        before = {one.manifest.stamp for one in backups.good(self.folder)}
        with self.ordered("backup") as order:
            self.program_dies("backup", lambda: order.poll() is not None)
        until("a good copy", self._good_copy)
        assert before & {one.manifest.stamp for one in backups.good(self.folder)} or not before

    def _good_copy(self) -> bool:
        return self.daemon.cli("db", "backup")[0] == 0

    def broken(self) -> None:
        """Damaged and halted; the emergency's own copying may die."""
        until("an empty log", self._merged)
        overwrite_page(self.path)
        if self.dice.random() < 0.5:
            self.program_dies("backup", lambda: "escalated" in self._states())
        wait_halted(self.path)
        until("the emergency's end", lambda: self._states() == ["escalated"])

    def _merged(self) -> bool:
        """All is in the file itself: what the log still has of a page would hide its damage."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=5)) as db:
            busy, pages, done = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy and pages == done == 0

    def held(self) -> None:
        """While it is halted those that keep it so die, and a service is healed all the same."""
        before = bytes_of(self.path)
        self.daemon.wait_known(self.toy)
        self.toy.kill()
        self.toys += 1
        for _ in range(self.dice.randrange(2, 5)):
            self.worker_dies(self.dice.choice(WORKERS))
            wait_halted(self.path)
        assert bytes_of(self.path) == before, "nothing was written to the damaged file"

    def restored(self) -> None:
        """Ordered until it is done; somebody dies in each attempt."""
        for _ in range(ORDERS_MAX):
            before = self._image()
            who = self.dice.choice((*("restore",) * 4, *WORKERS))
            order = self.ordered("restore", "--confirm")
            if who == "restore":
                self.program_dies("restore", lambda: order.poll() is not None)  # noqa: B023 (called here)
                assert self._image() == before or self._whole(), "neither the old file nor the new one"
            else:
                until("the restore", lambda: self._program("restore") or order.poll() is not None)  # noqa: B023
                self.worker_dies(who)
            until("the end of this attempt", self._settled, 90)
            order.kill()
            order.wait()
            if not self.daemon.ask("tree")["halted"]:
                return
        raise AssertionError(f"not restored in {ORDERS_MAX} attempts")

    def _image(self) -> bytes:
        """The file as SQLite sees it. Another program has it open: our close is not the last one."""
        with contextlib.closing(sqlite.open_damaged(self.path)) as db, contextlib.closing(sqlite3.connect("")) as copy:
            db.backup(copy)
            return copy.serialize()

    def _whole(self) -> bool:
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10)) as db:
            return bool(db.execute("PRAGMA integrity_check").fetchone() == ("ok",))

    def _states(self) -> list[str]:
        return [row["state"] for row in self.daemon.open_incidents() if row["target_id"] == "brain-db"]

    def _settled(self) -> bool:
        """Proved to be well, or held as before and a person asked anew."""
        phases = [halt["phase"] for halt in self.daemon.ask("tree")["halted"]]
        return (phases, self._states()) in (([], []), (["held"], ["escalated"]))

    def nothing_lost(self) -> None:
        until("the service is healed", partial(closed, self.daemon, self.toy, self.toys), CLOSED_WITHIN_S)
        assert self.toy.starts() == self.toys + 1, "once for each death, never twice"
        until("every record in brain.db", lambda: same(self.daemon, self.path))
        until("every record in metrics.db", self._same_metrics)
        sound(self.path)
        sound(self.daemon.state_dir / "ledger.db")

    def _same_metrics(self) -> bool:
        found = ids(self.daemon.state_dir / "metrics.db", "SELECT id FROM heal_metrics ORDER BY id")
        return found == ids(self.daemon.state_dir / "ledger.db", "SELECT id FROM metrics ORDER BY id")


@pytest.mark.req("R10", "R14", "FR-004", "AC-005")
@pytest.mark.parametrize("cycles", [1, pytest.param(25, marks=pytest.mark.soak)])
def test_whoever_dies_around_a_halted_database_no_record_is_lost_or_doubled(here: Site, cycles: int) -> None:
    seed = seed_of()
    try:
        scene = Scene(here, random.Random(seed))
        with writer(scene.path) as other:
            for _ in range(cycles):
                scene.backed_up()
                scene.broken()
                scene.held()
                scene.restored()
                scene.nothing_lost()
            assert other.poll() is None, "the other program had it open all the time"
        scene.daemon.stop()
        scene.nothing_lost()
    except BaseException:
        print(f"HEALCTL_TEST_SEED={seed}")
        raise
    print(json.dumps({"deaths": scene.deaths, "in all": scene.deaths.total()}))
    assert scene.deaths.total() >= 3 * cycles
    if cycles > 1:
        assert set(scene.deaths) == {*WORKERS, *PROGRAMS}
