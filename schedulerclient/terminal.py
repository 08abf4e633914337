"""Tables on a terminal, with colours where it has them. Imports rich, so it is imported late."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from schedulerclient.tables import Cell, Row, Table, printable

_ROOMY = 100  # columns; with less, bars would crowd out words


def draw(parts: Iterable[str | Table]) -> None:
    """Print sentences and tables."""
    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(printable(part)), soft_wrap=True)
        else:
            console.print(_drawn(part if console.width >= _ROOMY else _without_bars(part)))


def _without_bars(table: Table) -> Table:
    kept = [place for place, column in enumerate(table.columns) if not column.drawn]

    def narrowed(row: Row) -> Row:
        return [row[place] for place in kept] if row else ()

    columns = tuple(table.columns[place] for place in kept)
    return Table(columns, [narrowed(row) for row in table.rows], narrowed(table.total))


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        show_header=table.titled,
        show_footer=False,
        pad_edge=False,
        show_edge=False,
    )
    for column in table.columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.right or column.drawn,
            overflow="fold",
        )
    for row in table.rows:
        drawn.add_row(*_texts(row))
    if table.total:
        drawn.add_section()
        drawn.add_row(*_texts(table.total), style="bold")
    return drawn


def _texts(row: Row) -> list[Text]:
    # texts, not markup: a name may well have brackets
    return [
        Text(printable(cell.text), style=cell.style)
        if isinstance(cell, Cell)
        else Text(printable(cell))
        for cell in row
    ]
