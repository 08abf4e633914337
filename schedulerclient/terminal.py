"""Tables on a terminal, with colours where it has them. Imports rich, so it is imported late."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.text import Text

from schedulerclient.layout import GAP, Line, lines
from schedulerclient.tables import Cell, Part, Table, cell_of, printable

_STYLES = {"title": "bold", "total": "bold"}


def draw(parts: Iterable[Part]) -> None:
    """Print sentences and tables."""
    console = Console(highlight=False)
    for part in parts:
        for text in _drawn(part, console.width) if isinstance(part, Table) else [_styled(part)]:
            # the terminal breaks what is too long after all, so that it can be copied
            console.print(text, soft_wrap=True)


def line_printer() -> Callable[[list[Cell]], None]:
    """Prints words as a line, at once."""
    console = Console(highlight=False)

    def print_line(cells: list[Cell]) -> None:
        console.print(Text(" ").join(map(_styled, cells)), soft_wrap=True)
        console.file.flush()

    return print_line


def _styled(part: str | Cell) -> Text:
    # texts, not markup: a name may well have brackets
    cell = cell_of(part)
    return Text(printable(cell.text), style=cell.style)


def _drawn(table: Table, width: int) -> Iterable[Text]:
    found = lines(table, width)
    rule = Text("─" * min(width, max((len(line.text) for line in found), default=0)), style="dim")
    before = ""
    for line in found:
        if before and line.kind != before:
            yield rule
        before = line.kind
        yield _line(line)


def _line(line: Line) -> Text:
    text = Text(style=_STYLES.get(line.kind, ""))
    for number, cell in enumerate(line.cells):
        text.append(GAP if number else "")
        text.append(cell.text, style=cell.style)
    text.rstrip()
    return text
