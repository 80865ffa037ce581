"""The pictures in docs/screens: of the dashboard as it is now, and they ask nobody for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tui.screenshots import FOLDER, PICTURES, ROOT, words

pytestmark = pytest.mark.req("FR-007")


def test_there_is_a_picture_of_each_and_none_reaches_for_the_network() -> None:
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(PICTURES)
    for path in FOLDER.glob("*.svg"):
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", path.read_text()))
        assert {it for it in addresses if "127.0.0.1" not in it} <= {
            "http://www.w3.org/2000/svg", "https://www.textualize.io",
        }  # fmt: skip
        assert path.stat().st_size < 100_000


def test_the_picture_in_the_readme_shows_what_the_dashboard_draws_now(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.tui.screenshots", str(tmp_path), "incidents"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    drawn, kept = ((folder / "incidents.svg").read_text() for folder in (tmp_path, FOLDER))
    assert words(drawn) == words(kept), "docs/screens is old: make screenshots, and look at the pictures"
