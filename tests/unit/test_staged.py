"""The file of a drill: whole or not there, and whatever is none of ours is left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.incidents import drill_run
from supervisor.staged import Staged

ID = "drl_0123456789ab"


@pytest.mark.req("FR-005")
def test_it_is_made_seen_and_taken_away(tmp_path: Path) -> None:
    staged = Staged(tmp_path)
    assert staged.read() == ""
    assert staged.carry_out(ID, drill_run.ASKED) == ""
    assert staged.read() == ID
    assert staged.path.stat().st_mode & 0o777 == 0o600
    assert staged.carry_out(ID, drill_run.DURABLE) == ""
    assert staged.clear() == ID
    assert staged.clear() == ""
    assert staged.carry_out(ID, drill_run.OVER) == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("what", ["text", "long", "link", "folder", "pipe"])
def test_what_is_no_drills_is_an_error_and_stays(tmp_path: Path, what: str) -> None:
    staged = Staged(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text(ID)
    match what:
        case "text":
            staged.path.write_text("somebody's notes")
        case "long":
            staged.path.write_text(ID * 100)
        case "link":
            staged.path.symlink_to(victim)
        case "folder":
            staged.path.mkdir()
        case "pipe":
            os.mkfifo(staged.path)
    with pytest.raises(OSError, match=r"Errno"):
        staged.read()
    with pytest.raises(OSError, match=r"Errno"):
        staged.clear()
    assert staged.carry_out(ID, drill_run.OVER).startswith(str(staged.path))
    assert os.path.lexists(staged.path)
    assert victim.read_text() == ID


@pytest.mark.req("FR-005")
def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    assert Staged(tmp_path / "gone").carry_out(ID, drill_run.ASKED).endswith("No such file or directory")
