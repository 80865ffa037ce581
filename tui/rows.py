"""A table of any length: only rows that can be seen are ever drawn, and the cursor stays on its row, not its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from supervisor import clock

GAP = 1
LOST_S = 10.0  # until a person has seen, over a slow line too, that another row is under the cursor


class Column(NamedTuple):
    """`width` 0: takes what the others leave. `from_width`: shown only on a screen at least so wide."""

    title: str
    width: int
    from_width: int = 0


class Rows(ScrollView, can_focus=True):
    """`show` gives it the keys in order; `cells` is asked for the few rows that are seen, at each drawing."""

    DEFAULT_CSS = "Rows { height: 1fr; scrollbar-size-horizontal: 0; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,ctrl+p", "move(-1)", "Up", show=False),
        Binding("down,ctrl+n", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "edge(0)", "First", show=False),
        Binding("end", "edge(1)", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row now."""

    class Chosen(Message):
        def __init__(self, rows: Rows, key: str) -> None:
            super().__init__()
            self.rows, self.key = rows, key

        @property
        def control(self) -> Rows:
            return self.rows

    def __init__(self, columns: Sequence[Column], cells: Callable[[str], Sequence[Text]], id: str, empty: str) -> None:
        super().__init__(id=id)
        self._columns = columns
        self._cells = cells
        self._empty = empty
        self._keys: list[str] = []
        self._at = 0
        self._lost: str | None = None
        self._lost_at_s = 0.0
        self._base = Style.null()
        self._shown: list[tuple[int, int]] = []

    @property
    def key(self) -> str | None:
        """The row under the cursor."""
        return self._keys[self._at] if self._keys else None

    @property
    def keys(self) -> Sequence[str]:
        return self._keys

    def take_lost(self) -> str | None:
        """The row that news just took away from under the cursor, if the person has not moved it since; told once."""
        lost, self._lost = self._lost, None
        return lost if clock.monotonic_s() - self._lost_at_s < LOST_S else None

    def show(self, keys: list[str], *, by_person: bool = False) -> None:
        """`by_person`: they asked for other rows themselves, so they know that the cursor is elsewhere."""
        before = self.key
        if keys != self._keys:
            in_sight = 0 <= self._at - self.scroll_offset.y < self._seen()
            self._keys = keys
            if before is not None and (self._at >= len(keys) or keys[self._at] != before):
                stays = before in keys
                self._at = keys.index(before) if stays else max(0, min(self._at, len(keys) - 1))
                if not stays:
                    self._lost, self._lost_at_s = None if by_person else before, clock.monotonic_s()
            self.virtual_size = Size(0, len(keys) + 1)
            if in_sight:
                self.call_after_refresh(self._reveal)  # it can be scrolled so far once it is laid out
        self.refresh()
        if self.key != before:
            self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        self._go(self._at + by)

    def action_page(self, by: int) -> None:
        self._go(self._at + by * max(1, self._seen() - 1))

    def action_edge(self, last: int) -> None:
        self._go(len(self._keys) - 1 if last else 0)

    def action_choose(self) -> None:
        if self.key is not None:
            self.post_message(self.Chosen(self, self.key))

    def on_click(self, event: Click) -> None:
        row = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and row < len(self._keys):
            again = row == self._at
            self._go(row)
            if again:
                self.action_choose()

    def _go(self, row: int) -> None:
        if not self._keys:
            return
        row = max(0, min(row, len(self._keys) - 1))
        moved, self._at, self._lost = row != self._at, row, None
        self._reveal()
        self.refresh()
        if moved:
            self.post_message(self.Moved())

    def _seen(self) -> int:
        """How many rows fit below the header."""
        return max(1, self.size.height - 1)

    def _reveal(self) -> None:
        top = self.scroll_offset.y
        if self._at < top:
            self.scroll_to(y=self._at, animate=False, force=True)
        elif self._at >= top + self._seen():
            self.scroll_to(y=self._at - self._seen() + 1, animate=False, force=True)

    # -- drawing --

    def _widths(self) -> list[tuple[int, int]]:
        """(place in the row, width) of the columns that fit this screen."""
        width = self.size.width
        shown = [(n, column) for n, column in enumerate(self._columns) if width >= column.from_width]
        left = width - sum(column.width for _, column in shown) - GAP * len(shown)
        loose = sum(1 for _, column in shown if column.width == 0) or 1
        return [(n, column.width or max(8, left // loose)) for n, column in shown]

    def render_lines(self, crop: Region) -> list[Strip]:
        """What is the same for each line is found out once: it takes longer than a line."""
        self._base, self._shown = self.rich_style, self._widths()
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """The header stays; below it the rows from the scroll offset on."""
        widths, base = self._shown, self._base
        if y == 0:
            titles = [Text(self._columns[n].title) for n, _ in widths]
            return self._line(titles, [width for _, width in widths], base + Style(bold=True, underline=True))
        row = y - 1 + self.scroll_offset.y
        if row >= len(self._keys):
            text = self._empty if not self._keys and y == 2 else ""
            return Strip([Segment(set_cell_size(f" {text}", self.size.width), base)])
        cells = self._cells(self._keys[row])
        at_cursor = Style(reverse=True, bold=self.has_focus) if row == self._at else Style.null()
        return self._line([cells[n] for n, _ in widths], [width for _, width in widths], base + at_cursor)

    def _line(self, cells: Sequence[Text], widths: Sequence[int], style: Style) -> Strip:
        segments = []
        for cell, width in zip(cells, widths, strict=True):
            own = Style.parse(str(cell.style)) if cell.style and not style.reverse else Style.null()
            segments.append(Segment(fit(cell.plain, width), style + own))
            segments.append(Segment(" " * GAP, style))
        return Strip(segments).adjust_cell_length(self.size.width, style)


def fit(text: str, width: int) -> str:
    """Exactly so many cells; what is cut off is seen to be."""
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
