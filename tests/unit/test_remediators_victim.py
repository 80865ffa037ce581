"""Whom rb-force-gc may choose, by a process table that is made up: doubt protects."""

from __future__ import annotations

import pytest

from remediators import victim
from remediators.processes import Process, ancestors, descendants
from supervisor import proc
from supervisor.config import Config, parse

MIB = 1024**2


def process(pid: int, name: str = "app", parent: int = 1, mib: int = 100, uid: int = 0, **keys: object) -> Process:
    words = keys.pop("words", (f"/usr/bin/{name}",))
    never = keys.pop("never_oom", False)
    stat = proc.Stat(
        pid=pid, name=name, state="S", parent_pid=parent, group=pid, session=int(keys.pop("session", 99)),  # type: ignore[call-overload]
        start_ticks=pid, rss_bytes=mib * MIB, **keys,
    )  # fmt: skip
    return Process(stat, words, uid, bool(never))  # type: ignore[arg-type]


def why(*others: Process, config: Config | None = None, ours: frozenset[int] = frozenset({500}), uid: int = 0) -> str:
    """Of process 600, the first of them."""
    table = {p.pid: p for p in (process(1, "systemd"), process(500, "x", words=("healctl: executor",)), *others)}
    return victim.protections(table, config or Config(), ours, uid).get(600, "")


@pytest.mark.req("FR-003")
@pytest.mark.parametrize(
    ("mine", "reason"),
    [
        (process(600), ""),
        (process(600, "kworker/0:1", parent=2, kernel=True), "thread of the kernel"),
        (process(600, words=("healctl: store",)), "healctl's own"),
        (process(600, words=("/usr/bin/python3", "/opt/bin/healctl", "start")), "healctl's own"),
        (process(600, parent=500), "healctl's own"),
        (process(600, "sshd"), "part of the system"),
        (process(600, "sshd-session"), "part of the system"),
        (process(600, "tmux: server"), "part of the system"),
        (process(600, "systemd-journal"), "part of the system"),
        (process(600, "dbus-daemon"), "part of the system"),
        (process(600, "node", words=("PM2 v5.3.0: God Daemon (/home)",)), "part of the system"),
        (process(600, "bash", session=600, terminal=34816), "leads a session on a terminal"),
        (process(600, "bash", words=("-bash",)), "login shell"),
        (process(600, never_oom=True), "told the kernel never to kill it"),
        (process(600, "daemon", session=600), ""),  # a daemon leads a session, too: without a terminal
    ],
)
def test_what_protects_a_process_by_itself(mine: Process, reason: str) -> None:
    found = why(mine)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.req("FR-003")
def test_kin_of_what_is_protected_is_protected() -> None:
    assert "healctl descends from it" in why(process(600), process(500, parent=600, words=("healctl: executor",)))
    assert "session of ssh" in why(process(600, parent=601), process(601, "sshd"))


@pytest.mark.req("FR-003", "R3")
def test_another_user_s_is_passed_over_unless_we_are_root() -> None:
    assert "another user" in why(process(600, uid=1000), uid=1001)
    assert why(process(600, uid=1000), uid=1000) == ""
    assert why(process(600, uid=1000), uid=0) == ""


@pytest.mark.req("FR-003")
def test_what_is_declared_is_known_by_its_program_and_by_what_protect_names() -> None:
    toml = (
        '[process.bot]\npid_file = "/nonexistent/bot.pid"\nrestart = { argv = ["/opt/bot", "--run"] }\n'
        '[gateway.gw]\nstatus = ["/usr/bin/node", "/opt/openclaw", "gateway", "status"]\n'
        '[memory]\nprotect = ["^/usr/lib/postgresql/"]\n'
    )
    config = parse(toml, "x")
    gateway = process(700, words=("openclaw-gateway",))
    started = process(601, words=("/opt/bot", "--run"))
    server = process(600, words=("/usr/lib/postgresql/15/bin/postgres",))
    assert "[process.bot]" in why(process(600, words=("/opt/bot", "--run")), gateway, config=config)
    assert "[process.bot]" in why(process(600, words=("/usr/bin/python3", "/opt/bot", "--run")), gateway, config=config)
    assert "[process.bot]" in why(process(600, parent=601), started, gateway, config=config)
    assert "[gateway.gw]" in why(process(600, words=("openclaw-gateway",)), config=config)
    assert "[memory] protect" in why(server, gateway, config=config)
    assert why(process(600, words=("/usr/bin/node", "/srv/web.js")), gateway, config=config) == ""


def test_the_largest_that_may_be_ended_is_chosen_and_the_larger_are_named() -> None:
    table = {p.pid: p for p in (process(900_001, mib=900), process(900_002, mib=500), process(900_003, mib=700))}
    chosen = victim.choose(table, {900_001: "why"}, None, 1 * MIB)
    assert chosen.victim is not None
    assert chosen.victim.process.pid == 900_003
    assert [(p.pid, reason) for p, reason in chosen.passed_over] == [(900_001, "why")]
    assert victim.choose(table, {900_001: "why"}, None, 701 * MIB).victim is None
    inside = victim.choose(table, {}, frozenset({900_002}), 1 * MIB)
    assert inside.victim is not None
    assert inside.victim.process.pid == 900_002
    assert {p.pid for p, _ in inside.passed_over} == {900_001, 900_003}


def test_descent_is_followed_through_sessions_and_loops_do_not_matter() -> None:
    table = {p.pid: p for p in (process(10, session=10), process(11, session=10, parent=1), process(12, parent=11))}
    assert descendants(table, {10}) == {10, 11, 12}
    looped = {p.pid: p for p in (process(20, parent=21), process(21, parent=20))}
    assert ancestors(looped, {20}) == {20, 21}
