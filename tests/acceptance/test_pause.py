"""`healctl pause`, `resume` and `audit` on the real daemon (R15)."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import here as here
from tests.lab.daemon import Site


@pytest.mark.req("R15", "FR-007")
def test_a_paused_service_stays_down_through_a_crash_and_is_healed_once_resumed(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml())
    daemon.start()
    daemon.wait_known(toy)
    code, answer = daemon.cli("pause", "--target", "toy", "--for", "2h", "--reason", "moving its disk", "--json")
    assert (code, answer["paused"]["reason"]) == (0, "moving its disk")
    toy.kill()
    daemon.wait_state("toy", "escalated")
    assert toy.starts() == 1
    code, refused = daemon.cli("heal", "execute", "rb-restart-service", "--target", "toy", "--confirm", "--json")
    assert (code, refused["code"]) == (1, "refused")
    for ref in daemon.kill_root():
        del ref
    daemon.start()
    status = daemon.cli("status", "--json")[1]
    assert [(it["scope"], it["name"]) for it in status["pauses"]] == [("target", "toy")]
    assert toy.starts() == 1
    code, resumed = daemon.cli("resume", "--target", "toy", "--json")
    assert code == 0
    assert len(resumed["running_for"]) == 1
    daemon.wait_state("toy", "resolved")
    assert toy.starts() == 2
    code, audit = daemon.cli("audit", "--json")
    assert [it["action"] for it in audit["orders"]] == ["resume", "pause"]
    assert audit["orders"][1]["args"]["reason"] == "moving its disk"
    assert daemon.cli("resume", "--target", "toy", "--json")[0] == 4
    assert daemon.cli("heal", "undo", "exe_nothing", "--json")[0] == 4
