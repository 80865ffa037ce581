"""What a process costs: its run time and its share of memory, as the kernel counts them."""

from __future__ import annotations

from pathlib import Path


def cpu_s(pid: int) -> float:
    """Of all its threads, from the scheduler: a tick of 10 ms would hide what an idle worker uses."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
