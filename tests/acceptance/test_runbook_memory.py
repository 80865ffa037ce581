"""rb-gc-trigger and rb-force-gc on the real daemon, in a pid namespace where nothing else could be ended (FR-003)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from supervisor import proc
from supervisor.incidents.readings import ProcessRef
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab import mounts, pidns
from tests.lab.daemon import Daemon, Site, gone, until
from tests.process.executorlab import PYTHON
from tests.process.test_executor_memory import HOG

TOML = '[memory]\ninterval = "1s"\n[policy]\nclear_interval = "100ms"\nsettle = "100ms"\nverify_within = "5s"\n'


class Meminfo:
    """What /proc/meminfo says."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "meminfo"
        self.says(4096)

    def says(self, available_mib: int) -> None:
        self.file.write_text(f"MemTotal: {8192 * 1024} kB\nMemAvailable: {available_mib * 1024} kB\n")


@contextmanager
def meminfo(here: Site) -> Iterator[Meminfo]:
    mounts.own_namespace()
    fake = Meminfo(here.folder)
    with mounts.bound(fake.file, Path("/proc/meminfo")):
        yield fake


def hog(here: Site, name: str, mib: int, *words: str) -> ProcessRef:
    """A process that holds so much, as its owner would start it: nobody's child for long."""
    ready, pid_file = here.folder / f"{name}.ready", here.folder / f"{name}.pid"
    argv = [*PYTHON, "-c", HOG, str(mib), str(ready), *words]
    subprocess.run(
        ["bash", "-c", 'setsid "$@" >/dev/null 2>&1 </dev/null & echo $! > "$0"', str(pid_file), *argv], check=True
    )
    until(f"{name} holds its memory", ready.exists)
    status = proc.stat(int(pid_file.read_text()))
    assert status is not None
    return status.ref


def alive(ref: ProcessRef) -> bool:
    status = proc.same(ref)
    return status is not None and status.live


def row_of(daemon: Daemon, anomaly: str, state: str) -> dict[str, object]:
    def look() -> dict[str, object] | None:
        rows = [row for row in daemon.incidents("system-memory") if row["anomaly_type"] == anomaly]
        return next((row for row in rows if row["state"] == state), None)

    try:
        found: dict[str, object] = until(f"{anomaly} {state}", look)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{daemon.incidents()}\n{daemon.tail()}") from None
    return found


@pytest.mark.req("FR-003", "NFR-001", "R1", "R3", "R6", "R7")
def test_memory_pressure_is_written_down_and_told_by_itself(request: pytest.FixtureRequest, here: Site) -> None:
    if not pidns.inside(request):
        return
    with meminfo(here) as memory:
        daemon = here.daemon(TOML)
        daemon.start()
        large = hog(here, "large", 150)
        memory.says(400)
        row = row_of(daemon, "memory_pressure", "escalated")
        assert (row["runbook_id"], row["escalation_tier"]) == ("rb-gc-trigger", 1)
        assert f"({large.pid})" in str(row["audit_trail"])
        (message,) = until("the summary", daemon.synapse)
        assert message["priority"] == "info"
        assert f"({large.pid}) 1" in message["body"]
        assert alive(large)
        (file,) = (daemon.state_dir / "evidence").iterdir()
        assert large.pid in [one["pid"] for one in msgspec.json.decode(file.read_bytes())["facts"]["processes"]]
        memory.says(4096)
        row_of(daemon, "memory_pressure", "self_resolved")


@pytest.mark.req("FR-003", "R2", "R3", "R6", "FR-006")
def test_memory_critical_waits_for_approval_then_ends_the_largest_and_is_resolved(
    request: pytest.FixtureRequest, here: Site, phone: SignalDouble
) -> None:
    if not pidns.inside(request):
        return
    toy = here.service("toy")
    toy.start()
    with meminfo(here) as memory:
        daemon = here.daemon(TOML + toy.toml() + signal_toml(phone))
        daemon.start()
        daemon.wait_known(toy)
        large, small = hog(here, "large", 250), hog(here, "small", 30)
        memory.says(100)
        row = row_of(daemon, "memory_critical", "escalated")
        assert (row["runbook_id"], row["escalation_tier"]) == ("rb-force-gc", 3)
        assert "heal approve rb-force-gc" in until("the page", lambda: phone.sent)[0].text
        assert alive(large), "nothing is killed without a person's word"
        code, plan = daemon.cli("heal", "dry_run", "rb-force-gc", "--target", "system-memory", "--json")
        assert code == 0
        assert f"end process {large.pid} (" in str(plan)
        code, answer = daemon.cli("heal", "approve", "rb-force-gc", "--target", "system-memory", "--json")
        assert code == 0, answer
        gone(large)
        memory.says(350)  # as it would
        row = row_of(daemon, "memory_critical", "resolved")
        assert f"ended {large.pid}" in str(row["audit_trail"])
        assert alive(small)
        assert toy.starts() == 1
        evidence = [msgspec.json.decode(file.read_bytes()) for file in (daemon.state_dir / "evidence").iterdir()]
        assert ("rb-force-gc", "system-memory") in {(seen["runbook_id"], seen["target_id"]) for seen in evidence}


@pytest.mark.req("FR-003", "R3", "R6", "NFR-001")
@pytest.mark.parametrize("point", ["claim.after", "evidence.after", "result.before", "result.after"])
def test_killed_at_work_it_never_ends_a_second_one_blindly(
    request: pytest.FixtureRequest, here: Site, phone: SignalDouble, point: str
) -> None:
    """Memory stays short, so that whoever acted blindly would end the next one, too."""
    if not pidns.inside(request):
        return
    with meminfo(here) as memory:
        daemon = here.daemon(TOML + signal_toml(phone))
        token = here.folder / "token"
        daemon.start(HEALCTL_TEST_CRASH=f"executor:{point}:{token}")
        hogs = [hog(here, f"h{number}", 250 - 20 * number) for number in range(3)]
        code, answer = daemon.cli("heal", "approve", "rb-force-gc", "--target", "system-memory", "--json")
        assert code == 0, answer
        executor = daemon.worker("executor")
        token.touch()
        memory.says(100)
        gone(executor)
        row = row_of(daemon, "memory_critical", "escalated")
        assert row["escalation_tier"] == 3
        left = [alive(one) for one in hogs]
        if point in ("claim.after", "evidence.after"):
            assert left == [True, True, True], "interrupted before it had acted, and not tried again blindly"
        else:
            assert left == [False, True, True], "exactly one was ended"
        words = "interrupted, and its steps may not be run blindly again"
        assert (words in str(row["audit_trail"])) == (point != "result.after")
        until("the page", lambda: phone.sent)
