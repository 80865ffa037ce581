"""The report's answer as a page: how fast healctl sees and mends, and how often it was wrong. Pure."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from tui import look


def report_text(answer: dict[str, Any]) -> Text:
    """Every figure of `healctl report`, a line each, nested ones indented."""
    text = Text()
    _add(text, answer, 0)
    return text


def _add(text: Text, value: dict[str, Any], depth: int) -> None:
    for name, item in value.items():
        text.append("  " * depth + name.replace("_", " ") + ": ", "dim")
        if isinstance(item, dict):
            text.append("\n")
            _add(text, item, depth + 1)
        elif isinstance(item, list):
            text.append("\n")
            for row in item:
                shown = row if isinstance(row, dict) else {"": row}
                text.append(
                    "  " * (depth + 1) + ", ".join(f"{k} {look.plain(v)}".strip() for k, v in shown.items()) + "\n"
                )
        else:
            text.append(look.plain(item) + "\n", "bold")
