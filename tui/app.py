"""`healctl tui`: five tabs over one model. Draws what has come, asks in threads, and is quiet while nothing changes."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Input, Static, TabbedContent, TabPane

from supervisor import clock
from supervisor.cli.item import Item
from supervisor.errors import HealError
from tui import keys, look, panes, usage
from tui.acting import Acting, Subject
from tui.detail import Detail
from tui.dialogs import TYPED_MAX, Reader
from tui.keys import TABS
from tui.model import SORTS, Model
from tui.report import DEADLINE_S, SINCE_S, report_text
from tui.rows import Rows
from tui.source import Source

Json = dict[str, Any]

DRAIN_S = 0.1
DRAW_SHARE = 6.0  # news may take this part of the time, so that keys have the rest of it
TICK_S = 1.0  # ages
ASK_S = 2.0  # runbooks, targets, processes: of the tab that is seen
ABOUT_MAX = 20_000
ENDED_AFTER_S = 3.0  # a terminal that takes nothing any more must not keep the process
MISSED_MAX = 50  # incidents that ended while nobody listened, and are asked about


class Board(Acting):
    TITLE = "healctl"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    #top { height: 1; padding: 0 1; background: $panel; text-wrap: nowrap; text-overflow: ellipsis; }
    #trouble { height: auto; max-height: 4; padding: 0 1; display: none; }
    #trouble.shown { display: block; }
    Screen { overflow: hidden; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    .below { height: 4; padding: 0 1; border-top: solid $primary; }
    .foot { dock: bottom; height: 1; background: $panel; text-wrap: nowrap; }
    .-low .below, .-low .foot, .-low ToastRack { display: none; }
    .-low Tabs { height: 1; } .-low Underline { display: none; }
    #report-text { padding: 0 1; }
    #filter { display: none; border: none; height: 1; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = list(keys.BINDINGS)
    VERTICAL_BREAKPOINTS = [(0, "-low"), (16, "-tall")]  # noqa: RUF012, textual declares it as an instance's

    def __init__(self, source: Source, *, read_only: bool = False, sixteen: bool = False) -> None:
        super().__init__()
        self.source = source
        self.read_only = read_only
        self.model = Model()
        self.about: dict[str, int] = {}
        self._sixteen = sixteen
        self._order, self._reverse, self._ended = "severity", False, False
        self._drawn, self._draw_from_s = -1, 0.0
        self._said: dict[Static, Text] = {}
        self._unanswered: set[str] = set()
        self._runbooks: dict[str, Json] = {}
        self._targets: dict[str, Json] = {}
        self._usage = usage.Usage()
        self.ansi_theme_light = look.ON_LIGHT
        # Held, not looked for: timers still tick while the screens are being taken down.
        self._top, self._bar, self._report = Static(id="top"), Static(id="trouble"), Static(id="report-text")
        self._filter = Input(placeholder="words to filter by; Esc ends it", id="filter", max_length=TYPED_MAX)
        self._below = {tab: Static(classes="below") for tab in ("incidents", "tree", "targets")}
        self._tabs = TabbedContent(initial="incidents")
        self._rows = {
            "incidents": Rows(panes.INCIDENTS, self._incident_cells, "incidents-rows", "Nothing to show."),
            "tree": Rows(panes.TREE, self._child_cells, "tree-rows", "Nothing is known of the tree yet."),
            "runbooks": Rows(panes.RUNBOOKS, self._runbook_cells, "runbooks-rows", "No runbooks."),
            "targets": Rows(panes.TARGETS, self._target_cells, "targets-rows", "Nothing has been read yet."),
        }

    def compose(self) -> ComposeResult:
        yield self._top
        yield self._bar
        with self._tabs:
            for number, tab in enumerate(TABS, 1):
                with TabPane(f"{number} {tab.title()}", id=tab):
                    if tab == "incidents":
                        yield self._filter
                    if tab in self._rows:
                        yield self._rows[tab]
                    if tab in self._below:
                        yield self._below[tab]
                    if tab == "report":
                        with VerticalScroll():
                            yield self._report
        yield Static(keys.foot(), classes="foot")

    def on_mount(self) -> None:
        self.theme = self._theme(dark=True)
        if threading.current_thread() is threading.main_thread() and not self.is_headless:
            self._end_with(signal.SIGTERM, signal.SIGHUP)
        self.call_after_refresh(self.source.start)
        self.set_interval(DRAIN_S, self._drain)
        self.set_interval(TICK_S, self._tick)
        self.set_interval(ASK_S, self._look)
        self._drain()
        self._rows["incidents"].focus()

    def on_unmount(self) -> None:
        self.source.close()

    def _end_with(self, *signals: signal.Signals) -> None:
        """These end it, and leave the terminal as it was found: at the latest after ENDED_AFTER_S, if that is gone or
        takes nothing more, so that our last words would wait for ever."""
        was = termios.tcgetattr(0)

        def at_last(number: int) -> None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, was)
            os._exit(128 + number)

        def end(number: int, _: object) -> None:
            late = threading.Timer(ENDED_AFTER_S, at_last, (number,))
            late.daemon = True
            late.start()
            self.call_later(self.exit, return_code=128 + number)

        for number in signals:
            signal.signal(number, end)

    # -- what comes --

    def _drain(self) -> None:
        for item in self.source.drain():
            self.model.apply(item)
            incident_id = item.data.get("incident_id") or (item.data.get("id") if item.kind == "incident" else None)
            if incident_id:
                self.about[incident_id] = self.about.get(incident_id, 0) + 1
        if len(self.about) > ABOUT_MAX:
            self.about.clear()
        for incident_id in self.model.missed[:MISSED_MAX]:
            self.ask("incident", {"incident_id": incident_id}, self._show_missed, self._quiet)
        self.model.missed = []
        trouble = self.source.trouble()
        self._bar.set_class(bool(trouble), "shown")
        if trouble:
            more = ". Shown is what was known." if self.model.known else ""
            self._bar.update(look.words(f"No news from healctl: {look.plain(trouble)}{more}", "bold yellow"))
        began_s = clock.monotonic_s()
        if self.model.version != self._drawn and began_s >= self._draw_from_s:
            self._drawn = self.model.version
            self._draw()
            self._draw_from_s = began_s + DRAW_SHARE * (clock.monotonic_s() - began_s)

    def on_resize(self) -> None:
        self._draw_top()

    def _show_missed(self, answer: Json) -> None:
        self.model.apply(Item(0, "incident", clock.wall_s(), answer["incident"]))

    def _draw(self, *, by_person: bool = False) -> None:
        """The keys of the lists; what their rows say is asked for when they are drawn."""
        words = self._filter.value
        found = self.model.select(self._order, reverse=self._reverse, words=words, ended=self._ended)
        self._rows["incidents"].show(found, by_person=by_person)
        self._rows["tree"].show(list(self.model.children))
        self._draw_top()
        self._draw_below()

    def _draw_top(self) -> None:
        order = (
            f"by {self._order}" + (", reversed" if self._reverse else "") + (", with those over" if self._ended else "")
        )
        self._say(self._top, panes.top(self.model, order, self.size.width - 2, read_only=self.read_only))

    def _say(self, where: Static, text: Text) -> None:
        """Only what is new, and without a new layout, which takes longer than all the rest: it is as high as it is."""
        if self._said.get(where) != text:
            self._said[where] = text
            where.update(text, layout=False)

    def _draw_below(self) -> None:
        incident = self.model.get(self._rows["incidents"].key or "")
        self._say(self._below["incidents"], panes.below(incident, self.model))
        child = self.model.children.get(self._rows["tree"].key or "", {})
        self._say(self._below["tree"], panes.below_child(child))
        key = self._rows["targets"].key or ""
        self._say(self._below["targets"], panes.below_target(self._targets.get(key), self.model.progress(key)))

    def _tick(self) -> None:
        """Ages move although nothing happens."""
        self._shown().refresh()

    def _look(self) -> None:
        match self._tabs.active:
            case "runbooks":
                self._ask_again("list_runbooks", {}, self._show_runbooks, self._quiet)
            case "targets" | "incidents":
                self._ask_again("targets", {}, self._show_targets, self._quiet)
            case "tree":
                pids = [row.get("pid") or 0 for row in self.model.children.values()]
                self.run_worker(lambda: self._usage.look(pids), thread=True, group="usage", exclusive=True)
            case "report":
                self._ask_again("report", {"since_s": SINCE_S}, self._show_report, self._no_report, DEADLINE_S)

    def _ask_again(
        self,
        action: str,
        args: Json,
        done: Callable[[Json], None],
        failed: Callable[[HealError], None],
        deadline_s: float = 10.0,
    ) -> None:
        """What is asked every two seconds, unless the last time is not answered yet."""

        def answered(call: Callable[[Any], None], value: Any) -> None:
            self._unanswered.discard(action)
            call(value)

        if action not in self._unanswered:
            self._unanswered.add(action)
            self.ask(action, args, lambda it: answered(done, it), lambda it: answered(failed, it), deadline_s)

    def _quiet(self, error: Exception) -> None:
        """A question that is asked again in two seconds; that nobody answers is shown already."""

    def _show_runbooks(self, answer: Json) -> None:
        self._runbooks = {row["id"]: row for row in answer["runbooks"]}
        self._rows["runbooks"].show(list(self._runbooks))

    def _show_targets(self, answer: Json) -> None:
        self._targets = {row["target_id"]: row for row in answer["targets"]}
        self._rows["targets"].show(list(self._targets))
        self._draw_below()

    def _show_report(self, answer: Json) -> None:
        self._report.update(report_text(answer))

    def _no_report(self, error: Exception) -> None:
        self._report.update(look.words(look.plain(error), "yellow"))

    # -- rows --

    def _shown(self) -> Rows:
        """The list of the tab that is seen; the report has none, and nothing under a cursor."""
        return self._rows.get(self._tabs.active, self._rows["tree"])

    def trend(self, target_id: str) -> list[float]:
        return list(self._targets.get(target_id, {}).get("trend", ()))

    def _incident_cells(self, key: str) -> panes.Cells:
        row = self.model.get(key)
        return panes.incident(row, clock.wall_s()) if row is not None else [Text()] * len(panes.INCIDENTS)

    def _child_cells(self, key: str) -> panes.Cells:
        return panes.child(self.model.children[key], self._usage.now, clock.wall_s())

    def _runbook_cells(self, key: str) -> panes.Cells:
        return panes.runbook(self._runbooks[key])

    def _target_cells(self, key: str) -> panes.Cells:
        return panes.target(self._targets[key], clock.wall_s())

    def on_rows_moved(self) -> None:
        self._draw_below()

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        match event.rows.id:
            case "incidents-rows":
                self.push_screen(Detail(self, event.key))
            case "runbooks-rows":
                if (runbook := self._runbooks.get(event.key)) is not None:
                    self.push_screen(Reader(event.key, panes.runbook_text(runbook)))
            case "targets-rows":
                if mine := self.model.about_target(event.key):
                    self.push_screen(Detail(self, mine[0]["id"]))
            case "tree-rows":
                words = self.model.children.get(event.key, {}).get("last_words") or panes.NO_LAST_WORDS
                lines = "\n".join(look.plain(line) for line in str(words).splitlines())
                self.push_screen(Reader(f"{event.key}: its last words", Text(lines)))

    def subject(self) -> Subject:
        if isinstance(self.screen, Detail):
            known = self.model.get(self.screen.incident_id) or (self.screen.file or {}).get("incident")
            return _of_incident(known)
        active = self._tabs.active
        key = self._shown().key or ""
        match active:
            case "incidents":
                return _of_incident(self.model.get(key))
            case "runbooks":
                return Subject(None, "", key)
            case "targets":
                mine = self.model.about_target(key)
                return _of_incident(mine[0]) if len(mine) == 1 else Subject(None, key, "")
            case _:
                return Subject(None, "", "")

    def take_lost(self) -> str | None:
        if isinstance(self.screen, Detail) or (lost := self._shown().take_lost()) is None:
            return None
        return str((self.model.get(lost) or {}).get("target_id", lost))

    # -- keys --

    def action_tab(self, tab: str) -> None:
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self._tabs.active = tab
        if tab != "report":
            self._rows[tab].focus()
        self._look()

    def action_filter(self) -> None:
        self.action_tab("incidents")
        box = self._filter
        box.add_class("shown")
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter":
            self._draw(by_person=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            self._leave_filter(keep=True)

    def key_escape(self) -> None:
        self._leave_filter(keep=False)

    def _leave_filter(self, *, keep: bool) -> None:
        box = self._filter
        if not keep:
            box.value = ""
        box.set_class(bool(box.value), "shown")
        self._rows["incidents"].focus()

    def action_sort(self) -> None:
        orders = list(SORTS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._draw(by_person=True)

    def action_reverse(self) -> None:
        self._reverse = not self._reverse
        self._draw(by_person=True)

    def action_ended(self) -> None:
        self._ended = not self._ended
        self._draw(by_person=True)

    def action_theme(self) -> None:
        self.theme = self._theme(dark=not self.current_theme.dark)

    def _theme(self, *, dark: bool) -> str:
        kind = "ansi" if self._sixteen else "textual"
        return f"{kind}-{'dark' if dark else 'light'}"

    def action_help(self) -> None:
        self.push_screen(Reader("Keys and symbols", keys.page()))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for tab in TABS:
            yield SystemCommand(tab.title(), f"Show {tab}", lambda tab=tab: self.action_tab(tab))
        for binding in keys.told():
            if not binding.key.isdigit():
                action = binding.action
                yield SystemCommand(binding.description, f"Key {binding.key}", lambda it=action: self._run(it))

    def _run(self, action: str) -> None:
        self.call_later(self.run_action, action)


def _of_incident(incident: Json | None) -> Subject:
    if incident is None:
        return Subject(None, "", "")
    return Subject(incident, incident["target_id"], incident.get("runbook_id") or "")
