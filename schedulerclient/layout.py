"""Tables as lines: as wide as they are for pipes and files, fitted to its width for a terminal.

Neither a number nor an address is ever broken. Where there is too little room, bars go first; then
titles and the last column fold between words or items; then columns that can be spared go; then
names lose their middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from unicodedata import combining, east_asian_width

from schedulerclient.tables import Cell, Column, Table, cell_of, printable

GAP = "  "
_WIDEST_WORD = 24  # of a column that folds; longer ones hang over its end, the line's
_SHORTEST_NAME = 12


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table, its cells padded to their columns."""

    kind: str
    """``title``, ``row`` or ``total``."""
    cells: tuple[Cell, ...]

    @property
    def text(self) -> str:
        return GAP.join(cell.text for cell in self.cells).rstrip()


def lines(table: Table, width: int | None = None) -> list[Line]:
    """*table*, fitted to *width*; None is as wide as it takes, without anything drawn."""
    grid = [("title", [Cell(column.title) for column in table.columns])] if table.titled else []
    grid += [("row", [_clean(cell) for cell in map(cell_of, row)]) for row in table.rows]
    if table.total:
        grid.append(("total", [_clean(cell) for cell in map(cell_of, table.total)]))
    cells = [row for _, row in grid]
    widest = [max(width_of(cell.text) for cell in each) for each in zip(*cells, strict=True)]
    shown = _fitted(table.columns, cells[table.titled :], widest, width)
    return [
        Line(kind, line) for kind, row in grid for line in _folded(kind, row, table.columns, shown)
    ]


def plain_text(table: Table) -> str:
    return "\n".join(line.text for line in lines(table))


def width_of(text: str) -> int:
    """The columns of a terminal it takes."""
    if text.isascii():
        return len(text)
    wide = sum(east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(combining(character) > 0 for character in text)


def _clean(cell: Cell) -> Cell:
    return Cell(printable(cell.text), cell.style)


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], widest: list[int], width: int | None
) -> dict[int, int]:
    """The width of each column that is shown, by its place."""
    shown = dict(enumerate(widest))
    if width is not None and _sum(shown) <= width:
        return shown
    shown = {place: each for place, each in shown.items() if not columns[place].drawn}
    if width is None or _sum(shown) <= width:
        return shown
    least = {place: _least(columns[place], place, rows) for place in shown}
    spared = sorted((-column.spare, place) for place, column in enumerate(columns) if column.spare)
    gone: list[tuple[int, int]] = []
    for _, place in spared:
        if _sum(least) <= width:
            break
        gone.append((place, least.pop(place)))
    # a wide one may have left room for a narrow one that went before it
    for place, narrow in reversed(gone):
        if _sum(least) + len(GAP) + narrow <= width:
            least[place] = narrow
    least = dict(sorted(least.items()))
    # what is left goes to what folds, then to titles
    for place in sorted(least, key=lambda place: not columns[place].folds):
        room = max(width - _sum(least), 0)
        least[place] = min(widest[place], least[place] + room)
    for place in sorted(least, key=lambda place: -least[place]):
        over = _sum(least) - width
        if columns[place].shortens and over > 0:
            least[place] = max(least[place] - over, min(least[place], _SHORTEST_NAME))
    return least


def _sum(widths: dict[int, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _least(column: Column, place: int, rows: Sequence[Sequence[Cell]]) -> int:
    """The width a column can be folded to."""
    title = max(map(width_of, column.title.split()), default=0)
    texts = [row[place].text for row in rows]
    if not column.folds:
        return max((title, *map(width_of, texts)))
    items = [width_of(item.strip()) for text in texts for item in _items(text, column.folds)]
    return max(title, min(max(items, default=0), _WIDEST_WORD))


def _folded(
    kind: str, row: Sequence[Cell], columns: Sequence[Column], shown: dict[int, int]
) -> Iterator[tuple[Cell, ...]]:
    """The lines of one row."""
    stacks = []
    for place, width in shown.items():
        column, cell = columns[place], row[place]
        folds = " " if kind == "title" else column.folds
        stacks.append([_set(text, cell, column, width) for text in _fold(cell.text, folds, width)])
    blanks = [Cell(" " * width) for width in shown.values()]
    for line in zip_longest(*stacks):
        yield tuple(cell or blank for cell, blank in zip(line, blanks, strict=True))


def _set(text: str, cell: Cell, column: Column, width: int) -> Cell:
    if column.shortens and width_of(text) > width:
        text = _shortened(text, width)
    padding = " " * (width - width_of(text))
    return Cell(padding + text if column.right else text + padding, cell.style)


def _shortened(text: str, width: int) -> str:
    kept = width - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _items(text: str, folds: str) -> list[str]:
    return re.split(f"(?<=[{re.escape(folds)}])", text)


def _fold(text: str, folds: str, width: int) -> list[str]:
    if width_of(text) <= width or not folds:
        return [text]
    found = [""]
    for item in _items(text, folds):
        if found[-1] and width_of((found[-1] + item).rstrip()) > width:
            found[-1] = found[-1].rstrip()
            found.append(item.lstrip())
        else:
            found[-1] += item
    return [*found[:-1], found[-1].rstrip()]
