"""A real daemon's flight recorder: what it decided is decided again, byte for byte, across a restart of the healer."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import here as here
from tests.lab.daemon import Site


@pytest.mark.req("FR-004", "R4")
def test_a_recorded_run_is_decided_the_same_again_across_a_restart_of_the_healer(here: Site) -> None:
    auto, asks = here.service("auto"), here.service("asks")
    auto.start()
    asks.start()
    daemon = here.daemon(auto.toml() + asks.toml(auto_restart=False))
    daemon.config_file.write_text(
        daemon.config_file.read_text().replace("[healctl]\n", '[healctl]\nrecord = "16MiB"\n')
    )
    daemon.start()
    daemon.wait_known(auto, asks)
    auto.kill()
    daemon.wait_state("auto", "resolved")
    asks.kill()
    daemon.wait_state("asks", "escalated")
    daemon.kill_worker("healer")
    daemon.wait_ready()
    code, _ = daemon.cli("heal", "approve", "rb-restart-service", "--target", "asks", "--json")
    assert code == 0
    daemon.wait_state("asks", "resolved")
    daemon.stop()
    files = sorted(str(file) for file in (daemon.state_dir / "recordings").iterdir())
    assert len(files) == 2, "one for each life of the healer"
    code, replayed = daemon.cli("replay", *files, "--json")
    assert (code, [it["same"] for it in replayed]) == (0, [True, True]), replayed
    first, second = (it["events"] for it in replayed)
    assert first["StepEnded"] >= 2, "the heal"
    assert first["Planned"] >= 1, "the dry run before a person was asked"
    assert second["Order"] >= 1, "the approval"
    assert second["StepEnded"] >= 2, "what it led to"
    assert sum(it["records"] for it in replayed) > 50
