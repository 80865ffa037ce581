"""`healctl tui`: five tabs over one model. Draws what has come, asks in threads, and is quiet while nothing changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane

from supervisor import clock
from tui import look, panes, usage
from tui.acting import Acting, Subject
from tui.detail import Detail
from tui.dialogs import Reader
from tui.model import SORTS, Model
from tui.report import report_text
from tui.rows import Rows
from tui.source import Source

Json = dict[str, Any]

DRAIN_S = 0.1
TICK_S = 1.0  # ages
ASK_S = 2.0  # runbooks, targets, processes: of the tab that is seen
ABOUT_MAX = 20_000
TABS = ("incidents", "tree", "runbooks", "targets", "report")


class Board(Acting):
    TITLE = "healctl"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    #top { height: 1; padding: 0 1; background: $panel; }
    #trouble { height: 1; padding: 0 1; display: none; }
    #trouble.shown { display: block; }
    Screen { overflow: hidden; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    .below { height: 4; padding: 0 1; border-top: solid $primary; }
    #report-text { padding: 0 1; }
    #filter { display: none; border: none; height: 1; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"tab('{tab}')", tab.title(), show=False) for n, tab in enumerate(TABS, 1)),
        Binding("a", "approve", "Approve"),
        Binding("d", "dry_run", "Dry run"),
        Binding("x", "execute", "Execute"),
        Binding("k", "acknowledge", "Ack"),
        Binding("i", "dismiss", "Dismiss"),
        Binding("u", "undo", "Undo"),
        Binding("p", "pause", "Pause"),
        Binding("r", "resume", "Resume", show=False),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort", show=False),
        Binding("S", "reverse", "Reverse the order", show=False),
        Binding("e", "ended", "Show those that are over", show=False),
        Binding("t", "theme", "Light or dark", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, source: Source, *, read_only: bool = False, sixteen: bool = False) -> None:
        super().__init__()
        self.source = source
        self.read_only = read_only
        self.model = Model()
        self.about: dict[str, int] = {}
        self._sixteen = sixteen
        self._order, self._reverse, self._ended = "severity", False, False
        self._drawn = -1
        self._runbooks: dict[str, Json] = {}
        self._targets: dict[str, Json] = {}
        self._usage = usage.Usage()
        self.ansi_theme_light = look.ON_LIGHT
        # Held, not looked for: timers still tick while the screens are being taken down.
        self._top, self._bar, self._report = Static(id="top"), Static(id="trouble"), Static(id="report-text")
        self._filter = Input(placeholder="words to filter by; Esc ends it", id="filter")
        self._below = {tab: Static(classes="below") for tab in ("incidents", "tree", "targets")}
        self._tabs = TabbedContent(initial="incidents")
        self._rows = {
            "incidents": Rows(panes.INCIDENTS, self._incident_cells, "incidents-rows", "No incidents."),
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
        yield Footer()

    def on_mount(self) -> None:
        self.theme = self._theme(dark=True)
        self.source.start()
        self.set_interval(DRAIN_S, self._drain)
        self.set_interval(TICK_S, self._tick)
        self.set_interval(ASK_S, self._look)
        self._drain()
        self._rows["incidents"].focus()

    def on_unmount(self) -> None:
        self.source.close()

    # -- what comes --

    def _drain(self) -> None:
        for item in self.source.drain():
            self.model.apply(item)
            incident_id = item.data.get("incident_id") or (item.data.get("id") if item.kind == "incident" else None)
            if incident_id:
                self.about[incident_id] = self.about.get(incident_id, 0) + 1
        if len(self.about) > ABOUT_MAX:
            self.about.clear()
        trouble = self.source.trouble()
        self._bar.set_class(bool(trouble), "shown")
        if trouble:
            self._bar.update(
                Text(f"No news from healctl: {look.plain(trouble)}. What is shown is from before.", "bold yellow")
            )
        if self.model.version != self._drawn:
            self._drawn = self.model.version
            self._draw()

    def _draw(self) -> None:
        """The keys of the lists; what their rows say is asked for when they are drawn."""
        words = self._filter.value
        found = self.model.select(self._order, reverse=self._reverse, words=words, ended=self._ended)
        self._rows["incidents"].show(found)
        self._rows["tree"].show(list(self.model.children))
        self._draw_top()
        self._draw_below()

    def _draw_top(self) -> None:
        counts = self.model.counts()
        text = Text()
        text.append("read-only  " if self.read_only else "", "yellow")
        total = len(self.model.incidents)
        text.append(f"{total} open", "bold red" if total else "bold green")
        for word, (symbol, style) in look.SEVERITY.items():
            if counts[word]:
                text.append(f"  {symbol.strip()} {counts[word]} {word}", style)
        if counts["waiting"]:
            text.append(f"  @ {counts['waiting']} wait for you", "bold yellow")
        for halt in self.model.halted:
            text.append(f"  {look.plain(halt['database'])} is halted", "bold red")
        if self.model.paused:
            text.append(f"  {len(self.model.paused)} paused", "yellow")
        order = (
            f"by {self._order}" + (", reversed" if self._reverse else "") + (", with those over" if self._ended else "")
        )
        text.append(f"  {order}", "dim")
        self._top.update(text)

    def _draw_below(self) -> None:
        incident = self.model.get(self._rows["incidents"].key or "")
        self._below["incidents"].update(panes.below(incident))
        child = self.model.children.get(self._rows["tree"].key or "", {})
        words = (
            look.plain(child.get("last_words")) if child.get("last_words") else "it has not crashed while we looked on"
        )
        self._below["tree"].update(Text(f"Last exit: {look.plain(child.get('last_exit'))}\n{words}"))
        target = self._targets.get(self._rows["targets"].key or "", {})
        said = target.get("error") or target.get("anomaly")
        self._below["targets"].update(Text(look.plain(said) if said else ""))

    def _tick(self) -> None:
        """Ages move although nothing happens."""
        self._shown().refresh()

    def _look(self) -> None:
        match self._tabs.active:
            case "runbooks":
                self.ask("list_runbooks", {}, self._show_runbooks, self._quiet)
            case "targets" | "incidents":
                self.ask("targets", {}, self._show_targets, self._quiet)
            case "tree":
                pids = [row.get("pid") or 0 for row in self.model.children.values()]
                self.run_worker(lambda: self._usage.look(pids), thread=True, group="usage", exclusive=True)
            case "report":
                self.ask("report", {}, self._show_report, self._no_report, deadline_s=60.0)

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
        self._report.update(Text(look.plain(error), "yellow"))

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
                self.push_screen(Reader(event.key, panes.runbook_text(self._runbooks[event.key])))
            case "targets-rows":
                mine = [key for key, it in self.model.incidents.items() if it["target_id"] == event.key]
                if mine:
                    self.push_screen(Detail(self, mine[0]))
            case "tree-rows":
                words = self.model.children[event.key].get("last_words") or "It has not crashed while we looked on."
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
                mine = next((it for it in self.model.incidents.values() if it["target_id"] == key), None)
                return _of_incident(mine) if mine is not None else Subject(None, key, "")
            case _:
                return Subject(None, "", "")

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
            self._draw()

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
        self._draw()

    def action_reverse(self) -> None:
        self._reverse = not self._reverse
        self._draw()

    def action_ended(self) -> None:
        self._ended = not self._ended
        self._draw()

    def action_theme(self) -> None:
        self.theme = self._theme(dark=not self.current_theme.dark)

    def _theme(self, *, dark: bool) -> str:
        kind = "ansi" if self._sixteen else "textual"
        return f"{kind}-{'dark' if dark else 'light'}"

    def action_help(self) -> None:
        text = keys_text(
            [
                *((it.key_display or it.key, it.description) for it in self.BINDINGS if isinstance(it, Binding)),
                ("Enter", "Open what is under the cursor"),
                ("Ctrl+P", "Command palette"),
            ]
        )
        for name, table in (("Severity", look.SEVERITY), ("State", look.STATE)):
            text.append(f"{name}: ", "dim")
            for word, (symbol, style) in table.items():
                text.append(f"{symbol.strip()} {word}  ", style)
            text.append("\n")
        self.push_screen(Reader("Keys and symbols", text))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for tab in TABS:
            yield SystemCommand(tab.title(), f"Show {tab}", lambda tab=tab: self.action_tab(tab))
        for binding in self.BINDINGS:
            if isinstance(binding, Binding) and not binding.key.isdigit():
                action = binding.action
                yield SystemCommand(binding.description, f"Key {binding.key}", lambda it=action: self._run(it))

    def _run(self, action: str) -> None:
        self.call_later(self.run_action, action)


def keys_text(keys: list[tuple[str, str]]) -> Text:
    """Keys and what they do, in two columns, so that a small terminal shows them all at once."""
    text, half = Text(), (len(keys) + 1) // 2
    width = max(len(words) for _, words in keys[:half]) + 4
    for left in range(half):
        for key, words in keys[left::half]:
            text.append(f"{key:>6}  ", "bold")
            text.append(f"{words:<{width}}")
        text.rstrip()
        text.append("\n")
    text.append("\n")
    return text


def _of_incident(incident: Json | None) -> Subject:
    if incident is None:
        return Subject(None, "", "")
    return Subject(incident, incident["target_id"], incident.get("runbook_id") or "")
