"""Tables as values, and as plain aligned text for pipes and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and how a terminal that can shows it."""

    text: str
    style: str = ""


Row = Sequence[str | Cell]


@dataclass(frozen=True, slots=True)
class Column:
    """How a column is headed and set."""

    title: str = ""
    right: bool = False
    drawn: bool = False
    """For eyes only: left out of plain text."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under titles; without any titles, just rows."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    total: Row = ()

    @property
    def titled(self) -> bool:
        return any(column.title for column in self.columns)


def plain_text(table: Table) -> str:
    """*table* as lines whose columns are aligned, none wider than its widest cell."""
    columns = [column for column in table.columns if not column.drawn]
    lines = [[column.title for column in columns]] if table.titled else []
    for row in (*table.rows, *([table.total] if table.total else [])):
        pairs = zip(row, table.columns, strict=True)
        lines.append([printable(text_of(cell)) for cell, column in pairs if not column.drawn])
    widths = [max(len(cell) for cell in cells) for cells in zip(*lines, strict=True)]
    return "\n".join(
        _GAP.join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def text_of(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def printable(text: str) -> str:
    """*text* without anything a terminal would obey; names come from hosts that may lie."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
