"""How long a page takes, and how long it takes to catch up after an outage.

`page`: kill -9 of a service that nobody may restart, on the whole daemon, to its message being accepted by the Signal
daemon (a double, a process of its own, which notes the time). 20 of them on four daemons, since the sixth within two
minutes would be gathered. `outage`: 1,000 messages wait while every connection is refused, until their intervals are at
their longest as after ten minutes; then the daemon is there: until the first is accepted, and until each has its
receipt. The floor of the same run is bare POSTs to the double: one after another, and as many at once as the notifier.

`python -m tests.bench.bench_page [PAGES]` prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from supervisor import clock, http
from supervisor.notifier import signal_rpc
from supervisor.notifier.process import SLOTS
from supervisor.notifier.ways import RPC_PATH
from tests.bench.bench_probe import quantiles
from tests.doubles.notifier_lab import Healer, NotifierProcess, config, row
from tests.lab.daemon import site, until
from tests.soak.test_pages_arrive import Victims, rss_bytes
from tests.soak.test_signal_flapping import Daemon as SignalDaemon

PAGES = 20
PAGES_A_DAEMON = 5
MESSAGES = 1_000
OUTAGE_S = 35.0  # 1, 2, 4, 8 and 16 s: from then on a page is tried every 30 s, however long it lasts
FLOOR_RUNS = 100


def pages_s(count: int) -> list[float]:
    """From each kill to the moment at which its page was accepted."""
    took: list[float] = []
    for _ in range(0, count, PAGES_A_DAEMON):
        with site() as here:
            victims, signal = Victims(here.folder, PAGES_A_DAEMON), SignalDaemon(here.folder)
            notify = (
                f'[notify.signal]\ntransports = ["{signal.transports[0]}"]\n'
                'account = "+15550100"\nrecipient = "+15550101"\n'
            )
            daemon = here.daemon(victims.toml() + notify)
            try:
                daemon.start()
                until("every process is known", lambda: len(daemon._known()) == PAGES_A_DAEMON)  # noqa: B023
                for n, name in enumerate(victims.names, 1):
                    began_s = clock.wall_s()
                    victims.kill(name)
                    until(f"page {n}", lambda: len(signal.lines()) == n)  # noqa: B023
                    took.append(signal.lines()[-1]["at_wall_s"] - began_s)
            finally:
                daemon.end()
                signal.kill()
                victims.close()
    return took


async def post(url: str, n: int) -> None:
    body = signal_rpc.request(f"bare{n}", "+15550100", signal_rpc.address("+15550101"), f"bare message {n}")
    headers = (("content-type", "application/json"),)
    answer = await http.request(url, method="POST", path=RPC_PATH, headers=headers, body=body, timeout_s=20)
    assert answer.status == 200


async def bare(url: str, count: int, at_once: int) -> list[float]:
    """How long each of so many bare POSTs takes, `at_once` of them side by side."""
    took: list[float] = []
    numbers = iter(range(count))

    async def work() -> None:
        for n in numbers:
            began_s = time.monotonic()
            await post(url, n)
            took.append(time.monotonic() - began_s)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return took


async def outage(folder: Path, signal: SignalDaemon) -> dict[str, float]:
    url = signal.transports[0]
    began_s = time.monotonic()
    await bare(url, MESSAGES, SLOTS)
    floor_s = time.monotonic() - began_s
    one_s = statistics.median(await bare(url, FLOOR_RUNS, 1))
    before = len(signal.lines())
    signal.kill()
    healer = Healer(folder)
    notifier = NotifierProcess(folder, config(url), "n1")
    try:
        await asyncio.to_thread(notifier.wait_ready)
        names = [f"r{n:05d}" for n in range(MESSAGES)]
        for name in names:
            healer.deliver(row(name))
        await asyncio.sleep(OUTAGE_S)
        opened_s = time.monotonic()
        await asyncio.to_thread(signal.start)
        receipts: set[str] = set()

        def all_have_theirs() -> bool:
            receipts.update(one.row_id for one in healer.reports if one.receipt)
            return len(receipts) == MESSAGES

        await healer.until(lambda: any(one.receipt for one in healer.reports), 60)
        first_s = time.monotonic()
        await healer.until(all_have_theirs, 120)
        over_s = time.monotonic()
        used_bytes = rss_bytes(notifier.process.pid)
    finally:
        notifier.kill()
        healer.close()
    assert len(signal.lines()) - before == MESSAGES, "no second copies"
    return {
        "messages": MESSAGES,
        "until_first_s": round(first_s - opened_s, 3),  # at most the 30 s between two attempts
        "first_to_last_s": round(over_s - first_s, 3),
        "floor_s": round(floor_s, 3),
        "floor_one_ms": round(one_s * 1000, 3),
        "notifier_rss_mib": round(used_bytes / 2**20, 1),
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PAGES
    folder = Path(tempfile.mkdtemp(prefix="hc"))
    signal = SignalDaemon(folder)
    try:
        waited: dict[str, Any] = asyncio.run(outage(folder, signal))
    finally:
        signal.kill()
        shutil.rmtree(folder)
    print(json.dumps({"page": quantiles(pages_s(count)), "outage": waited}, indent=2))


if __name__ == "__main__":
    main()
