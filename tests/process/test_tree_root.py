"""The tree with real forks: who dies is replaced, who hangs is ended, whoever outlives the root does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.process.treelab import WITHIN_S, Lab, children_of, gone, thread_count

QUICK = {"beat": 0.1, "beat_within": 0.5, "progress_within": 0.4, "abort_grace": 0.2, "shutdown": 1.0}


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.mark.req("R8")
def test_starts_in_order_and_stops_in_reverse(lab: Lab) -> None:
    lab.start([("a", "Toy", "core"), ("b", "Toy", "hands"), ("c", "Toy", "probes")])
    lab.what("all_ready")
    assert lab.stop() == 0
    lab.what("stop", "a")
    assert [said["child"] for said in lab.said if said["what"] == "start"] == ["a", "b", "c"]
    assert [said["child"] for said in lab.said if said["what"] == "stop"] == ["c", "b", "a"]


def test_a_killed_worker_is_replaced_and_the_listener_hears_of_it(lab: Lab) -> None:
    lab.start([("ear", "Listener", "core"), ("w", "Toy", "probes")], listener="ear")
    first = lab.what("start", "w")["pid"]
    lab.what("all_ready")
    os.kill(first, signal.SIGKILL)
    died = lab.event("exited", "w")
    ready = lab.event("ready", "w")
    assert (died["pid"], died["exit_text"]) == (first, "killed by SIGKILL")
    assert ready["pid"] != first
    assert ready["restarts"] == 1
    assert ready["incarnation"] != died["incarnation"]


def test_a_new_listener_is_told_how_everything_is(lab: Lab) -> None:
    lab.start([("ear", "Listener", "core"), ("w", "Toy", "probes")], listener="ear")
    ear = lab.what("start", "ear")["pid"]
    lab.event("ready", "w")
    lab.what("all_ready")
    lab.forget()
    os.kill(ear, signal.SIGKILL)
    new = lab.what("start", "ear")["pid"]
    told = lab.event("ready", "w")
    assert told["at_wall_s"] > 0
    own = lab.event("exited", "ear")
    assert own["pid"] == ear
    assert lab.event("ready", "ear")["pid"] == new


def test_a_stopped_worker_is_seen_to_hang_and_is_replaced(lab: Lab) -> None:
    lab.start([("ear", "Listener", "core"), ("w", "Toy", "probes")], listener="ear", **QUICK)
    first = lab.what("start", "w")["pid"]
    lab.what("all_ready")
    os.kill(first, signal.SIGSTOP)
    assert "no beat" in lab.event("hung", "w")["exit_text"]
    died = lab.event("exited", "w")
    assert died["exit_text"] == "no beat for 0.5 s; killed by SIGABRT"
    assert "Fatal Python error: Aborted" in died["last_words"] + lab.log()  # its stacks are in the log
    assert lab.event("ready", "w")["pid"] != first


def test_a_worker_without_progress_is_ended_and_its_item_suspect(lab: Lab) -> None:
    lab.start([("ear", "Listener", "core"), ("w", "NoProgress", "hands")], listener="ear", **QUICK)
    assert lab.what("start", "w")["suspects"] == []
    assert "nothing finished for 0.4 s" in lab.event("hung", "w")["exit_text"]
    assert lab.event("exited", "w")["items"] == ["stuck-item"]
    assert lab.what("start", "w")["suspects"] == ["stuck-item"]
    assert lab.event("item_quarantined", "w")["items"] == ["stuck-item"]


def test_a_worker_that_is_never_ready_is_ended(lab: Lab) -> None:
    lab.do("w", "never_ready")
    lab.start([("ear", "Listener", "core"), ("w", "Toy", "probes")], listener="ear", ready_within=1.5)
    assert "not ready within 1.5 s" in lab.event("hung", "w")["exit_text"]
    lab.event("ready", "w")
    lab.what("all_ready")


def test_one_that_does_not_stop_is_killed(lab: Lab) -> None:
    lab.start([("a", "Toy", "core"), ("b", "Stubborn", "hands")], shutdown=0.3)
    lab.what("stuck", "b")
    assert lab.stop() == 0
    lab.what("stop", "a")
    assert "[b] stopped (killed by SIGKILL)" in lab.log()


def test_a_stop_in_the_middle_of_the_start_is_obeyed(lab: Lab) -> None:
    lab.do("b", "never_ready")
    lab.start([("a", "Toy", "core"), ("b", "Toy", "core")], ready_within=600)
    lab.what("start", "a")
    assert lab.stop() == 0


def test_the_second_interrupt_ends_everything_at_once(lab: Lab) -> None:
    root = lab.start([("a", "Toy", "core"), ("b", "Stubborn", "hands")], shutdown=600)
    lab.what("stuck", "b")
    root.send_signal(signal.SIGINT)
    lab.logged("stopping (SIGINT)")  # two at once would arrive as one
    root.send_signal(signal.SIGINT)
    assert root.wait(60) == 1


def test_a_flood_of_output_blocks_nobody_and_is_limited(lab: Lab) -> None:
    lab.start([("a", "Flood", "hands"), ("b", "Toy", "probes")])
    lab.what("flooded", "a")
    lab.what("all_ready")
    assert lab.stop() == 0
    log = lab.log()
    assert "[a] line 00000" in log
    assert "lines dropped: more than" in log
    assert log.count("[a] line") < 2000


@pytest.mark.req("R12")
def test_no_child_outlives_a_killed_root_and_the_lock_is_free(lab: Lab) -> None:
    workers = [("a", "Toy", "core"), ("b", "Stubborn", "hands"), ("c", "Toy", "probes")]
    root = lab.start(workers)
    lab.what("stuck", "b")
    lab.what("all_ready")
    pids = children_of(root.pid)
    assert len(pids) == 3
    root.kill()
    again = lab.start(workers)
    for pid in pids:
        assert gone(pid, WITHIN_S)
    root.wait()
    lab.wait_for(lambda said: said["what"] == "all_ready" and said["pid"] == again.pid)
    assert lab.stop() == 0


def test_two_of_one_runtime_directory(lab: Lab) -> None:
    workers = [("a", "Toy", "core")]
    root = lab.start(workers)
    lab.what("all_ready")
    second = lab.start(workers)
    assert second.wait(60) == 1
    assert f"healctl is already running: pid {root.pid} holds" in lab.log()


def test_a_grandchild_that_holds_descriptors_hides_no_death(lab: Lab) -> None:
    lab.start([("ear", "Listener", "core"), ("w", "Grandparent", "hands")], listener="ear")
    first = lab.what("start", "w")["pid"]
    grandchild = lab.what("grandchild", "w")["grandchild"]
    lab.end_later(grandchild)
    lab.what("all_ready")
    os.kill(first, signal.SIGKILL)
    lab.event("exited", "w")
    lab.end_later(lab.what("grandchild", "w")["grandchild"])
    assert not gone(grandchild, 0)  # of another session: a service that lives on


def test_poison_kills_nobody_a_third_time(lab: Lab) -> None:
    (lab.state_dir / "w.items").write_text("good poison other")
    lab.start([("ear", "Listener", "core"), ("w", "Poisoned", "hands")], listener="ear")
    assert lab.what("start", "w")["suspects"] == []
    assert lab.what("start", "w")["suspects"] == ["poison"]
    third = lab.what("start", "w")
    assert (third["suspects"], third["quarantined"]) == ([], ["poison"])
    lab.what("worked", "w")
    assert [s["event"]["items"] for s in lab.said if s["what"] == "event" and s["event"]["kind"] == "exited"] == [
        ["poison"]
    ] * len([s for s in lab.said if s["what"] == "event" and s["event"]["kind"] == "exited"])
    assert lab.stop() == 0


def test_exit_78_of_the_core_ends_the_tree_with_78(lab: Lab) -> None:
    lab.do("b", "exit78")
    root = lab.start([("a", "Toy", "core"), ("b", "Toy", "core")])
    assert root.wait(60) == 78
    assert "a toy was told that its configuration is bad" in lab.log()
    assert not [said for said in lab.said if said["what"] == "page"]


def test_exit_78_elsewhere_is_never_restarted(lab: Lab) -> None:
    lab.do("w", "exit78")
    lab.start([("ear", "Listener", "core"), ("w", "Toy", "probes"), ("x", "Toy", "probes")], listener="ear")
    lab.what("all_ready")
    assert lab.event("quarantined", "w")["exit_text"] == "exit 78"
    assert lab.stop() == 0
    assert not [said for said in lab.said if (said["what"], said["child"]) == ("start", "w")]


def test_a_crash_loop_of_the_core_pages_and_exits_70(lab: Lab) -> None:
    lab.do("b", "crash", times=99)
    root = lab.start([("a", "Toy", "core"), ("b", "Toy", "core")], core_intensity=3, core_period=300, backoff_base=0.01)
    page = lab.what("page")
    assert root.wait(60) == 70
    assert "b failed 4 times in 300 s" in page["text"]
    assert "a toy was told to crash" in page["text"]
    assert "[root] paged" in lab.log()


@pytest.mark.req("FR-005")
def test_what_a_worker_can_tell_nobody_else_is_paged_once_by_a_one_shot_child(lab: Lab) -> None:
    lab.start([("a", "Alarmed", "core")])
    first = lab.what("start", "a")
    page = lab.what("page")
    assert page["text"] == "the toy's ledger is full"
    lab.logged("[root] paged")
    assert gone(page["pid"], 5)
    os.kill(first["pid"], signal.SIGKILL)
    lab.what("start", "a")
    assert lab.stop() == 0
    assert [said for said in lab.said if said["what"] == "page"] == [page], "not the same again so soon"


def test_a_crash_loop_of_a_probe_rests_and_comes_back(lab: Lab) -> None:
    lab.do("w", "crash", times=3)
    lab.start(
        [("ear", "Listener", "core"), ("w", "Toy", "probes"), ("x", "Toy", "probes")],
        listener="ear", probes_intensity=2, probes_period=300, backoff_base=0.01, quarantine_retry=0.5,
    )  # fmt: skip
    assert lab.event("quarantined", "w")["delay_s"] == 0.5
    lab.what("start", "x")  # nobody waits for it
    assert lab.event("ready", "w")["restarts"] == 3


def test_a_child_owns_only_what_is_its_own(lab: Lab) -> None:
    root = lab.start([("a", "Toy", "core"), ("b", "Toy", "core")])
    lab.what("all_ready")
    os.kill(lab.what("start", "a")["pid"], signal.SIGKILL)
    fds = lab.what("start", "a")["fds"]
    assert fds["0"] == "/dev/null"
    assert fds["1"] == fds["2"]
    assert fds["1"].startswith("pipe:")
    assert not [path for path in fds.values() if "healctl.lock" in path]
    sockets = [path for path in fds.values() if path.startswith("socket:")]
    assert len(sockets) == 3  # to the root, and asyncio's own pair
    assert thread_count(root.pid) == 1
    assert lab.stop() == 0
