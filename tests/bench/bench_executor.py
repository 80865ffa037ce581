"""How fast is a decision a running program? From the dispatch at the healer to the exec, and to the step's report; one
at a time, then 20 at once. The floor of the same run: posix_spawn of the same program, and one gated start by itself.

The executor is a process of its own; the core is in this one, with a store that answers at once: the ledger's fsync is
not in these figures. `python -m tests.bench.bench_executor` prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

from remediators import fence
from remediators.command import command_of
from remediators.keeper import Keeper
from supervisor import proc
from supervisor.incidents.model import Recipe
from supervisor.messages import StepReport
from tests.bench.cost import pss_kib
from tests.process import executorlab as lab

RUNS = 200
BURSTS = 10
AT_ONCE = 20
IDLE_S = 0.1  # between runs: deaths come seldom, and the executor has a spare ready then
SLEEPER = Recipe(argv=("/bin/sleep", "86399"))


def quantiles(times_s: list[float]) -> dict[str, float]:
    ordered = sorted(times_s)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

    return {"n": len(ordered), "p50_ms": at(0.5), "p95_ms": at(0.95), "max_ms": at(1.0)}


def floor_spawn() -> dict[str, float]:
    """posix_spawn until the kernel shows the new program: no session, no record, no gate."""
    times = []
    for _ in range(RUNS):
        began_s = time.monotonic()
        pid = os.posix_spawn(SLEEPER.argv[0], SLEEPER.argv, {})
        times.append(time.monotonic() - began_s)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return quantiles(times)


async def gated() -> dict[str, float]:
    """Both forks, the gate and the exec, in this process: what the safety costs without anything recorded."""
    times = []
    with open(os.devnull, "wb") as null:
        for _ in range(RUNS):
            began_s = time.monotonic()
            keeper = Keeper()
            held = keeper.program()
            await held.order(command_of(SLEEPER), null.fileno())
            await held.release()
            times.append(time.monotonic() - began_s)
            lab.kill(held.process)
            await held.ended()
            held.let_go()
            keeper.retire()
    return quantiles(times)


def memory_kib(executor: int) -> dict[str, float]:
    """The executor, and what its spare pair adds; watched programs' keepers are gone by then."""
    status = proc.stat(executor)
    assert status is not None
    spare = [ref.pid for ref in fence.family(status.ref)]
    return {"executor": pss_kib(executor), "spare": sum(map(pss_kib, spare)), "spare_processes": len(spare)}


async def through_the_executor() -> dict[str, dict[str, float]]:
    async with lab.core() as core:
        executor = lab.Executor(core, "bench")
        target = lab.target("bench", SLEEPER.argv, match="no such command line at all")
        await core.finish(lab.execution(target))
        lab.kill(core.programs[0].process)
        one: list[float] = []
        for _ in range(RUNS):
            began_s = time.monotonic()
            await core.finish(lab.execution(target))
            one.append(time.monotonic() - began_s)
            lab.kill(core.programs[-1].process)
            await asyncio.sleep(IDLE_S)
        with_pid_file: list[float] = []
        for number in range(RUNS):
            named = lab.target("bench", SLEEPER.argv, pid_file=str(core.runtime_dir / f"{number}.pid"))
            began_s = time.monotonic()
            await core.finish(lab.execution(named))
            with_pid_file.append(time.monotonic() - began_s)
            lab.kill(core.programs[-1].process)
            await asyncio.sleep(IDLE_S)
        burst: list[float] = []
        for _ in range(BURSTS):
            before = len(core.programs)
            targets = [
                lab.target(f"b{number}", SLEEPER.argv, pid_file=str(core.runtime_dir / f"b{number}.pid"))
                for number in range(AT_ONCE)
            ]
            began_s = time.monotonic()
            await asyncio.gather(*(core.finish(lab.execution(of)) for of in targets))
            burst.append(time.monotonic() - began_s)
            lab.kill(*(program.process for program in core.programs[before:]))
            await asyncio.sleep(IDLE_S)
        memory = memory_kib(executor.process.pid)
        assert all(body.result.success for body in core.came if isinstance(body, StepReport))
        return {
            "dispatch_to_last_report_pid_file": quantiles(with_pid_file),
            "dispatch_to_last_report_match": quantiles(one),
            f"{AT_ONCE}_at_once_to_last_report": quantiles(burst),
            "idle_pss_kib": memory,
        }


def main() -> None:
    figures: dict[str, object] = {"floor_posix_spawn": floor_spawn()}
    figures["gated_start"] = asyncio.run(gated())
    figures |= asyncio.run(through_the_executor())
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
