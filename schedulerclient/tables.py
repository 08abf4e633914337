"""What is shown, as values: sentences, and tables with what a narrow terminal may do to them."""

from __future__ import annotations

import re
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


# Of a terminal: CSI sequences, which colour; OSC ones, which name it; and those of one letter.
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])?")

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


def screen_lines(text: str) -> tuple[str, ...]:
    """What a console said, line by line, without what only its terminal would obey."""
    lines = _ESCAPES.sub("", text).removesuffix("\n").split("\n") if text else []
    # what was written again over the same line is what one would see
    return tuple(line.rstrip("\r").rpartition("\r")[2].expandtabs() for line in lines)
