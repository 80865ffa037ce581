"""The pictures in docs/screens: of the dashboard as it is now, and they ask nobody for anything."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.tui import png
from tests.tui.screenshots import FOLDER, PICTURES, ROOT, digest, words

pytestmark = pytest.mark.req("FR-007")


def test_there_is_a_picture_of_each_and_none_reaches_for_the_network() -> None:
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(PICTURES)
    for path in FOLDER.glob("*.svg"):
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", path.read_text()))
        assert {it for it in addresses if "127.0.0.1" not in it} <= {
            "http://www.w3.org/2000/svg", "https://www.textualize.io",
        }  # fmt: skip
        assert path.stat().st_size < 100_000


def test_each_has_a_small_png_of_just_it() -> None:
    assert {path.stem for path in FOLDER.glob("*.png")} == set(PICTURES)
    for path in FOLDER.glob("*.png"):
        assert png.source(path) == digest(path.with_suffix(".svg")), f"{path.name} is old: make screenshots (chromium)"
        assert path.stat().st_size < 60_000


def test_a_png_is_read_as_it_was_written_its_rarest_colours_as_the_nearest(tmp_path: Path) -> None:
    common = [bytes((n, 0, 0)) for n in range(0, 2 * png.COLOURS, 2)]
    rows = [common, common, [bytes((1, 0, 0)), *common[1:]]]
    png.write(file := tmp_path / "a.png", rows, "all")
    header, palette, _, data, _ = (it for _, it in png.chunks(file))
    assert png.source(file) == "all"
    assert header[:8] == bytes((0, 0, 0, png.COLOURS, 0, 0, 0, 3))
    pixels = zlib.decompress(data)
    shown = [palette[3 * n : 3 * n + 3] for n in pixels[-png.COLOURS :]]
    assert shown[1:] == common[1:]
    assert shown[0] in (bytes(3), bytes((2, 0, 0)))


def test_the_picture_in_the_readme_shows_what_the_dashboard_draws_now(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.tui.screenshots", str(tmp_path), "incidents"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    drawn, kept = ((folder / "incidents.svg").read_text() for folder in (tmp_path, FOLDER))
    assert words(drawn) == words(kept), "docs/screens is old: make screenshots, and look at the pictures"
