"""What heals itself between detection and action is not touched: 20 real runs, and a live signal's (R7, NFR-002).

The moment in between is made as long as it takes: whoever would go on is stopped, the service comes back, and then it
may go on.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from supervisor import proc
from tests.acceptance.test_runbook_augur import FAST, SOON, all_over, approve, executor
from tests.lab.daemon import Daemon, Site, until

RUNS = 10  # for each of the two moments


@contextlib.contextmanager
def stopped(daemon: Daemon, worker: str) -> Iterator[None]:
    ref = daemon.worker(worker)
    assert proc.send_signal(ref, signal.SIGSTOP)
    try:
        yield
    finally:
        assert proc.send_signal(ref, signal.SIGCONT)


def decided(daemon: Daemon, target: str) -> None:
    """Until the intent to act on it is durable; well before root takes a stopped worker for a hung one."""

    def look() -> bool:
        return any(one["target_id"] == target and one["state"] == "remediating" for one in daemon.open_incidents())

    try:
        until("the intent", look, within_s=10.0)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{daemon.incidents(target)}\n{daemon.tail()[-1500:]}") from None


@pytest.mark.req("R3", "R7", "NFR-001", "NFR-002", "AC-010")
@pytest.mark.parametrize("moment", ["before the decision", "before the first step"])
def test_a_service_that_comes_back_by_itself_is_neither_ended_nor_doubled(here: Site, moment: str) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(FAST + toy.toml(more=SOON))
    daemon.start()
    rounds = 0
    while (seen := len(daemon.incidents("toy"))) < RUNS:
        rounds += 1
        assert rounds < 3 * RUNS, "on a busy machine its probe may look only when it is back: not so often"
        daemon.wait_known(toy)
        if moment == "before the decision":
            with stopped(daemon, "healer"):
                toy.kill()
                owners = toy.start()
        else:
            with stopped(daemon, "executor"):
                toy.kill()
                decided(daemon, "toy")
                owners = toy.start()
        with contextlib.suppress(AssertionError):
            until("it was seen", lambda n=seen: len(daemon.incidents("toy")) > n, within_s=10.0)
        all_over(daemon)
        assert toy.ref() == owners, "the owner's process lives on"
        assert toy.starts() == 1 + rounds, "and only the owner has started any"
    rows = daemon.incidents("toy")
    trail = str([row["audit_trail"] for row in rows])
    assert "started " not in trail
    assert "ended " not in trail.replace("nothing was ended", "")
    if moment == "before the decision":
        assert {row["state"] for row in rows} <= {"self_resolved"}


@pytest.mark.req("R3", "R7", "NFR-001", "NFR-002")
def test_a_signal_that_freshens_before_the_first_step_keeps_its_program_alive(here: Site) -> None:
    toy = executor(here)
    toy.start()
    daemon = here.daemon(FAST + toy.toml(auto_restart=False, more=SOON) + toy.trading(max_age="1s"))
    daemon.start()
    approve(daemon, "rb-restart-augur", "bot-signals")
    for _ in range(3):
        daemon.wait_known(toy)
        ref = toy.ref()
        assert ref is not None
        with stopped(daemon, "executor"):
            toy.hang()
            decided(daemon, "bot-signals")
            assert proc.send_signal(ref, signal.SIGCONT)
            stale = toy.signal_file.stat().st_mtime_ns
            until("it is written again", lambda before=stale: toy.signal_file.stat().st_mtime_ns != before)
        all_over(daemon)
        assert toy.ref() == ref
        assert toy.starts() == 1
    assert "written since it was found stale" in str([row["audit_trail"] for row in daemon.incidents("bot-signals")])
