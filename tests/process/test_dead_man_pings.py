"""The dead man's switch against the real daemon: it is pinged over https while the engine goes round, and not else."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from supervisor import proc
from tests.doubles.watcher import Authority, Watcher
from tests.lab.daemon import HEALCTL, Daemon, site, until

TOKEN = "s3cr3t-5f0c2b"
EVERY_S = 0.2
QUIET_S = 1.0  # five intervals


BEAT = '[tree]\nbeat = "100ms"\n'


def reload(daemon: Daemon, text: str) -> None:
    daemon.config_file.write_text(daemon.text(text))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)


def configuration(url: str) -> str:
    every = f"{EVERY_S * 1000:.0f}ms"
    return f'{BEAT}[escalation]\ndead_man_url = "{url}"\ndead_man_every = "{every}"\n'


def goes_on_only_with(daemon: Daemon, watcher: Watcher, worker: str) -> None:
    """Stopped, which the tree does not see for 20 s, and continued."""
    ref = daemon.worker(worker)
    assert proc.send_signal(ref, signal.SIGSTOP)
    try:
        assert watcher.has_stopped(QUIET_S), f"pings came while the {worker} was stopped"
    finally:
        assert proc.send_signal(ref, signal.SIGCONT)
    watcher.wait_for(2)
    assert daemon.worker(worker) == ref


@pytest.mark.req("FR-005", "NFR-002")
def test_pings_are_the_engines_and_stop_with_any_part_of_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with site() as here, Watcher(authority.context("localhost")) as watcher:
        daemon = here.daemon(configuration(watcher.url(f"/{TOKEN}?key={TOKEN}")))
        daemon.start(SSL_CERT_FILE=str(authority.file))
        pings = watcher.wait_for(6)
        assert {line for _, line in pings} == {f"GET /{TOKEN}?key={TOKEN} HTTP/1.1"}
        assert pings[-1][0] - pings[0][0] > 4 * EVERY_S, "at most once in the interval"
        goes_on_only_with(daemon, watcher, "healer")
        goes_on_only_with(daemon, watcher, "store")
        daemon.kill_worker("notifier")
        watcher.wait_for(2)

        watcher.tls = Authority(tmp_path, "somebody").context("localhost")
        (incident,) = until("it is told", lambda: daemon.wait_state("healctl:dead-man", "escalated"))
        status = daemon.ask("tree")["dead_man"]
        assert status["address"] == f"{watcher.url('')}/..."
        assert status["failures"] >= 3
        assert "its certificate is not accepted" in status["error"]
        assert status["last_ping"] is not None
        shown = [HEALCTL, "-c", daemon.config_file, "status", "-o", "table"]
        text = subprocess.run(shown, capture_output=True, check=True, text=True).stdout
        assert f"Dead man's switch {watcher.url('')}/...: last ping " in text
        until("it is told once", daemon.synapse)
        watcher.tls = authority.context("localhost")
        daemon.wait_state("healctl:dead-man", "self_resolved")
        (message,) = daemon.synapse()
        assert message["priority"] == "info"
        assert f"{watcher.url('')}: its certificate is not accepted" in message["body"]
        told = f"{text}{status}{message}{incident}{daemon.incidents()}"
        daemon.stop()
        assert TOKEN not in told + daemon.log.read_text()
        assert "the dead man's switch was not pinged" in daemon.log.read_text()


@pytest.mark.req("FR-005")
def test_over_http_it_begins_and_ends_with_a_reload_and_is_not_asked_again_after_a_redirect() -> None:
    with site() as here, Watcher() as watcher:
        daemon = here.daemon(BEAT)
        daemon.start()
        assert daemon.ask("tree")["dead_man"] is None
        reload(daemon, configuration(watcher.url(f"/{TOKEN}")))
        watcher.wait_for(2)
        watcher.status = 302
        daemon.wait_state("healctl:dead-man", "escalated")
        assert "answered 302, a redirect" in daemon.ask("tree")["dead_man"]["error"]
        reload(daemon, BEAT)
        daemon.wait_state("healctl:dead-man", "self_resolved")
        assert watcher.has_stopped(QUIET_S / 2, 0)
        assert len(watcher.pings) == watcher.connections
        assert TOKEN not in daemon.log.read_text()
