"""The keys of the dashboard, and the page that tells them, with the symbols."""

from __future__ import annotations

from rich.text import Text
from textual.binding import Binding

from tui import look

TABS = ("incidents", "tree", "runbooks", "targets", "report")
# What is shown at the foot fits into 80 columns.
BINDINGS = (
    *(Binding(str(n), f"tab('{tab}')", tab.title(), show=False) for n, tab in enumerate(TABS, 1)),
    Binding("question_mark", "help", "Help", key_display="?"),
    Binding("a", "approve", "Approve"),
    Binding("d", "dry_run", "Dry run"),
    Binding("x", "execute", "Execute"),
    Binding("k", "acknowledge", "Ack"),
    Binding("i", "dismiss", "Dismiss"),
    Binding("u", "undo", "Undo"),
    Binding("p", "pause", "Pause"),
    Binding("r", "resume", "Resume", show=False),
    Binding("c", "cancel", "Cancel what is at work", show=False),
    Binding("slash", "filter", "Filter", show=False, key_display="/"),
    Binding("s", "sort", "Sort", show=False),
    Binding("S", "reverse", "Reverse the order", show=False),
    Binding("e", "ended", "Show those that are over", show=False),
    Binding("t", "theme", "Light or dark", show=False),
    Binding("q", "quit", "Quit"),
    # They hold while something is typed, too: textual's own answer to Ctrl+C is a message.
    Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    Binding("ctrl+z", "suspend_process", "Back to the shell; fg returns", show=False, priority=True, key_display="^Z"),
)


def foot(*instead: tuple[str, str]) -> Text:
    """The line at the foot, with another way out `instead` of Quit.

    For a Static: textual's own Footer takes a widget for each key, and a fifth of the time to the first screen.
    """
    text = Text()
    shown = [
        (it.key_display or it.key, it.description) for it in BINDINGS if it.show and not (instead and it.key == "q")
    ]
    for key, words in (*instead, *shown):
        text.append(f" {key} ", "bold cyan")
        text.append(words)
    return text


def told() -> list[Binding]:
    """Each once."""
    return [it for it in BINDINGS if it.key != "ctrl+c"]


def page() -> Text:
    """Keys and what they do, in two columns, so that a small terminal shows them all at once; then the symbols."""
    keys = [(it.key_display or it.key, it.description) for it in told()]
    keys += [("Enter", "Open what is under the cursor"), ("Ctrl+P", "Command palette")]
    text, half = Text(), (len(keys) + 1) // 2
    width = max(len(words) for _, words in keys[:half]) + 4
    for left in range(half):
        for key, words in keys[left::half]:
            text.append(f"{key:>6}  ", "bold")
            text.append(f"{words:<{width}}")
        text.rstrip()
        text.append("\n")
    for name, table in (("Severity", look.SEVERITY), ("State", look.STATE)):
        text.append(f"{name}: ", "dim")
        for word, (symbol, style) in table.items():
            text.append(f"{symbol.strip()} {word}  ", style)
        text.append("\n")
    text.rstrip()
    return text
