"""What a scrape costs with 10,000 open incidents, and what the engine's answers take meanwhile.

The floor is the page of the same daemon before there was any incident, and the engine's answers without scrapes.
`python -m tests.bench.bench_metrics` prints JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable

import zmq

from supervisor import clock
from supervisor.incidents.readings import HealthReading, PidFile, ProcessData
from supervisor.messages import VERSION, Frame, Hello, Readings, decode_frame, encode
from supervisor.sockets import endpoint, new_context, open_socket
from tests.acceptance.test_metrics import free_port, listen, scrape
from tests.lab.daemon import Daemon, site, until

INCIDENTS = 10_000
BATCH = 100
SCRAPES = 20
SCRAPERS = 8  # without a pause between two scrapes
ANSWERS = 300


def service_toml() -> str:
    return "".join(f"[process.svc{n}]\nmatch = 'bench-nobody-{n}$'\ninterval = \"1h\"\n" for n in range(INCIDENTS))


def fall_ill(daemon: Daemon) -> None:
    """Every service is dead, by readings as a probe sends them."""
    context = new_context()
    try:
        link = open_socket(context, zmq.DEALER, identity="bench")
        link.connect(endpoint(daemon.runtime_dir, "healer"))
        link.send(encode(Frame(VERSION, "bench.hello", "", Hello("bench", "bench.1"))))
        for first in range(0, INCIDENTS, BATCH):
            at_s, wall_s, data = clock.monotonic_s(), clock.wall_s(), ProcessData(False, None, PidFile.STALE)
            batch = tuple(
                HealthReading(f"svc{n}", "process", at_s, wall_s, 0.3, 60_000, True, data)
                for n in range(first, first + BATCH)
            )
            link.send(encode(Frame(VERSION, f"bench.{os.urandom(4).hex()}", "", Readings(batch))))
            while not decode_frame(link.recv()).re:
                pass
        link.close()
    finally:
        context.term()


def timed_ms(run: Callable[[], object], count: int, apart_s: float = 0.0) -> list[float]:
    found = []
    for _ in range(count):
        began_s = time.perf_counter()
        run()
        found.append((time.perf_counter() - began_s) * 1000)
        time.sleep(apart_s)
    return found


def quantiles(found: list[float]) -> dict[str, float]:
    ordered = sorted(found)
    return {"median_ms": round(statistics.median(ordered), 2), "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2)}


def while_scraped(port: int, run: Callable[[], list[float]]) -> tuple[list[float], int]:
    """What `run` finds while SCRAPERS scrape without a pause; how often they did."""
    over, done = threading.Event(), [0] * SCRAPERS

    def scraper(n: int) -> None:
        while not over.is_set():
            done[n] += scrape(port)[0] == 200

    threads = [threading.Thread(target=scraper, args=(n,)) for n in range(SCRAPERS)]
    for thread in threads:
        thread.start()
    try:
        return run(), sum(done)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def main() -> dict[str, object]:
    port = free_port()
    with site() as here:
        daemon = here.daemon(service_toml() + listen(port))
        daemon.start()
        until("it listens", lambda: scrape(port)[0] == 200)
        empty = timed_ms(lambda: scrape(port), SCRAPES, 1.1)  # each a new page: one is good for a second
        fall_ill(daemon)
        until(
            "every incident",
            lambda: daemon.ask("stats")["self_healing_status"]["open_incident_count"] >= INCIDENTS,
            300,
        )
        full = timed_ms(lambda: scrape(port), SCRAPES, 1.1)

        def answers() -> list[float]:
            return timed_ms(lambda: daemon.ask("stats"), ANSWERS)

        alone = answers()
        scraped, scrapes = while_scraped(port, answers)
        return {
            "incidents": INCIDENTS,
            "page_bytes": len(scrape(port)[1]),
            "scrape_without_incidents": quantiles(empty),
            "scrape": quantiles(full),
            "engine_answers_alone": quantiles(alone),
            "engine_answers_while_scraped": quantiles(scraped),
            "scrapes_meanwhile": scrapes,
        }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
