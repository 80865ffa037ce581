"""The snapshot before the first change: what it holds, and that a repair goes on without it where it cannot be had."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import msgspec
import pytest

from remediators import evidence, run
from remediators.base import Context, StepFailed
from supervisor.config import Config
from supervisor.incidents.model import Authority, Effect, StepSpec
from tests.process import executorlab as lab

started = lab.started


def files(core: lab.Core) -> list[Path]:
    return sorted((core.state_dir / evidence.FOLDER).glob("*")) if (core.state_dir / evidence.FOLDER).exists() else []


@pytest.mark.req("FR-003", "FR-005")
def test_what_a_service_was_before_it_was_ended_is_kept_without_its_secrets(
    tmp_path: Path, started: lab.Started
) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            old = await started.toy(tmp_path, "--name", "token=hunter2hunter2")
            output = core.state_dir / "output" / "toy.log"
            output.parent.mkdir()
            output.write_text("connecting to https://bob:hunter2@db.example/\n")
            execution = lab.execution(lab.toy(tmp_path), authority=Authority.PERSON, grounds_mono_s=None, known=old)
            results = await core.execute(execution)
            started.add(results[-1].process)
            assert [result.success for result in results] == [True, True]
            (file,) = files(core)
            assert results[0].artifacts[0] == str(file)
            assert str(file) not in results[1].artifacts, "it belongs to the first change"
            assert file.stat().st_mode & 0o777 == 0o600
            assert file.parent.stat().st_mode & 0o777 == 0o700
            text = file.read_text()
            assert "hunter2" not in text
            told = msgspec.json.decode(text)
            (process,) = told["facts"]["processes"]
            assert process["pid"] == old.pid
            assert "token=[redacted]" in process["command"]
            assert told["facts"]["pid_file"]["status"] == "ok"
            assert "https://bob:[redacted]@db.example/" in told["facts"]["last_output"]["end"]

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R10")
@pytest.mark.parametrize("how", ["no folder", "hangs"])
def test_a_repair_goes_on_without_its_evidence_and_says_so(
    tmp_path: Path, started: lab.Started, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(evidence, "WITHIN_S", 0.2)
    let_go = threading.Event()
    if how == "hangs":
        monkeypatch.setattr(evidence, "_sync", lambda folder: let_go.wait(lab.DEADLINE_S))

    async def scenario() -> None:
        async with lab.lab() as core:
            if how == "no folder":
                (core.state_dir / evidence.FOLDER).write_text("in the way")
            results = await core.execute(lab.execution(lab.toy(tmp_path)))
            started.add(results[-1].process)
            assert [result.success for result in results] == [True, True]
            assert "the evidence could not be written" in results[0].output
            assert results[0].artifacts == ()

    try:
        asyncio.run(scenario())
    finally:
        let_go.set()


@pytest.mark.req("FR-003", "NFR-002")
def test_a_disk_that_hangs_keeps_no_executor_from_ending_and_takes_only_so_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    hanging: list[threading.Thread] = []

    def hang(folder: Path) -> None:
        hanging.append(threading.current_thread())
        let_go.wait(lab.DEADLINE_S)

    monkeypatch.setattr(evidence, "WITHIN_S", 0.1)
    monkeypatch.setattr(evidence, "WRITING_MAX", 2)
    monkeypatch.setattr(evidence, "_writing", set())
    monkeypatch.setattr(evidence, "_sync", hang)
    try:
        for _ in range(evidence.WRITING_MAX):
            with pytest.raises(StepFailed, match="within"):
                asyncio.run(evidence.snapshot(context(tmp_path)))
        with pytest.raises(StepFailed, match="2 before it have not come to an end"):
            asyncio.run(evidence.snapshot(context(tmp_path)))
        assert [thread.daemon for thread in hanging] == [True, True]
    finally:
        let_go.set()
    for thread in hanging:
        thread.join(lab.DEADLINE_S)
    monkeypatch.undo()
    assert asyncio.run(evidence.snapshot(context(tmp_path))).exists()


@pytest.mark.req("R10")
def test_before_what_only_protects_nothing_is_gathered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            spec = StepSpec("verify", "verify-backup", Effect.OBSERVE)
            runbook = msgspec.structs.replace(lab.COMMAND, steps=(spec,), starts_service=False)
            await core.execute(lab.execution(lab.target("t", ("true",)), runbook=runbook))
            assert files(core) == []

    asyncio.run(scenario())


def context(state_dir: Path, **changes: object) -> Context:
    nothing: object = None
    execution = msgspec.structs.replace(lab.execution(lab.target("t", ("true",))), **changes)
    return Context(execution, nothing, state_dir, frozenset(), Config(), nothing, nothing)  # type: ignore[arg-type]


def test_the_folder_and_each_file_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "FILES_MAX", 10)
    monkeypatch.setattr(evidence, "FEWER", 4)
    made = []
    for number in range(11):
        made.append(asyncio.run(evidence.snapshot(context(tmp_path, id=f"x{number}"))))
        os.utime(made[-1], (number + 1, number + 1))
    assert sorted(path.name for path in made if path.exists()) == sorted(f"x{n}.json" for n in range(5, 11))
    large = evidence.encoded({"execution_id": "x", "reading": {"a": "b"}, "facts": {"c": ["word "] * 100_000}})
    assert len(large) < evidence.FILE_BYTES_MAX
    assert msgspec.json.decode(large)["reading"] == {"a": "b"}
    assert "left out" in msgspec.json.decode(large)["facts"]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lab import mounts

    with mounts.tmpfs(tmp_path / "full", "size=16k") as full:
        mounts.fill(full, 12 * 1024, "filler")
        (full / "more").touch()
        with pytest.raises(StepFailed, match="could not be written"):
            asyncio.run(evidence.snapshot(context(full, runbook=_wordy())))
        assert list((full / evidence.FOLDER).glob("*")) == []


def _wordy() -> object:
    return msgspec.structs.replace(lab.COMMAND, id="r" * 9000)


def test_what_is_told_of_missing_evidence_is_told_once() -> None:
    result = run.StepResult("s", False, "nothing was done, for it broke", 1.0)
    assert run.Evidence(problem="it broke").told(result) == result
    assert run.Evidence(problem="disk full").told(result).output == "nothing was done, for it broke (disk full)"
    assert run.Evidence(path="/e").told(result).artifacts == ("/e",)
