"""The report's answer as a page: how fast healctl sees and mends, and how often it was wrong. Pure."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from tui import look

SINCE_S = 30 * 86_400.0  # as `healctl report` does
DEADLINE_S = 120.0
UNITS = (("_s", " s"), ("_percent", "%"))


def report_text(answer: dict[str, Any]) -> Text:
    """Every figure of `healctl report`: what belongs together on one line, what is nested deeper indented."""
    text = Text()
    _add(text, answer, 0)
    return text


def _add(text: Text, value: dict[str, Any], depth: int) -> None:
    for name, item in value.items():
        text.append("  " * depth + _words(name, item) + ": ", "dim")
        if isinstance(item, dict) and any(isinstance(it, dict | list) for it in item.values()):
            text.append("\n")
            _add(text, item, depth + 1)
        elif isinstance(item, list):
            for row in item:
                text.append("\n" + "  " * (depth + 1))
                _line(text, row if isinstance(row, dict) else {"": row})
            text.append("\n" if item else "-\n")
        else:
            if isinstance(item, dict):
                _line(text, item)
            else:
                text.append(look.plain(_shown(name, item)), "bold")
            text.append("\n")


def _line(text: Text, row: dict[str, Any]) -> None:
    for number, (name, value) in enumerate(row.items()):
        text.append((", " if number else "") + (f"{_words(name, value)} " if name else ""), "dim")
        text.append(look.plain(_shown(name, value)), "bold")


def _unit(name: str, value: object) -> tuple[str, str]:
    """(how the name of a figure ends, what that means behind the figure)"""
    figure = isinstance(value, int | float)
    return next((it for it in UNITS if figure and name.endswith(it[0])), ("", ""))


def _words(name: str, value: object) -> str:
    return look.plain(name.removesuffix(_unit(name, value)[0]).replace("_", " "))


def _shown(name: str, value: object) -> object:
    """A stamp as the time of day here, a figure with its unit."""
    if isinstance(value, str) and look.wall_s(value) is not None:
        return look.clock_text(value)
    return f"{value}{unit}" if (unit := _unit(name, value)[1]) else value
