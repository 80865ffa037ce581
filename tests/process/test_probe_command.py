"""Programs that a probe starts, on real ones: what they said, why they said nothing, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probes import command
from probes.command import CommandFailed, Kind, Output
from supervisor import proc
from supervisor.incidents.readings import ProcessRef, Unavailable

PY = sys.executable
LONG_S = 60.0


def run(*argv: str, timeout_s: float = LONG_S, **more: object) -> Output:
    return asyncio.run(command.run(argv, timeout_s, **more))  # type: ignore[arg-type]


def failed(*argv: str, timeout_s: float = LONG_S, **more: object) -> CommandFailed:
    with pytest.raises(CommandFailed) as caught:
        run(*argv, timeout_s=timeout_s, **more)
    return caught.value


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def written(path: Path) -> str:
    """What a program has written there, once it has."""
    deadline = time.monotonic() + LONG_S
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline, f"{path} is not written"
        time.sleep(0.005)
    return path.read_text().strip()


def await_end(ref: ProcessRef) -> None:
    deadline = time.monotonic() + LONG_S
    while (status := proc.same(ref)) is not None and status.live:
        assert time.monotonic() < deadline, f"{status} lives on"
        time.sleep(0.005)


def ref_of(pid: str) -> ProcessRef:
    status = proc.stat(int(pid))
    assert status is not None
    return status.ref


def children() -> list[int]:
    """Our own, zombies included."""
    return [s.ref.pid for pid in proc.pids() if (s := proc.stat(pid)) is not None and s.parent_pid == os.getpid()]


@pytest.fixture(autouse=True)
def _nothing_stays() -> object:
    before, descriptors = set(children()), set(os.listdir("/proc/self/fd"))
    yield
    deadline = time.monotonic() + 60
    while (left := set(children()) - before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not left, "every program was reaped"
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert not command._lingering


@pytest.mark.req("R9", "R11")
def test_what_it_said_and_how_it_ended() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run(PY, "-c", code) == Output(3, b"out\n", b"err\n")
    assert run(PY, "-c", "import os; os.kill(os.getpid(), 15)").code == -signal.SIGTERM


@pytest.mark.req("R11")
def test_no_shell_no_stdin_none_of_our_descriptors_and_a_session_of_its_own(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(sys.argv[1:], sys.stdin.read() == '', os.getcwd(), os.getsid(0) == os.getpid(), "
        "os.getpgid(0) == os.getpid(), sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])"
    )
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        said = run(PY, "-c", code, "$(id) ; *", "a b").stdout.decode()
    assert said.strip() == "['$(id) ; *', 'a b'] True / True True [0, 1, 2]"


def test_our_environment_and_more_but_not_our_own_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HC_OURS", "1")
    monkeypatch.setenv("PATH", f"{os.path.dirname(PY)}:/usr/bin:/bin")
    code = "import os; print(os.environ['HC_OURS'], os.environ['HC_MORE'], os.environ['PATH'])"
    assert run(PY, "-c", code, env={"HC_MORE": "2"}).stdout == b"1 2 /usr/bin:/bin\n"


@pytest.mark.req("R9")
def test_a_missing_program(tmp_path: Path) -> None:
    for argv in ("/nonexistent/openclaw", "no-such-program-hc", str(tmp_path / "x\0y")):
        error = failed(argv)
        assert (error.kind, error.reason) == (Kind.MISSING, Unavailable.MISSING), argv
    assert "no-such-program-hc does not exist in" in failed("no-such-program-hc").message
    orphan = script(tmp_path / "orphan", "#!/nonexistent/node\n")
    assert failed(orphan).kind == "missing"
    assert failed().kind == Kind.ERROR
    assert failed("").kind == Kind.ERROR


@pytest.mark.req("R9")
def test_without_the_wrapper_the_reasons_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "_wrapper", lambda: ())
    assert run("true").code == 0
    assert failed(script(tmp_path / "orphan", "#!/nonexistent/node\n")).kind == Kind.MISSING
    assert failed(script(tmp_path / "binary", "\x7fELF no program")).kind == Kind.ERROR
    assert failed("true", "x\0y").kind == Kind.ERROR


@pytest.mark.req("R9")
def test_no_permission(tmp_path: Path) -> None:
    for name in (script(tmp_path / "data", "#!/bin/sh\n", 0o644), str(tmp_path)):
        error = failed(name)
        assert (error.kind, error.reason) == (Kind.PERMISSION, Unavailable.PERMISSION)
        assert name in error.message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody who may not look")
@pytest.mark.req("R9")
def test_a_folder_that_we_may_not_look_into(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    program = script(tmp_path / "closed" / "program", "#!/bin/sh\n")
    code = f"""
import asyncio, os
from probes import command
os.setresuid(65534, 65534, 65534)
try:
    asyncio.run(command.run([{program!r}], 5))
except command.CommandFailed as error:
    print(error.kind)
"""
    done = subprocess.run([PY, "-c", code], capture_output=True, check=False, cwd=Path(command.__file__).parents[1])
    assert done.stdout == b"permission\n", done.stderr


LEAVES_A_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
print("said", flush=True)
with open(sys.argv[1], "w") as f: f.write(f"{os.getpid()} {child.pid}\\n")
if len(sys.argv) > 2: time.sleep(600)
"""


@pytest.mark.req("R9")
def test_at_the_timeout_the_whole_group_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pids"

    async def main() -> list[ProcessRef]:
        running = asyncio.ensure_future(command.run([PY, "-c", LEAVES_A_CHILD, str(file), "hang"], 3))
        refs = [ref_of(pid) for pid in (await asyncio.to_thread(written, file)).split()]
        with pytest.raises(CommandFailed, match="did not end within 3 s") as caught:
            await running
        assert caught.value.kind == Kind.TIMEOUT
        return refs

    for ref in asyncio.run(main()):
        await_end(ref)


@pytest.mark.req("R9")
def test_when_the_caller_is_cancelled_too_and_the_next_call_is_not_held_back(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    argv = [PY, "-c", LEAVES_A_CHILD, str(file), "hang"]

    async def main() -> list[ProcessRef]:
        running = asyncio.ensure_future(command.run(argv, LONG_S))
        refs = [ref_of(pid) for pid in (await asyncio.to_thread(written, file)).split()]
        running.cancel()
        again = asyncio.ensure_future(command.run(argv, 1.0))  # as a probe does whose read is begun anew
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(CommandFailed, match="did not end within 1 s"):
            await again
        return refs

    for ref in asyncio.run(main()):
        await_end(ref)


def test_what_it_leaves_behind_neither_delays_the_answer_nor_stays(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    assert run(PY, "-c", LEAVES_A_CHILD, str(file)).stdout == b"said\n"
    child = proc.stat(int(written(file).split()[1]))
    if child is not None:
        await_end(child.ref)


@pytest.mark.req("R9")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_never_stops_talking(stream: str) -> None:
    code = f"import sys\nwhile True: sys.{stream}.write('x' * 4096)"
    error = failed(PY, "-c", code)
    assert (error.kind, error.reason) == (Kind.TOO_MUCH, Unavailable.BAD_DATA)


def test_exactly_the_limit_is_not_too_much() -> None:
    assert len(run(PY, "-c", "print('x' * 99)", stdout_bytes_max=100).stdout) == 100
    assert failed(PY, "-c", "print('x' * 100)", stdout_bytes_max=100).kind == Kind.TOO_MUCH


def test_more_than_run_at_once_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "COMMANDS_MAX", 2)

    async def main() -> None:
        slow = [asyncio.ensure_future(command.run(["sleep", "600"], 60)) for _ in range(2)]
        while len([pid for pid in children() if "sleep" in " ".join(proc.command_line(pid))]) < 2:
            await asyncio.sleep(0.005)
        late = command.run(["true"], 0.05)
        with pytest.raises(CommandFailed, match="did not end"):
            await late
        for one in slow:
            one.cancel()
        assert (await command.run(["true"], LONG_S)).code == 0
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.req("R9")
def test_the_loop_goes_on_while_an_exec_hangs_and_the_same_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A FIFO read by the thread stands for the dead mount: only the thread hangs."""
    fifo, start = tmp_path / "fifo", command._start
    os.mkfifo(fifo)

    def hangs(argv: tuple[str, ...], env: dict[str, str]) -> subprocess.Popen[bytes]:
        if argv[0] == "hung":
            fifo.read_text()
            argv = ("true",)
        return start(argv, env)

    monkeypatch.setattr(command, "_start", hangs)

    async def main() -> None:
        hung = asyncio.ensure_future(command.run(["hung"], 0.1))
        assert (await command.run(["true"], LONG_S)).code == 0, "another is not delayed"
        with pytest.raises(CommandFailed, match="did not end"):
            await hung
        with pytest.raises(CommandFailed, match="hangs in the kernel"):
            await command.run(["hung"], LONG_S)
        await asyncio.to_thread(fifo.write_text, "on")
        deadline = time.monotonic() + LONG_S
        while command._lingering:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        with pytest.raises(CommandFailed, match="did not end"):
            await command.run(["hung"], 0.1)  # it is started again
        await asyncio.to_thread(fifo.write_text, "on")
        while command._lingering:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), LONG_S))


WORKER = """
import asyncio, sys
from probes import command
asyncio.run(command.run(["sleep", sys.argv[1]], 600))
"""


@pytest.mark.skipif(not command._wrapper(), reason="setpriv of util-linux is not installed")
def test_a_worker_killed_with_kill_9_takes_its_program_along() -> None:
    naptime = "601.25"
    worker = subprocess.Popen([PY, "-c", WORKER, naptime], cwd=Path(command.__file__).parents[1])
    try:
        found = wait_for(lambda: [p for p in proc.pids() if tuple(proc.command_line(p)[1:]) == (naptime,)])
        program = ref_of(str(found[0]))
    finally:
        worker.kill()
        worker.wait()
    await_end(program)


def wait_for(look: Callable[[], list[int]]) -> list[int]:
    deadline = time.monotonic() + LONG_S
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found
