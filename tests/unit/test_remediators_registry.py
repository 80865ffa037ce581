"""The shipped runbooks are valid, and a runbook that understates its effects is refused."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from remediators import registry
from remediators.command import OUTPUT_END_BYTES, Output, clean_environment, command_of, exit_text, missing_program
from remediators.runbooks import RUNBOOKS
from supervisor.incidents.model import AnomalyType, Effect, Recipe, Runbook, StepSpec

RESTART = RUNBOOKS[0]


@pytest.mark.req("FR-003")
def test_the_shipped_runbooks_are_valid_and_their_ids_unique() -> None:
    for runbook in RUNBOOKS:
        registry.validate(runbook)
    assert len({runbook.id for runbook in RUNBOOKS}) == len(RUNBOOKS)
    assert RESTART.id == "rb-restart-service"
    assert RESTART.applies_to == (AnomalyType.PROCESS_DEAD,)
    assert all(step.timeout_s == 30.0 for step in RESTART.steps)


@pytest.mark.req("R3", "NFR-001")
@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((), "0 steps"),
        ((StepSpec("a", "start-service", Effect.OBSERVE),), "declares observe"),
        ((StepSpec("a", "start-service", Effect.PROTECT),), "declares protect"),
        ((StepSpec("a", "rm-rf", Effect.DESTROY),), 'no such kind "rm-rf"'),
        ((StepSpec("a", "start-service", Effect.CHANGE), StepSpec("a", "start-service", Effect.CHANGE)), "not unique"),
        ((StepSpec("a", "start-service", Effect.CHANGE, timeout_s=0),), "timeout 0 s"),
        ((StepSpec("a", "start-service", Effect.CHANGE, timeout_s=float("nan")),), "timeout nan s"),
    ],
)
def test_a_runbook_that_breaks_a_rule_is_refused(steps: tuple[StepSpec, ...], words: str) -> None:
    runbook: Runbook = msgspec.structs.replace(RESTART, steps=steps)
    with pytest.raises(registry.BadRunbook, match=words):
        registry.validate(runbook)


def test_a_harsher_effect_than_needed_may_be_declared() -> None:
    registry.validate(msgspec.structs.replace(RESTART, steps=(StepSpec("a", "start-service", Effect.DESTROY),)))


def test_a_runbook_must_name_what_it_locks() -> None:
    with pytest.raises(registry.BadRunbook, match="resource"):
        registry.validate(msgspec.structs.replace(RESTART, resource=""))


def test_output_keeps_both_ends_whatever_the_chunks() -> None:
    for size in (1, 1000, 65536):
        output = Output()
        text = b"".join(b"%07d\n" % number for number in range(20_000))
        for start in range(0, len(text), size):
            output.add(text[start : start + size])
        kept = output.text()
        assert kept.startswith(text[:OUTPUT_END_BYTES].decode())
        assert kept.endswith(text[-OUTPUT_END_BYTES:].decode())
        assert f"... {len(text) - 2 * OUTPUT_END_BYTES} bytes left out ..." in kept


def test_a_short_output_is_whole() -> None:
    output = Output()
    output.add(b"\xff ok")
    assert output.text() == "\ufffd ok"


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit 0"), (3, "exit 3"), (-9, "killed by SIGKILL"), (-36, "killed by signal 36")],
)
def test_exit_statuses_in_words(code: int, text: str) -> None:
    assert exit_text(code) == text


@pytest.mark.req("R11")
def test_the_environment_is_the_users_and_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALCTL_CONFIG", "/secret")
    monkeypatch.delenv("LANG", raising=False)
    env = clean_environment(Recipe(argv=("x",), env=(("LANG", "de_DE.UTF-8"), ("A", "b"))))
    assert env["LANG"] == "de_DE.UTF-8"
    assert env.keys() == {"PATH", "HOME", "LANG", "USER", "LOGNAME", "A"}


@pytest.mark.req("R11")
def test_under_systemd_the_program_gets_a_scope_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = tmp_path / "systemd-run"
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = command_of(Recipe(argv=("sleep", "1; rm -rf /")))
    assert found.argv == (str(wrapper), "--scope", "--quiet", "--collect", "--", "sleep", "1; rm -rf /")
    monkeypatch.delenv("INVOCATION_ID")
    assert command_of(Recipe(argv=("sleep", "1"))).argv == ("sleep", "1")


def test_what_is_missing_is_named() -> None:
    assert missing_program(Recipe(argv=("sleep",))) == ""
    assert "not an executable" in missing_program(Recipe(argv=("/no/such",)))
    assert "does not exist" in missing_program(Recipe(argv=("sleep",), cwd="/no/such"))
