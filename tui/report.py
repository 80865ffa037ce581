"""The report's answer as a page: how fast healctl sees and mends, and how often it was wrong. Pure."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from tui import look

SINCE_S = 30 * 86_400.0  # as `healctl report` does
DEADLINE_S = 120.0


def report_text(answer: dict[str, Any]) -> Text:
    """Every figure of `healctl report`: what belongs together on one line, what is nested deeper indented."""
    text = Text()
    _add(text, answer, 0)
    return text


def _add(text: Text, value: dict[str, Any], depth: int) -> None:
    for name, item in value.items():
        text.append("  " * depth + _words(name) + ": ", "dim")
        if isinstance(item, dict) and any(isinstance(it, dict | list) for it in item.values()):
            text.append("\n")
            _add(text, item, depth + 1)
        elif isinstance(item, list):
            for row in item:
                text.append("\n" + "  " * (depth + 1))
                _line(text, row if isinstance(row, dict) else {"": row})
            text.append("\n" if item else "-\n")
        else:
            _line(text, item if isinstance(item, dict) else {"": item})
            text.append("\n")


def _line(text: Text, row: dict[str, Any]) -> None:
    for number, (name, value) in enumerate(row.items()):
        text.append((", " if number else "") + (f"{_words(name)} " if name else ""), "dim")
        text.append(look.plain(_shown(value)), "bold")


def _words(name: str) -> str:
    return look.plain(name.replace("_", " "))


def _shown(value: object) -> object:
    """A stamp as the time of day here; everything else as it is."""
    return look.clock_text(value) if isinstance(value, str) and look.wall_s(value) is not None else value
