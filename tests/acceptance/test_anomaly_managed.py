"""R8 on the real daemon: services of a real systemd and a real PM2 are left to them, and healed when they give up."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping

import pytest

from supervisor import proc
from tests import parts
from tests.lab.daemon import Service, Site
from tests.lab.pm2 import Pm2, pm2
from tests.lab.systemd import UserManager, user_manager

POLICY = '[policy]\nact_after = "3s"\nsettle = "100ms"\n'


@pytest.fixture
def systemd() -> Iterator[UserManager]:
    parts.systemd()
    with user_manager() as made:
        yield made


@pytest.fixture
def manager() -> Iterator[Pm2]:
    parts.pm2()
    with pm2() as made:
        yield made


def toml(service: Service, restart: str, env: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{key} = {json.dumps(value)}" for key, value in env.items())
    return (
        f'[process.{service.name}]\npid_file = "{service.pid_file}"\nauto_restart = true\ninterval = "1s"\n'
        f"restart = {{ {restart} }}\nrestart_env = {{ {pairs} }}\n"
    )


def programs(row: Mapping[str, object]) -> str:
    return str(row["audit_trail"])


@pytest.mark.req("R8", "FR-002", "FR-003", "R3")
def test_what_systemd_restarts_or_was_told_to_stop_is_left_alone_and_what_it_gave_up_is_restarted_by_it(
    here: Site, systemd: UserManager
) -> None:
    always, once, ordered, limited = (here.service(name) for name in ("always", "once", "ordered", "limited"))
    systemd.unit("always", always.argv, "Restart=always", "RestartSec=200ms")
    systemd.unit("once", once.argv, "Restart=no")
    systemd.unit("ordered", ordered.argv, "Restart=always")
    limit = ("Restart=always", "RestartSec=0", "[Unit]", "StartLimitIntervalSec=600", "StartLimitBurst=2")
    systemd.unit("limited", limited.argv, *limit)
    every = (always, once, ordered, limited)
    restart = 'systemd = "{}.service", user = true'
    daemon = here.daemon(POLICY + "".join(toml(s, restart.format(s.name), systemd.environment) for s in every))
    for service in every:
        service.wait_new(None)
    daemon.start()
    daemon.wait_known(*every)

    assert systemd.systemctl("stop", "ordered.service")[0] == 0
    again = always.wait_new(always.kill())
    limited.wait_new(limited.kill())
    new = limited.wait_new(limited.kill())  # systemd does not start it a third time
    (row,) = daemon.wait_state("limited", "resolved")
    assert "reset-failed" in programs(row)
    assert systemd.property("limited.service", "MainPID") == str(new.pid)

    dead = once.kill()
    new = once.wait_new(dead)
    (row,) = daemon.wait_state("once", "resolved")
    assert "systemctl --user restart once.service: exit 0" in programs(row)
    assert "failed (failed, signal)" in programs(row)
    assert systemd.property("once.service", "MainPID") == str(new.pid)

    assert daemon.incidents("always") == []
    assert always.ref() == again
    assert daemon.incidents("ordered") == []
    assert systemd.property("ordered.service", "ActiveState") == "inactive"
    assert [service.starts() for service in every] == [2, 2, 1, 3]
    daemon.stop()
    assert once.ref() == new, "a healed service is its manager's: it lives on"


@pytest.mark.req("R8", "FR-002", "FR-003", "R3")
def test_what_pm2_restarts_or_was_told_to_stop_is_left_alone_and_what_it_left_dead_is_restarted_by_it(
    here: Site, manager: Pm2
) -> None:
    always, once, ordered = (here.service(name) for name in ("always", "once", "ordered"))
    manager.start("always", always.argv)
    manager.start("once", once.argv, "--no-autorestart")
    manager.start("ordered", ordered.argv, "--no-autorestart")
    every = (always, once, ordered)
    daemon = here.daemon(POLICY + "".join(toml(s, f'pm2 = "{s.name}"', manager.environment) for s in every))
    for service in every:
        service.wait_new(None)
    daemon.start()
    daemon.wait_known(*every)

    assert manager.run("stop", "ordered")[0] == 0
    again = always.wait_new(always.kill())
    dead = once.kill()
    new = once.wait_new(dead)
    (row,) = daemon.wait_state("once", "resolved")
    assert "pm2 restart once: exit 0" in programs(row)
    assert "it ended by itself" in programs(row)

    assert daemon.incidents("always") == []
    assert always.ref() == again
    assert daemon.incidents("ordered") == []
    assert [service.starts() for service in every] == [2, 2, 1]
    daemon.stop()
    assert once.ref() == new


@pytest.mark.req("R15", "R3", "FR-007")
def test_a_persons_execute_restarts_by_the_manager_and_never_beside_a_service_that_runs_outside_of_it(
    here: Site, systemd: UserManager
) -> None:
    inside, outside = here.service("inside"), here.service("outside")
    for service in (inside, outside):
        systemd.unit(service.name, service.argv)
        service.wait_new(None)
    assert systemd.systemctl("stop", "outside.service")[0] == 0
    by_hand = outside.start()
    restart = 'systemd = "{}.service", user = true'
    daemon = here.daemon(
        POLICY + "".join(toml(s, restart.format(s.name), systemd.environment) for s in (inside, outside))
    )
    daemon.start()
    daemon.wait_known(inside, outside)
    old = inside.ref()
    _, plan = daemon.cli("heal", "dry_run", "rb-restart-service", "--target", "inside", "--json")
    assert old is not None
    assert str(old.pid) in plan["steps"][0]["description"]
    assert "systemctl --user restart inside.service" in plan["steps"][1]["description"]
    code, answer = daemon.cli("heal", "execute", "rb-restart-service", "--target", "inside", "--confirm", "--json")
    assert (code, answer["success"]) == (0, True), answer
    assert proc.same(old) is None
    inside.wait_new(old)
    code, answer = daemon.cli("heal", "execute", "rb-restart-service", "--target", "outside", "--confirm", "--json")
    assert code == 1
    assert "systemd does not run it" in json.dumps(answer)
    assert outside.ref() == by_hand
    assert (inside.starts(), outside.starts()) == (2, 2)
    assert proc.send_signal(by_hand, signal.SIGKILL)


@pytest.mark.req("R3", "R8")
def test_a_service_that_only_its_pid_file_calls_dead_is_not_restarted_by_itself(
    here: Site, systemd: UserManager
) -> None:
    service = here.service("lives")
    systemd.unit("lives", service.argv, "Restart=always")
    lives = service.wait_new(None)
    table = toml(service, 'systemd = "lives.service", user = true', systemd.environment)
    daemon = here.daemon(POLICY + table.replace(str(service.pid_file), f"{service.pid_file}.wrong"))
    daemon.start()
    (row,) = daemon.wait_state("lives", "escalated")
    assert "takes it for running" in programs(row)
    assert service.ref() == lives
    assert service.starts() == 1
