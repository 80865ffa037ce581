"""How long each stage of a drill takes on the real daemon: the median of DRILLS, in ms since it was asked for.

The floors, in the same run: one bare POST of a message to the double that stands for Signal, and `settle`, for which
whatever was repaired must stay well before it counts as verified.
`python -m tests.bench.bench_drill` prints JSON.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time

from supervisor.config import PolicySection
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import site

DRILLS = 10


def bare_post_ms(phone: SignalDouble) -> float:
    """A message over a connection of its own, as the notifier's: accepted, with its timestamp."""
    params = {"account": "+15550000001", "recipient": ["+15550000002"], "message": "floor"}
    body = json.dumps({"jsonrpc": "2.0", "id": "1", "method": "send", "params": params})
    began_s = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", phone.port)
    connection.request("POST", "/api/v1/rpc", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["result"]["timestamp"], answer
    return (time.perf_counter() - began_s) * 1000


def main() -> dict[str, object]:
    found: dict[str, list[float]] = {}
    whole = []
    with SignalDouble() as phone, site() as here:
        daemon = here.daemon(signal_toml(phone))
        daemon.start()
        for _ in range(DRILLS):
            began_s = time.perf_counter()
            code, answer = daemon.cli("drill")
            whole.append((time.perf_counter() - began_s) * 1000)
            assert code == 0, answer
            for stage in answer["stages"]:
                found.setdefault(stage["stage"], []).append(stage["after_ms"])
        posts = [bare_post_ms(phone) for _ in range(DRILLS)]
        daemon.stop()
    to_receipt = [s - v for s, v in zip(found["signal"], found["verified"], strict=True)]
    return {
        "drills": DRILLS,
        "stages_median_ms": {name: round(statistics.median(after), 1) for name, after in found.items()},
        "verified_to_signal_receipt_median_ms": round(statistics.median(to_receipt), 1),
        "command_line_median_ms": round(statistics.median(whole), 1),
        "floor_bare_post_median_ms": round(statistics.median(posts), 1),
        "floor_settle_ms": float(PolicySection().settle) * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
