"""``python -m schedulerclient``: asks, and prints tables for people or JSON for scripts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from schedulerclient.answers import Event
from schedulerclient.arguments import read_arguments
from schedulerclient.eventlines import event_cells
from schedulerclient.faults import Refused, Unreachable
from schedulerclient.layout import plain_text
from schedulerclient.outcomes import (
    UNREACHABLE,
    changes_something,
    refusal_code,
    refusal_lines,
    unreachable_line,
    unsure,
)
from schedulerclient.outputs import prepare
from schedulerclient.tables import Cell, Part, Table, cell_of, printable
from schedulerprocess.options import DONE

if TYPE_CHECKING:
    from schedulerclient.client import Client


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code. Raises UsageError."""
    for stream in (sys.stdout, sys.stderr):
        prepare(stream)
    asked = read_arguments(arguments)
    # what it takes to ask is loaded now that there is something to ask
    from schedulerclient.commands import COMMANDS
    from schedulerclient.config import check_tier, make_client
    from schedulerprocess.settings import read_environment

    client = make_client(
        read_environment(),
        url=asked.url,
        token_file=asked.token_file,
        timeout_s=asked.timeout,
        tell=lambda line: _complain([line]),
    )
    try:
        if asked.command != "leader":
            check_tier(client)
        if asked.command == "events":
            return _follow(client, asked)
        shown = COMMANDS[asked.command](client, asked)
    except Refused as refusal:
        if asked.json:
            _print_json(refusal.document)
        _complain(refusal_lines(refusal, with_token=bool(client.token)))
        return refusal_code(refusal, asked.command)
    except Unreachable as problem:
        _complain([unreachable_line(problem, asked)])
        return UNREACHABLE
    except KeyboardInterrupt:
        _tell_interrupted(asked)
        raise
    if asked.json:
        _print_json(shown.document)
    else:
        _show(shown.parts)
    _complain(shown.complaints)
    return shown.code


def _follow(client: Client, asked: Namespace) -> int:
    """Print events for as long as they come, one a line."""
    if sys.stderr.isatty():
        _complain(["listening… (Ctrl-C ends)"])
    print_line = _line_printer()
    before: Event | None = None
    try:
        for event in client.events(asked.after):
            if asked.json:
                about = {"id": event.sequence, "event": event.kind, "data": event.data}
                several = len(client.urls) > 1
                told_by = {"scheduler": event.source} if several else {}
                print(json.dumps({**about, **told_by}), flush=True)
            else:
                print_line(event_cells(event, before, ids=asked.ids))
            before = event
    except Unreachable as problem:
        if before is None or len(client.urls) > 1:
            raise  # of several, nobody knows which will be listened to
        last = f"events --after={before.sequence}"
        _complain([f"{problem}; go on with 'python -m schedulerclient {last}' to miss nothing"])
        return UNREACHABLE
    return DONE


def _line_printer() -> Callable[[list[Cell]], None]:
    if sys.stdout.isatty():
        from schedulerclient.terminal import line_printer

        return line_printer()
    return lambda cells: print(*(printable(cell.text) for cell in cells), flush=True)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2))


def _show(parts: Iterable[Part]) -> None:
    if sys.stdout.isatty():
        from schedulerclient.terminal import draw

        draw(parts)
        return
    for part in parts:
        if isinstance(part, Table):
            print(plain_text(part))
        else:
            print(printable(cell_of(part).text))


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"{printable(line)}\n")


def _tell_interrupted(asked: Namespace) -> None:
    if changes_something(asked.command):
        _complain([f"interrupted; {unsure(asked)}"])
