"""How much the simulator gets through: seeds, incidents and incident-hours for each second of one processor.

By processor time, since seeds are independent and run on as many processors as there are. The floor is the same number
of timers on the same virtual loop, with nothing behind them. `python -m tests.bench.bench_sim` prints JSON.
"""

from __future__ import annotations

import json
import time

from tests.sim.loop import VirtualLoop
from tests.sim.run import Outcome, Simulation, run_plan
from tests.sim.schedule import generate

SEEDS = 60
FIRST = 10_001


def floor(timers: int) -> float:
    """Seconds of the processor for so many timers that do nothing."""
    loop = VirtualLoop()
    left = timers

    def due() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.count = 0
            loop.call_later(0.001, due)

    began_s = time.process_time()
    loop.call_later(0.001, due)
    loop.run_until(loop.time() + timers)
    return time.process_time() - began_s


def measure() -> dict[str, object]:
    timers = 0
    real = Simulation.run

    def run(self: Simulation, ledger_folder: object = None) -> None:
        nonlocal timers
        real(self, ledger_folder)
        timers += self.loop.count

    Simulation.run = run  # type: ignore[method-assign]
    outcomes: list[Outcome] = []
    began_s = time.process_time()
    for seed in range(FIRST, FIRST + SEEDS):
        outcomes.append(run_plan(generate(seed)))
    took_s = time.process_time() - began_s
    Simulation.run = real  # type: ignore[method-assign]
    assert not [outcome.text for outcome in outcomes if outcome.broken]
    return {
        "seeds": SEEDS,
        "seeds_per_cpu_s": round(SEEDS / took_s, 1),
        "incidents_per_cpu_s": round(sum(outcome.incidents for outcome in outcomes) / took_s, 1),
        "incident_hours_per_cpu_s": round(sum(outcome.incident_hours for outcome in outcomes) / took_s, 2),
        "virtual_hours_per_cpu_s": round(sum(outcome.hours for outcome in outcomes) / took_s, 2),
        "timers_per_cpu_s": round(timers / took_s),
        "floor_bare_loop_timers_per_cpu_s": round(timers / floor(timers)),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
