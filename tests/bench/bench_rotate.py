"""How fast old logs are archived, and how much memory that takes: the real program, beside `gzip` and logrotate on the
same files in the same run.

`python -m tests.bench.bench_rotate [MIB]` prints JSON; by default 512 MiB of logs, in eight files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from remediators.log_choice import LogsJob
from remediators.rotating import Job, Report
from tests.lab.logs import DAY_S, MIB, text, write

FILES = 8
TEXT_BYTES = 16 * MIB  # of text that differs; a log repeats itself after so much, far beyond gzip's window


def logs(folder: Path, total: int) -> list[Path]:
    folder.mkdir()
    block, made = text(TEXT_BYTES), []
    for number in range(FILES):
        made.append(folder / f"app{number}.log")
        times, rest = divmod(total // FILES, TEXT_BYTES)
        write(made[-1], block * times + block[:rest], days_old=8)
    os.sync()
    return made


def family(pid: int) -> list[int]:
    """It and its children: logrotate compresses by one."""
    try:
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except FileNotFoundError:
        return [pid]


def resident_kib(pid: int) -> int:
    """The most that it has had resident so far; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def measured(argv: list[str]) -> tuple[float, int, bytes]:
    """Seconds, the greatest resident memory in KiB (of any process of it), what it printed."""
    began_s = time.perf_counter()
    peak_kib = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        while child.poll() is None:
            peak_kib = max(peak_kib, *(resident_kib(pid) for pid in family(child.pid)))
            time.sleep(0.02)
        out = child.stdout.read() if child.stdout is not None else b""
    assert child.returncode == 0, (argv, out)
    os.sync()  # ours has done that; the peers' data count only once they are written, too
    return time.perf_counter() - began_s, peak_kib, out


def figures(total: int, took_s: float, rss_kib: int, kept: int) -> dict[str, float]:
    return {
        "mib_s": round(total / MIB / took_s, 1),
        "peak_rss_mib": round(rss_kib / 1024, 1),
        "ratio": round(total / kept, 2),
    }


def ours(folder: Path, total: int) -> dict[str, float]:
    logs(folder / "ours", total)
    job = Job((LogsJob("app", (f"{folder}/ours/*.log",), 7 * DAY_S, 100 * MIB),), 1, 3600.0, str(folder / "spare"))
    argv = [sys.executable, "-P", "-m", "remediators.rotating", msgspec.json.encode(job).decode()]
    took_s, rss, out = measured(argv)
    assert msgspec.json.decode(out, type=Report).files == FILES
    return figures(total, took_s, rss, size_of(folder / "ours" / ".archive"))


def gzip(folder: Path, total: int) -> dict[str, float]:
    made = logs(folder / "gzip", total)
    took_s, rss, _ = measured(["gzip", *map(str, made)])
    return figures(total, took_s, rss, size_of(folder / "gzip"))


def logrotate(folder: Path, total: int) -> dict[str, float]:
    made = logs(folder / "logrotate", total)
    rules = folder / "rules"
    rules.write_text(
        f"{folder}/logrotate/*.log {{\n rotate 5\n compress\n nocreate\n su {os.geteuid()} {os.getegid()}\n}}\n"
    )
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin") or ""
    took_s, rss, _ = measured([program, "--force", "--state", str(folder / "state"), str(rules)])
    assert not made[0].exists()
    return figures(total, took_s, rss, size_of(folder / "logrotate"))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def measure(folder: Path, total: int) -> dict[str, object]:
    found: dict[str, object] = {"mib": total // MIB, "files": FILES}
    peers = {"ours": ours, "gzip": gzip}
    if shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin"):
        peers["logrotate"] = logrotate
    for name, work in peers.items():
        place = folder / name
        place.mkdir()
        found[name] = work(place, total)
        shutil.rmtree(place)
    mine, theirs = found["ours"], found["gzip"]
    assert isinstance(mine, dict)
    assert isinstance(theirs, dict)
    found["times_gzip"] = round(mine["mib_s"] / theirs["mib_s"], 1)
    return found


def main() -> None:
    total = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 512 * MIB
    folder = Path(tempfile.mkdtemp(prefix="hc"))
    try:
        print(json.dumps(measure(folder, total), indent=2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
