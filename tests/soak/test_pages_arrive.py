"""Tier-3 incidents while the Signal daemon flaps and notifier, store, healer and root are killed -9 (FR-005, R2).

On the real daemon: each incident is covered by a delivered message, its own or a grouped one; nothing is marked sent
without a receipt; there is a second copy only where an answer was lost, and never a third. A short run for CI, and for
`make soak` one of 200, as it is, and one whose storms are not gathered, so that each of the 200 has its own messages
and many answers are lost. The seed is printed when it fails.
"""

from __future__ import annotations

import contextlib
import random
import resource
import sqlite3
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import clock, http
from supervisor.incidents.model import Incident, OutboxRow, OutboxState
from supervisor.notifier.signal_cli import message_text
from tests.acceptance.conftest import here as here
from tests.doubles.signal_double import Fault
from tests.lab.daemon import Daemon, Site, until
from tests.soak.test_crashes import LAB, kill, pause, seed_of, sound
from tests.soak.test_signal_flapping import FAULTS
from tests.soak.test_signal_flapping import Daemon as SignalDaemon

VICTIMS = ("notifier", "notifier", "store", "healer", "root")
WELL_EVERY, WELL_S = 8, 4.0  # turns, and how long nothing goes wrong after so many
UNGATHERED = (
    "from supervisor.incidents import pages; pages.SINGLES_MAX = 10**6; from supervisor.cli.main import main; main()"
)
TOLD_WITHIN_S = 900.0  # the longest that a grouped message of this storm waits, and then some


class Victims:
    """Services that nobody may restart: each that dies is a tier-3 incident."""

    def __init__(self, folder: Path, count: int) -> None:
        self.names = [f"svc{n:03d}" for n in range(count)]
        self._processes = {name: subprocess.Popen(["sleep", "3600"]) for name in self.names}
        self._folder = folder
        for name, process in self._processes.items():
            (folder / f"{name}.pid").write_text(str(process.pid))

    def toml(self) -> str:
        return "".join(f'[process.{name}]\npid_file = "{self._folder / name}.pid"\n' for name in self.names)

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait(20)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(20)


def fails(signal: SignalDaemon, fault: Fault) -> None:
    import asyncio

    async def tell() -> None:
        answer = await http.request(
            signal.transports[0], method="POST", path="/double/fault", body=msgspec.json.encode(fault), timeout_s=20
        )
        assert answer.status == 200

    asyncio.run(tell())


def bodies(daemon: Daemon, kind: Any, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        return [msgspec.json.decode(body, type=kind) for (body,) in db.execute(query)]


def incidents(daemon: Daemon) -> list[Incident]:
    return bodies(daemon, Incident, "SELECT body FROM incidents WHERE target_id LIKE 'svc%'")


def rows(daemon: Daemon) -> list[OutboxRow]:
    return bodies(daemon, OutboxRow, "SELECT body FROM outbox WHERE channel = 'signal'")


def all_told(daemon: Daemon, count: int) -> bool:
    with contextlib.suppress(sqlite3.OperationalError):
        told = {row.id for row in rows(daemon) if row.state is OutboxState.DELIVERED}
        found = incidents(daemon)
        return len(found) == count and all(incident.page_id in told for incident in found)
    return False


def judge(daemon: Daemon, signal: SignalDaemon, kills: list[float]) -> dict[str, int]:
    delivered = {row.id: row for row in rows(daemon) if row.state is OutboxState.DELIVERED}
    for incident in incidents(daemon):
        assert incident.id in delivered[incident.page_id or ""].covers
    dropped = {line["dropped"] for line in signal.lines() if "dropped" in line}
    taken: dict[str, list[dict[str, Any]]] = {}
    for line in signal.lines():
        if "dropped" not in line:
            taken.setdefault(line["text"], []).append(line)
    for row in rows(daemon):
        if row.state is OutboxState.DELIVERED:
            stamps = {str(one["timestamp"]) for one in taken.get(message_text(row), ())}
            assert row.receipt.split()[0].removeprefix("signal:") in stamps, f"{row.id}: a receipt for nothing"
    died = [*kills, *signal.kills]
    for text, copies in taken.items():
        assert len(copies) <= 2, f"more than one extra copy: {text}"
        for first, second in pairwise(copies):
            lost = any(first["at_wall_s"] - 1 <= at <= second["at_wall_s"] for at in died)
            assert first["timestamp"] in dropped or lost, f"it came twice, and no answer was lost: {text}"
    extra = sum(len(copies) - 1 for copies in taken.values())
    return {"incidents": len(incidents(daemon)), "messages": len(delivered), "extra_copies": extra, "kills": len(died)}


@pytest.mark.req("FR-005", "AC-011", "R2")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("count", "gathered"),
    [(5, True), pytest.param(200, True, marks=pytest.mark.soak), pytest.param(200, False, marks=pytest.mark.soak)],
)
def test_every_incident_is_told_of_whatever_dies(here: Site, count: int, gathered: bool) -> None:
    seed = seed_of()
    dice = random.Random(seed)
    victims = Victims(here.folder, count)
    signal = SignalDaemon(here.folder)
    listed = ", ".join(f'"{one}"' for one in signal.transports)
    notify = f'[notify.signal]\ntransports = [{listed}]\naccount = "+15550100"\nrecipient = "+15550101"\n'
    daemon = here.daemon(victims.toml() + notify + LAB)
    if not gathered:
        daemon.program = [sys.executable, "-c", UNGATHERED]
    kills: list[float] = []
    began_s = time.monotonic()
    try:
        daemon.start()
        turns = [victims.names[n : n + 1 + count // 60] for n in range(0, count, 1 + count // 60)]
        for n, names in enumerate(turns, 1):
            for name in names:
                victims.kill(name)
            happens = dice.random()
            if happens < 0.3:
                fails(signal, dice.choice(FAULTS))
            elif happens < 0.5:
                signal.kill()
                until("some time", pause(dice.random() * 0.3))
                signal.start()
            else:
                kill(daemon, dice.choice(VICTIMS))
                kills.append(clock.wall_s())
            until("some time", pause(dice.random()))
            if n % WELL_EVERY == 0:
                fails(signal, Fault())
                until("a while in which all is well", pause(WELL_S))
        fails(signal, Fault())
        until("every incident is told of\n" + daemon.tail(), partial(all_told, daemon, count), TOLD_WITHIN_S)
        until("every worker READY again", daemon._ready)
        print(msgspec.json.encode({**judge(daemon, signal, kills), "took_s": time.monotonic() - began_s}).decode())
        daemon.stop()
        sound(daemon.state_dir / "ledger.db")
    except BaseException:
        print(f"HEALCTL_TEST_SEED={seed}")
        raise
    finally:
        daemon.end()
        signal.kill()
        victims.close()


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
