"""The rules of the process family, each at its boundary: what is dead, what is its manager's, what is a zombie."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from probes import managers
from supervisor.config import Config, ProcessSection, RestartSection
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import Endpoint, HealthReading, Manager, PidFile, ProcessData, ProcessRef, Zombie
from supervisor.incidents.services import process
from supervisor.targets import targets

REF = ProcessRef("boot", 77, 1)
DEAD = ProcessData(alive=False, pid_file=PidFile.STALE, detail="its words")
MANAGED = msgspec.structs.replace(DEAD, manager=Manager.FAILED, act_after_s=2.0, dead_for_s=2.0)


def verdicts(data: ProcessData, **changes: Any) -> dict[AnomalyType, Verdict]:
    data = msgspec.structs.replace(data, **changes)
    reading = HealthReading("svc", "process", 1.0, 1.0, 1.0, 60_000, available=True, data=data)
    return {verdict.anomaly: verdict for verdict in process(Judge(reading, Instant(1.0, 1.0, 1.0)), data)}


def dead(data: ProcessData, **changes: Any) -> Verdict:
    return verdicts(data, **changes)[AnomalyType.PROCESS_DEAD]


@pytest.mark.req("FR-002")
def test_a_dead_service_without_a_manager_fires_at_once_and_is_known_not_to_run() -> None:
    verdict = dead(DEAD)
    assert (verdict.status, verdict.severity, verdict.not_running) == (Status.FIRING, Severity.CRITICAL, True)
    assert verdict.evidence == "no live process; its pid file names a process that is gone"
    assert dead(DEAD, meant_to_stop=True).status is Status.CLEAR


@pytest.mark.req("R8", "R3")
@pytest.mark.parametrize(
    ("manager", "dead_for_s", "status"),
    [
        (Manager.FAILED, 1.999, Status.PENDING),
        (Manager.FAILED, 2.0, Status.FIRING),
        (Manager.UNKNOWN, 1.999, Status.PENDING),
        (Manager.UNKNOWN, 2.0, Status.FIRING),
        (Manager.RUNNING, 1.999, Status.PENDING),
        (Manager.RUNNING, 2.0, Status.FIRING),
        (Manager.RESTARTING, 0.0, Status.PENDING),
        (Manager.RESTARTING, 86_400.0, Status.PENDING),
        (Manager.STOPPED, 0.0, Status.CLEAR),
        (Manager.STOPPED, 86_400.0, Status.CLEAR),
    ],
)
def test_a_managed_service_is_its_managers_until_act_after(manager: Manager, dead_for_s: float, status: Status) -> None:
    for alive in (False, None):
        data = msgspec.structs.replace(MANAGED, alive=alive, endpoint=Endpoint.REFUSED, endpoint_failures=2)
        verdict = dead(data, manager=manager, dead_for_s=dead_for_s)
        assert verdict.status is status
        # R3 (c) never permits ending a live process, and what its manager takes for running is one.
        assert verdict.not_running is (alive is False and manager is not Manager.RUNNING)


@pytest.mark.req("R8")
def test_the_evidence_says_what_the_manager_said() -> None:
    assert dead(MANAGED).evidence.endswith("; its service manager does not restart it (its words)")
    assert "has 2 s to restart it" in dead(MANAGED, dead_for_s=0.0).evidence
    assert "cannot be asked" in dead(MANAGED, manager=Manager.UNKNOWN).evidence
    assert dead(MANAGED, act_after_s=0.0, dead_for_s=0.0).status is Status.FIRING


@pytest.mark.req("R8", "FR-002")
def test_a_live_service_that_does_not_answer_waits_only_while_its_manager_is_at_it() -> None:
    mute = ProcessData(alive=True, process=REF, endpoint=Endpoint.TIMEOUT, endpoint_failures=2, act_after_s=2.0)
    assert dead(mute, manager=Manager.RUNNING).status is Status.FIRING
    assert dead(mute, manager=Manager.STOPPED).status is Status.FIRING, "it lives beside its manager"
    assert dead(mute, manager=Manager.RESTARTING).status is Status.PENDING
    assert dead(mute, manager=Manager.NONE, endpoint_failures=1).status is Status.PENDING
    assert dead(mute, endpoint=Endpoint.OK).status is Status.CLEAR
    assert not dead(mute).not_running


@pytest.mark.req("FR-002")
def test_a_stopped_process_fires_and_is_not_called_not_running() -> None:
    stopped = ProcessData(alive=True, process=REF, stopped=True, detail="process 77 is stopped (state T)")
    verdict = dead(stopped)
    assert (verdict.status, verdict.not_running) == (Status.FIRING, False)
    assert "stopped and does nothing until it is continued" in verdict.evidence
    assert dead(stopped, stopped=False).status is Status.CLEAR
    assert dead(stopped, endpoint=Endpoint.OK).status is Status.CLEAR, "it answers: it has been continued since"


@pytest.mark.req("R12", "FR-002")
@pytest.mark.parametrize(
    ("seen_for_s", "status"), [(0.0, Status.PENDING), (9.999, Status.PENDING), (10.0, Status.FIRING)]
)
def test_a_zombie_counts_after_ten_seconds(seen_for_s: float, status: Status) -> None:
    young = Zombie(REF, 5, "parent", 0.5)
    verdict = verdicts(DEAD, zombies=(young, Zombie(REF, 9, "holder", seen_for_s)))[AnomalyType.PROCESS_ZOMBIE]
    assert verdict.status is status
    if status is Status.FIRING:
        assert "holder (9)" in verdict.evidence
    assert verdicts(DEAD)[AnomalyType.PROCESS_ZOMBIE].status is Status.CLEAR


# --- what the managers say -------------------------------------------------------------------------------------------


@pytest.mark.req("R8")
@pytest.mark.parametrize(
    ("told", "manager"),
    [
        ("loaded active running success", Manager.RUNNING),
        ("loaded reloading reload success", Manager.RUNNING),
        ("loaded activating auto-restart signal", Manager.RESTARTING),
        ("loaded activating start success", Manager.RESTARTING),
        ("loaded deactivating stop-sigterm success", Manager.RESTARTING),
        ("loaded inactive dead success", Manager.STOPPED),
        ("masked inactive dead success", Manager.STOPPED),
        ("loaded inactive dead exec-condition", Manager.FAILED),
        ("loaded failed failed signal", Manager.FAILED),
        ("loaded failed failed start-limit-hit", Manager.FAILED),
        ("not-found inactive dead success", Manager.FAILED),
        ("loaded unheard-of dead success", Manager.UNKNOWN),
    ],
)
def test_the_states_of_a_unit(told: str, manager: Manager) -> None:
    load, active, sub, result = told.split()
    answer = managers.judge_unit("x", {"LoadState": load, "ActiveState": active, "SubState": sub, "Result": result})
    assert answer.manager is manager
    assert "x" in answer.words
    assert managers.judge_unit("x", {}).manager is Manager.UNKNOWN


def apps(*found: tuple[str, dict[str, Any]]) -> bytes:
    """As `pm2 jlist` prints it, behind the banner of a daemon that it has just started."""
    listed = [{"name": name, "pid": 1, "pm2_env": {**env, "env": {"SECRET": "x"}}} for name, env in found]
    return b">>>> In-memory PM2 is out-of-date\n" + json.dumps(listed).encode() + b"\n"


@pytest.mark.req("R8")
@pytest.mark.parametrize(
    ("states", "manager"),
    [
        (("online",), Manager.RUNNING),
        (("launching",), Manager.RESTARTING),
        (("waiting restart",), Manager.RESTARTING),
        (("stopping",), Manager.RESTARTING),
        (("stopped",), Manager.STOPPED),
        (("errored",), Manager.FAILED),
        (("unheard of",), Manager.UNKNOWN),
        (("stopped", "errored"), Manager.FAILED),
        (("stopped", "online"), Manager.RUNNING),
        (("online", "waiting restart"), Manager.RESTARTING),
    ],
)
def test_the_states_of_an_app(states: tuple[str, ...], manager: Manager) -> None:
    found = apps(("other", {"status": "online"}), *(("svc", {"status": state}) for state in states))
    answer = managers.judge_apps("svc", found, 0, tells_orders=True)
    assert answer.manager is manager
    assert "SECRET" not in answer.words


@pytest.mark.req("R8")
def test_stopped_without_autorestart_is_an_order_only_where_pm2_has_stopped_this_very_process() -> None:
    def of(tells_orders: bool, last_pid: int, **env: object) -> Manager:
        found = apps(("svc", {"status": "stopped", "autorestart": False, **env}))
        return managers.judge_apps("svc", found, last_pid, tells_orders=tells_orders).manager

    assert of(True, 7, _tree_pids=[7, 8]) is Manager.STOPPED
    assert of(True, 9, _tree_pids=[7, 8]) is Manager.FAILED  # of an earlier stop
    assert of(True, 0, _tree_pids=[7]) is Manager.STOPPED
    assert of(True, 7) is Manager.FAILED
    assert of(True, 7, _tree_pids=None) is Manager.FAILED
    assert of(False, 7) is Manager.STOPPED, "a PM2 that does not tell is believed as it stands"
    assert of(True, 7, autorestart=True) is Manager.STOPPED


@pytest.mark.req("R9")
@pytest.mark.parametrize("stdout", [b"", b"[", b"[PM2] Spawning PM2 daemon", b"[{}]", b"[" * 5000, b"\xff", b"{}"])
def test_an_answer_that_is_no_list_says_nothing(stdout: bytes) -> None:
    assert managers.judge_apps("svc", stdout, 0, tells_orders=True).manager is Manager.UNKNOWN


@pytest.mark.req("R8")
def test_an_app_that_pm2_does_not_know_is_not_its_to_restart() -> None:
    answer = managers.judge_apps("svc", b"[]", 0, tells_orders=True)
    assert answer == managers.Told(Manager.FAILED, "PM2 knows no app svc")


@pytest.mark.req("R8", "R11")
def test_the_recipes_of_managed_services() -> None:
    def recipe(restart: RestartSection) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
        config = Config(process={"svc": ProcessSection(match="x", restart=restart)})
        (found,) = (target.recipe for target in targets(config) if target.target_id == "svc")
        assert found is not None
        return found.argv, found.manager, found.before

    user = (
        ("systemctl", "--user", "restart", "a.service"),
        "systemd",
        ("systemctl", "--user", "reset-failed", "a.service"),
    )
    assert recipe(RestartSection(systemd="a.service", user=True)) == user
    system = ("systemctl", "restart", "a"), "systemd", ("systemctl", "reset-failed", "a")
    assert recipe(RestartSection(systemd="a")) == system
    assert recipe(RestartSection(pm2="a")) == (("pm2", "restart", "a"), "pm2", ())
    assert recipe(RestartSection(argv=("a",))) == (("a",), "", ())
