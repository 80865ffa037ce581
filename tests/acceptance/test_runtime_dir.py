"""Somebody removes our runtime directory, or what is in it, while we run: no silent deafness, and no fight."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from supervisor.errors import HealError
from tests.lab.daemon import WAIT_S, Daemon, Site, until

BEAT = '[tree]\nbeat = "100ms"\n'


def answers(daemon: Daemon) -> None:
    def look() -> bool:
        with contextlib.suppress(HealError):
            children = {c["name"]: c["state"] for c in daemon.ask("tree", deadline_s=1.0)["children"]}
            return {"store", "healer", "executor", "notifier", "process"} <= {n for n in children if
                                                                             children[n] == "ready"}  # fmt: skip
        return False

    until("it answers\n" + daemon.tail(), look)


@pytest.mark.req("FR-007")
def test_a_file_in_the_place_of_a_socket_is_seen_though_it_was_there_at_the_first_look(here: Site) -> None:
    daemon = here.daemon('[process.x]\nmatch = "nobody runs this"\n[tree]\nbeat = "4s"\n')
    daemon.start()
    path = daemon.runtime_dir / "control.sock"
    path.unlink()
    path.write_text("")
    until("it is a socket again", path.is_socket)
    answers(daemon)
    daemon.stop()


@pytest.mark.req("FR-007")
@pytest.mark.parametrize("what", ["run", "run/control.sock", "run/store.sock", "run/healctl.lock"])
def test_what_was_removed_is_made_anew_and_healing_goes_on(here: Site, what: str) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon(one.toml() + BEAT)
    daemon.start()
    answers(daemon)
    path: Path = daemon.folder / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    until("it is made anew", path.exists)
    answers(daemon)
    one.kill()
    daemon.wait_state("one", "resolved")
    assert daemon.cli("status", "--json")[0] == 0
    daemon.stop()


def test_another_daemon_that_took_the_directory_meanwhile_is_left_alone(here: Site) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon(one.toml() + '[tree]\nbeat = "3s"\n')
    daemon.start()
    answers(daemon)
    shutil.rmtree(daemon.runtime_dir)
    other = Daemon(here.folder, one.toml() + BEAT)
    other.config_file = here.folder / "other.toml"
    other.state_dir = here.folder / "other-state"
    other.config_file.write_text(other.text(one.toml() + BEAT))
    here.daemons.append(other)
    other.start()
    assert daemon.process is not None
    assert daemon.process.wait(WAIT_S) == 70
    answers(other)
    one.kill()
    one.wait_new(None)
    other.stop()
