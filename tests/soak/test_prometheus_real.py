"""A real Prometheus scrapes the real daemon: it knows every series, and a heal is an increase (FR-008, R14)."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.acceptance.conftest import here as here
from tests.acceptance.test_metrics import free_port, listen
from tests.lab.daemon import Site, until

pytestmark = pytest.mark.soak

SCRAPE = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: healctl
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[str]:
    """Its address."""
    own = free_port()
    config = folder / "prometheus.yml"
    config.write_text(SCRAPE.format(port=port))
    argv = [str(parts.prometheus()), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{own}"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait(30)


def query(address: str, expression: str) -> list[dict[str, Any]]:
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []  # not up yet


@pytest.mark.req("FR-008", "R14")
def test_prometheus_scrapes_it_and_sees_a_heal(here: Site) -> None:
    port = free_port()
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + '[policy]\nsettle = "100ms"\n' + listen(port))
    daemon.start()
    with prometheus(here.folder, port) as address:
        until("it scrapes us", lambda: any(it["value"][1] == "1" for it in query(address, "up")))
        toy.kill()
        daemon.wait_state("toy", "resolved")
        healed = 'increase(heal_remediation_success_total{runbook="rb-restart-service"}[1m]) > 0'
        until("the heal is an increase", lambda: query(address, healed))
        slowest = "histogram_quantile(1, sum by (le) (heal_remediation_duration_seconds_bucket))"
        (found,) = until("a quantile", lambda: query(address, slowest))
        assert 0 < float(found["value"][1]) <= 30
        (version,) = query(address, "heal_build_info")
        assert version["metric"]["version"] == daemon.ask("tree")["version"]
        assert {it["value"][1] for it in query(address, "heal_worker_up")} == {"1"}
        assert query(address, "scrape_samples_scraped > 50")
    daemon.stop()
