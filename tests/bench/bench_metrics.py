"""What a page costs the healer and the metrics worker with 10,000 open incidents, and what scrapes cost the engine.

The floors, in the same run: the page of a world without incidents; the engine's answers while nobody scrapes.
`python -m tests.bench.bench_metrics` prints JSON.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable

from msgspec.structs import replace

from supervisor.messages import VERSION, Frame, MetricsFound, decode_frame, encode
from supervisor.metering import Metering
from supervisor.scrape.text import page
from tests.acceptance.test_metrics import free_port, listen, scrape
from tests.lab.daemon import site, until
from tests.lab.engine import Lab

INCIDENTS = 10_000
ROUNDS = 50
SCRAPERS = 4  # without a pause between two scrapes
ANSWERS = 300


def timed_ms(run: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        began_s = time.perf_counter()
        run()
        found.append((time.perf_counter() - began_s) * 1000)
    return found


def cpu_ms(run: Callable[[], object]) -> float:
    """The least of ROUNDS, of this process alone: the machine's other work is not in it."""
    found = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        run()
        found.append((time.process_time() - began_s) * 1000)
    return round(min(found), 2)


def quantiles(found: list[float]) -> dict[str, float]:
    ordered = sorted(found)
    return {"median_ms": round(statistics.median(ordered), 2), "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2)}


def cost(incidents: int) -> dict[str, object]:
    """Of one page, which is made at most once a second however many scrape: the healer's part, then the worker's."""
    lab = Lab("web")
    lab.kill("web")
    (incident,) = lab.incidents()
    for n in range(incidents):
        lab.engine.world.incidents[f"inc-{n}"] = replace(incident, id=f"inc-{n}", target_id=f"svc-{n}")
    metering = Metering(lab.engine.world.tallies.values())

    def healer() -> bytes:
        found = MetricsFound(metering.families(lab.engine.world, [], None, "", lab.now_s))
        return encode(Frame(VERSION, "1", "", found))

    def worker() -> bytes:
        body = decode_frame(raw).body
        assert isinstance(body, MetricsFound)
        return page(body.families)

    raw = healer()
    return {"healer_cpu_ms": cpu_ms(healer), "worker_cpu_ms": cpu_ms(worker)}


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
        daemon = here.daemon(listen(port))
        daemon.start()
        until("it listens", lambda: scrape(port)[0] == 200)
        single = timed_ms(lambda: scrape(port), ROUNDS)

        def answers() -> list[float]:
            return timed_ms(lambda: daemon.ask("stats"), ANSWERS)

        alone = answers()
        scraped, scrapes = while_scraped(port, answers)
        daemon.stop()
    return {
        "page": {"incidents": INCIDENTS, **cost(INCIDENTS)},
        "page_floor": {"incidents": 0, **cost(0)},
        "scrape": quantiles(single),
        "engine_answers_alone": quantiles(alone),
        "engine_answers_while_scraped": {"scrapes": scrapes, "scrapers": SCRAPERS, **quantiles(scraped)},
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
