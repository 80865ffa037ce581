"""Small windows over a screen: a text to read, a question to answer, a confirmation that has to be typed."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from supervisor.redact import visible
from tui import look

TYPED_MAX = 10_000  # a pasted megabyte is drawn for seconds
_CSS = """
{name} {{ align: center middle; }}
{name} > Vertical {{
    width: 90%; max-width: 100; height: auto; max-height: 100%;
    border: round $primary; padding: 0 1; background: $surface;
}}
{name} VerticalScroll {{ height: auto; max-height: 70vh; }}
{name} .hint {{ color: $text-muted; max-height: 2; dock: bottom; }}
{name} .title {{ text-style: bold; max-height: 2; }}
{name}.-low > Vertical {{ border: none; width: 100%; }}
"""


class Reader(ModalScreen[bool]):
    """Something to read; any of its keys closes it."""

    HINT = "Esc closes"

    DEFAULT_CSS = _CSS.format(name="Reader")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "close", "Close")]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(look.short(self._title)), classes="title")
            with VerticalScroll():
                yield Static(self._text)
            yield Static(self.HINT, classes="hint")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_close(self) -> None:
        self.dismiss(False)


class Consent(Reader):
    """Something to agree to, by Enter, where nothing need be typed: True if they did."""

    HINT = "Enter confirms, Esc gives up"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "agree", "Confirm", priority=True)]

    def action_agree(self) -> None:
        self.dismiss(True)


class Question(ModalScreen[str | None]):
    """One line of text, or None when it is given up. `must`: only this very text is taken (a typed confirmation).

    What cannot be typed is shown, and taken, as its escape: `value` and `must` come back as they were given."""

    DEFAULT_CSS = (
        _CSS.format(name="Question")
        + "Question #text { max-height: 9; }\n"
        + "Question.-low .title { display: none; } Question.-low #text { max-height: 2; }\n"
        + "Question.-low Input { border: none; height: 1; }\n"
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", "Back")]

    def __init__(self, title: str, text: str, *, value: str = "", must: str = "", needed: bool = True) -> None:
        super().__init__()
        self._title, self._text, self._value, self._must, self._needed = title, text, value, must, needed

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._title), classes="title")
            yield Static(Text("\n".join(look.short(line) for line in self._text.split("\n"))), id="text")
            must = f"type {visible(self._must)}" if self._must else ""
            yield Input(visible(self._value), placeholder=must, max_length=TYPED_MAX)
            yield Static("Enter confirms, Esc gives up", classes="hint", id="hint")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        said = event.value.strip()
        if self._must and said != visible(self._must).strip():
            self._object(f"That is not {look.short(self._must)}: nothing is done. Esc gives up")
            return
        if self._needed and not said:
            self._object("Something must stand here. Esc gives up")
            return
        known = self._must or self._value
        self.dismiss(known if said == visible(known).strip() else said)

    def _object(self, words: str) -> None:
        self.query_one("#hint", Static).update(look.words(words, "red"))

    def action_give_up(self) -> None:
        self.dismiss(None)
