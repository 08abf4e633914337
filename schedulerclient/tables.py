"""What is shown, as values: sentences, and tables with what a narrow terminal may do to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """For eyes only: left out of plain text, and where there is no room to spare."""
    folds: str = ""
    """Characters after which its cells may go on in the next line; only the last column folds."""
    shortens: bool = False
    """Whether its cells may lose their middle where nothing else helps."""
    spare: int = 0
    """Those that can be spared go where there is no room for all, the largest number first."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under titles; without any titles, just rows."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    total: Row = ()

    @property
    def titled(self) -> bool:
        return any(column.title for column in self.columns)


Part = str | Cell | Table
"""A sentence, one in colour, or a table."""


def cell_of(text: str | Cell) -> Cell:
    return Cell(text) if isinstance(text, str) else text


def printable(text: str) -> str:
    """*text* without anything a terminal would obey; names come from hosts that may lie."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
