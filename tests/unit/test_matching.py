"""A person's commands against what the configuration knows (FR-006, R11): recognised, or kept as a note."""

from __future__ import annotations

import pytest

from remediators.registry import faults
from remediators.runbooks import RUNBOOKS
from supervisor.config import parse
from supervisor.incidents.matching import Command, draft, harmless, looks_only, meaning_of, split
from supervisor.incidents.model import MANUAL, AnomalyType, Effect, Runbook, Target
from supervisor.meanings import meanings

CONFIG = """
[process.web]
match = "web"
restart = { systemd = "web.service" }
[process.app]
match = "app"
restart = { pm2 = "app" }
[process.mine]
match = "mine"
restart = { argv = ["/opt/mine/bin/mined", "--port", "80"] }
[process.user]
match = "user"
restart = { systemd = "agent", user = true }
"""
KNOWN = meanings(parse(CONFIG, "test"))
BOOKS = {book.id: book for book in RUNBOOKS}


@pytest.mark.req("FR-006")
@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("systemctl restart web", "web"),
        ("sudo systemctl restart web.service", "web"),
        ("sudo -n /usr/bin/systemctl start web", "web"),
        ("service web restart", "web"),
        ("pm2 restart app", "app"),
        ("nohup /opt/mine/bin/mined --port 80", "mine"),
        ("systemctl --user restart agent", "user"),
        ("nohup /opt/mine/bin/mined --port 80 >/dev/null 2>&1 </dev/null &", "mine"),
        ("env A=b systemctl restart web", "web"),
    ],
)
def test_a_restart_by_whatever_manager_is_the_restart_of_that_target(text: str, target: str) -> None:
    (command,) = split(text)
    found = meaning_of(command, KNOWN)
    assert found is not None
    assert (found.runbook_id, found.target_id) == ("rb-restart-service", target)


@pytest.mark.req("FR-006", "R11")
@pytest.mark.parametrize(
    "text",
    [
        "systemctl restart other",
        "systemctl restart web other",
        "systemctl restart web; rm -rf /",
        "systemctl restart $(cat /etc/passwd)",
        "systemctl restart web | tee x",
        "systemctl stop web",
        "systemctl restart agent",
        "/opt/mine/bin/mined --port 81",
        "systemctl restart we*",
        "restart web",
        "",
        "'",
        "sudo",
    ],
)
def test_what_is_not_exactly_that_is_nothing_that_runs(text: str) -> None:
    commands = split(text)
    book = made(*commands)
    kinds = {step.kind for step in book.steps}
    if "; rm" in text:  # the first half is known, the other is a note
        assert kinds == {"stop-service", "start-service", MANUAL}
    else:
        assert kinds == {MANUAL}
    assert all("rm" not in str(step.params) for step in book.steps if step.kind != MANUAL)


def made(*commands: Command, target: str = "web") -> Runbook:
    book = draft(commands, "it hung", AnomalyType.PROCESS_DEAD, Target(target, "process"), "person:anna", BOOKS, KNOWN)
    assert list(faults(book)) == []
    return book


@pytest.mark.req("FR-006", "R3")
def test_a_draft_has_the_registered_steps_for_that_target_alone() -> None:
    book = made(("systemctl", "restart", "web"))
    assert [step.kind for step in book.steps] == ["stop-service", "start-service"]
    assert (book.targets, book.applies_to, book.starts_service) == (("web",), (AnomalyType.PROCESS_DEAD,), False)
    assert book.resource == BOOKS["rb-restart-service"].resource
    assert made(("systemctl", "restart", "web")) == book, "the same fix is the same draft"
    assert made(("systemctl", "restart", "web"), target="app").steps[0].kind == MANUAL, "another target's restart"


@pytest.mark.req("FR-006")
def test_what_only_looks_is_no_part_of_a_fix() -> None:
    for text in ("ls -l", "journalctl -u web", "systemctl status web", "sudo cat /var/log/x", "pm2 list", "healctl x"):
        (command,) = split(text)
        assert looks_only(command), text
    book = made(("ls",), ("systemctl", "restart", "web"), ("systemctl", "restart", "web"))
    assert len(book.steps) == 2


@pytest.mark.req("FR-006", "R11")
def test_a_note_is_no_runbook_that_suits_anything_and_keeps_no_secret() -> None:
    (command,) = split("mysql -pS3cr3tS3cr3t -e 'flush tables'")
    book = made(harmless(command))
    assert book.by_hand
    assert not book.suits(AnomalyType.PROCESS_DEAD, "web")
    assert "S3cr3t" not in str(book)
    assert {step.effect for step in book.steps} == {Effect.OBSERVE}


@pytest.mark.req("FR-006", "R11")
def test_a_shells_line_is_cut_into_commands_or_kept_whole() -> None:
    assert split("a b && c 'd e'; f") == (("a", "b"), ("c", "d e"), ("f",))
    for text in ("a | b", "a > b", "a `b`", "a $b", "a & b", "for x in *; do y; done", "a 'b"):
        assert split(text) == ((text,),), text
