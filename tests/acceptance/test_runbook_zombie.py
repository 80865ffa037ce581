"""rb-kill-zombie on real zombies, on the real daemon: of a parent that hears the nudge, and of a deaf one (R12)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from supervisor import proc
from supervisor.incidents.readings import ProcessRef
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import Daemon, Site, gone, site, until

SOON = 'interval = "1s"'
# A parent that missed its child's end, as one does that sets its handler too late: asked again, it reaps ("hears"), or
# it has no handler at all ("deaf").
PARENT = """
import os, signal, sys
child = os.fork()
if child == 0:
    signal.pause()
for path, pid in ((sys.argv[1], child), (sys.argv[2], os.getpid())):
    with open(path + ".new", "w") as file:
        file.write(f"{pid}\\n")
    os.rename(path + ".new", path)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
if sys.argv[3] == "hears":
    signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(child, 0))
open(sys.argv[1] + ".ended", "w").close()
while True:
    signal.pause()
"""


class Family:
    """`undead`, the child, and `parent`, each a target with a pid file."""

    def __init__(self, folder: Path, how: str) -> None:
        self.child_file, self.parent_file = folder / "undead.pid", folder / "parent.pid"
        self.argv = [sys.executable, "-c", PARENT, str(self.child_file), str(self.parent_file), how]
        self.process = subprocess.Popen(self.argv, start_new_session=True)
        self.parent, self.child = self._ref(self.parent_file), self._ref(self.child_file)

    def _ref(self, path: Path) -> ProcessRef:
        until(str(path), path.exists)
        status = proc.stat(int(path.read_text()))
        assert status is not None
        return status.ref

    def toml(self) -> str:
        return f'[process.undead]\npid_file = "{self.child_file}"\n{SOON}\n'

    def orphan(self) -> None:
        """Kills the child; it is a zombie when this returns."""
        assert proc.send_signal(self.child, 9)
        until("its parent knows", Path(f"{self.child_file}.ended").exists)
        status = proc.same(self.child)
        assert status is not None
        assert status.state == "Z"

    def close(self) -> None:
        for ref in (self.parent, self.child):
            proc.send_signal(ref, 9)
        self.process.wait()


@contextmanager
def family(folder: Path, how: str) -> Iterator[Family]:
    made = Family(folder, how)
    try:
        yield made
    finally:
        made.close()


def zombie_rows(daemon: Daemon, state: str) -> list[dict[str, object]]:
    rows = daemon.wait_state("undead", state)
    return [row for row in rows if row["anomaly_type"] == "process_zombie"]


def approve(daemon: Daemon, runbook: str, target: str) -> None:
    code, answer = daemon.cli("heal", "approve", runbook, "--target", target, "--json")
    assert code == 0, answer


@pytest.mark.req("FR-003", "R12", "R7", "FR-006")
def test_an_approved_nudge_has_the_zombie_reaped_and_the_incident_resolved(here: Site) -> None:
    with family(here.folder, "hears") as undead:
        daemon = here.daemon(undead.toml())
        daemon.start()
        until("it is known", lambda: undead.child.pid in daemon._known())
        approve(daemon, "rb-kill-zombie", "undead")
        undead.orphan()
        (row,) = until("resolved", lambda: zombie_rows(daemon, "resolved"))
        assert row["runbook_id"] == "rb-kill-zombie"
        assert f"sent SIGKILL to zombie {undead.child.pid}; its parent is " in str(row["audit_trail"])
        assert f"({undead.parent.pid}), which was sent SIGCHLD" in str(row["audit_trail"])
        assert proc.same(undead.child) is None, "it was reaped"
        status = proc.same(undead.parent)
        assert status is not None
        assert status.live, "its parent lives on"


@pytest.mark.req("FR-003", "R12", "R1", "R2")
def test_a_deaf_parent_is_named_and_the_restart_that_is_offered_ends_it(here: Site, phone: SignalDouble) -> None:
    with family(here.folder, "deaf") as undead:
        policy = '[policy]\nverify_within = "3s"\nsettle = "100ms"\n'
        daemon = here.daemon(
            policy + undead.toml() + here.service("parent").toml(auto_restart=False, more=SOON) + signal_toml(phone)
        )
        daemon.start()
        until("both are known", lambda: {undead.child.pid, undead.parent.pid} <= daemon._known())
        undead.orphan()
        until("waits", lambda: [row for row in zombie_rows(daemon, "escalated") if row["escalation_tier"] == 2])
        code, plan = daemon.cli("heal", "dry_run", "rb-kill-zombie", "--target", "undead", "--json")
        assert code == 0
        assert "does not listen for it" in str(plan)
        approve(daemon, "rb-kill-zombie", "undead")
        until("paged", lambda: [sent.text for sent in phone.sent if "zombie" in sent.text])
        (text,) = [sent.text for sent in phone.sent if "zombie" in sent.text]
        offer = "healctl heal execute rb-restart-service --target parent --confirm"
        assert f"(process {undead.parent.pid}) can clean it up, and did not" in text
        assert offer in text
        code, answer = daemon.cli(*offer.split()[1:], "--json")
        assert code == 0, answer
        gone(undead.parent)
        undead.process.wait()
        (row,) = until("resolved", lambda: zombie_rows(daemon, "resolved"))
        assert f"{undead.parent.pid}" in str(row["audit_trail"])


@pytest.mark.req("FR-003", "FR-004", "R12")
def test_killed_at_work_it_is_done_again_and_harms_nobody() -> None:
    """At each of its points in a house of its own, all at the same time: a zombie counts after ten seconds (R12)."""
    with ExitStack() as stack:
        houses = {}
        for point in ("claim.after", "evidence.after", "result.before"):
            here = stack.enter_context(site())
            undead = stack.enter_context(family(here.folder, "hears"))
            token = here.folder / "token"
            daemon = here.daemon(undead.toml())
            daemon.start(HEALCTL_TEST_CRASH=f"executor:{point}:{token}")
            until("it is known", lambda it=undead, at=daemon: it.child.pid in at._known())
            approve(daemon, "rb-kill-zombie", "undead")
            houses[point] = undead, daemon, daemon.worker("executor")
            token.touch()
            undead.orphan()
        for point, (undead, daemon, hands) in houses.items():
            gone(hands)
            until(f"resolved after {point}", lambda at=daemon: zombie_rows(at, "resolved"))
            assert proc.same(undead.child) is None, point
            status = proc.same(undead.parent)
            assert status is not None
            assert status.live, point
