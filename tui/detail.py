"""One incident from its first reading to its last word: what was seen, done, proved and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from tui import keys, look, panes

if TYPE_CHECKING:
    from tui.app import Board

Json = dict[str, Any]

OUTPUT_LINES_MAX = 40  # of one step
READING_KEYS_MAX = 30
_VERIFIED = {True: "verified", False: "not verified", None: "no verdict"}
# R3's grounds, as the policy words them in the trail.
AUTHORITY = {
    "harmless": "by itself: it only observes or protects",
    "whitelist": "by itself: it is on the whitelist",
    "not_running": "by itself: auto_restart is set, and nothing of it was running",
    "approved": "by itself: it is approved",
    "person": "by a person's order",
}


class Detail(Screen[None]):
    """Asks for all of the incident when it is opened, and again whenever the daemon says something about it."""

    DEFAULT_CSS = "Detail #file, Detail #progress { width: 1fr; height: auto; padding: 0 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "Back")]  # the orders are the app's

    def __init__(self, board: Board, incident_id: str) -> None:
        super().__init__()
        self.incident_id = incident_id
        self._board = board
        self._seen = -1
        self._trend: list[float] = []
        self.file: Json | None = None
        # Held, not looked for: an answer may come when the screen is gone.
        self._progress = Static(id="progress")
        self._text = Static(look.words("asking the daemon ...", "dim"), id="file")

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield self._progress
            yield self._text
        yield Static(keys.foot(("esc", "Back")), classes="foot")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self.set_interval(0.5, self.look)
        self.look()

    def look(self) -> None:
        """Asks anew when something about this incident has come since; how far it is is known without asking."""
        known = self._board.model
        incident = known.get(self.incident_id) or (self.file or {}).get("incident")
        told = known.progress(incident["target_id"], incident["execution_id"]) if incident is not None else None
        self._progress.display = told is not None
        if told is not None:
            self._progress.update(Text(panes.at_work(told), "bold"))
        version = self._board.about.get(self.incident_id, 0)
        if version != self._seen:
            self._seen = version
            self._board.ask("incident", {"incident_id": self.incident_id}, self._show, self._failed)
        elif self.file is not None and self._trend != self._board.trend(self.file["incident"]["target_id"]):
            self._show(self.file)

    def _show(self, answer: Json) -> None:
        self.file = answer
        self._trend = self._board.trend(answer["incident"]["target_id"])
        self._text.update(describe(answer, self._trend))

    def _failed(self, error: Exception) -> None:
        self._seen = -1  # once more at the next look
        if self.file is None:
            self._text.update(look.words(look.plain(error), "yellow"))


def describe(answer: Json, trend: list[float]) -> Text:
    """The whole file as text."""
    it = answer["incident"]
    text = Text()
    text.append_text(look.severity(it["severity"]))
    text.append(f" {look.plain(it['target_id'])}: {look.plain(it['anomaly_type'])}  ", "bold")
    text.append_text(look.state(it["state"]))
    text.append("\n")
    text.append_text(
        look.lines(
            (name, value)
            for name, value in (
                ("Seen", it["evidence"]),
                ("Since", f"{look.clock_text(it['detected_at'])}, seen {_times(it['detections'])}"),
                ("Runbook", it["runbook_id"]),
                ("Waits for", it["waiting_for"]),
                ("Hint", it["hint"]),
                ("Acknowledged", look.clock_text(it["acknowledged_at"]) if it["acknowledged_at"] else ""),
                ("Id", it["id"]),
            )
            if value
        )
    )
    if trend:
        text.append("Readings: ", "dim")
        text.append(look.spark(trend, 48) + "\n")
    _heading(text, "What happened")
    for entry in it["audit_trail"]:
        text.append(f"{look.clock_text(entry['timestamp'])}  ", "dim")
        text.append_text(look.state(entry["state"]))
        text.append(f"  {look.plain(entry['actor'])}: {look.plain(entry['note'])}\n")
    for execution in answer["executions"]:
        _execution(text, execution)
    if answer["messages"]:
        _heading(text, "What people were told")
    for message in answer["messages"]:
        _message(text, message)
    return text


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _heading(text: Text, words: str) -> None:
    text.append(f"\n{words}\n", "bold underline")


def _execution(text: Text, execution: Json) -> None:
    grounds = AUTHORITY.get(execution["authority"], execution["authority"])
    _heading(text, f"{look.plain(execution['runbook_id'])}, {look.plain(grounds)}")
    verified = _VERIFIED[execution["verification_passed"]]
    text.append(f"{execution['execution_id']}  {execution['state']}, {verified}\n", "dim")
    for step in execution["steps_executed"]:
        good = step["status"] == "success"
        text.append("+ " if good else "x ", "green" if good else "bold red")
        text.append(f"{look.plain(step['step_id'])} ({step['duration_ms']:.0f} ms)\n")
        for line in str(step.get("output") or "").splitlines()[:OUTPUT_LINES_MAX]:
            text.append(f"    {look.plain(line)}\n", "dim")
    if execution.get("reading"):
        text.append("  on grounds of: ", "dim")
        shown = [
            f"{key}={look.plain(value)}" for key, value in execution["reading"].items() if value not in (None, "", [])
        ]
        text.append(", ".join(shown[:READING_KEYS_MAX]) + "\n", "dim")


def _message(text: Text, message: Json) -> None:
    sent = f"delivered {look.clock_text(message['delivered_at'])}" if message["receipt"] else "not delivered yet"
    text.append(f"{message['channel']} {message['kind']}, {look.clock_text(message['created_at'])}, {sent}\n", "dim")
    for line in (message["subject"], *str(message["body"]).splitlines()):
        text.append(f"  {look.plain(line)}\n")
    if message["last_error"] and not message["receipt"]:
        text.append(f"  {look.plain(message['last_error'])}\n", "red")
