"""`make screenshots`: the pictures of the dashboard in docs/screens, drawn by the real app on a told story.

The clock stands still and the zone is UTC, so that the same code draws the same pictures. Each SVG that is new is made
a PNG, too, which needs Debian's chromium; it says of which SVG it is. Look at them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from supervisor import clock
from tests.tui import png

NOW_S = 1_794_000_000.0
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/screens"
SIZE = (110, 26)
PIXELS = "1360,686"
FONTS = "Fira Code, DejaVu Sans Mono, Menlo, Consolas, monospace"
# picture -> the keys that lead there from the first screen
PICTURES = {
    "incidents": (),
    "detail": ("enter",),
    "steps": ("down", "down", "enter"),
    "tree": ("2", "down", "down"),
    "runbooks": ("3",),
    "targets": ("4", *["down"] * 7),
    "report": ("5",),
    "help": ("question_mark",),
    "light": ("t",),
}


class StillUsage:
    """What the parts take of a machine that is told of, too."""

    def __init__(self, now: dict[int, tuple[int, float]]) -> None:
        self.now = now

    def look(self, pids: Iterable[int]) -> None:
        """Nothing moves in a picture."""


def stand_still() -> None:
    """Every age and time of day as of NOW_S, in UTC."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    clock.wall_s = lambda: NOW_S


async def until(pilot: Pilot[None], true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await pilot.pause(0.02)


async def draw(keys: tuple[str, ...]) -> str:
    """One picture as SVG."""
    from tests.tui import story
    from tui.app import Board

    board = Board(source := story.recorded())
    usage: Any = StillUsage(story.USAGE)
    board._usage = usage
    async with board.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == len(story.incidents()))
        await until(pilot, lambda: board._targets)
        await pilot.press(*keys)
        asked = {"3": "list_runbooks", "5": "report", "enter": "incident"}.get(keys[-1] if keys else "")
        await until(pilot, lambda: asked is None or asked in [action for action, _ in source.asked])
        await pilot.pause(0.5)  # the answer is drawn
        return without_web_fonts(board.export_screenshot(title="healctl tui"))


def without_web_fonts(svg: str) -> str:
    """A picture that asks nobody for anything: the fonts of the machine on which it is looked at."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: [^;]+;", f"font-family: {FONTS};", svg)


def digest(svg: Path) -> str:
    """What a PNG of it says that it is of."""
    return hashlib.sha256(svg.read_bytes()).hexdigest()


def as_png(svg: Path, chromium: str) -> None:
    """What a browser makes of it, in its few colours beside it; nothing is done where that is there."""
    to = svg.with_suffix(".png")
    if to.exists() and png.source(to) == digest(svg):
        return
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--window-size={PIXELS}", f"--screenshot={shot}", svg.absolute().as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        png.write(to, png.read(shot), digest(svg))


def words(svg: str) -> list[str]:
    """What a person reads in a picture, in its order."""
    return re.findall(r">([^<>]+)</text>", svg)


def main(folder: Path = FOLDER, names: Iterable[str] = PICTURES, *, pngs: bool = True) -> None:
    """Draws these into `folder`."""
    stand_still()
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") if pngs else None
    for name in names:
        svg = folder / f"{name}.svg"
        svg.write_text(asyncio.run(draw(PICTURES[name])) + "\n")
        if chromium is not None:
            as_png(svg, chromium)
        print(svg)
    if pngs and chromium is None:
        print("no PNGs: Debian's chromium is not installed", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) > 1:  # python -m tests.tui.screenshots FOLDER NAME...
        main(Path(sys.argv[1]), sys.argv[2:], pngs=False)
    else:
        main()
