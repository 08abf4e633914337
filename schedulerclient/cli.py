"""``python -m schedulerclient``: asks, and prints tables for people or JSON for scripts."""

from __future__ import annotations

import io
import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence

from schedulerclient.answers import Event
from schedulerclient.arguments import read_arguments
from schedulerclient.faults import Refused, Unreachable
from schedulerclient.outcomes import (
    UNREACHABLE,
    changes_something,
    refusal_code,
    refusal_lines,
    unreachable_line,
    unsure,
)
from schedulerclient.tables import Table, plain_text, printable
from schedulerprocess.options import DONE


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code. Raises UsageError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what the locale cannot write is no reason to fail after the deed
            stream.reconfigure(errors="backslashreplace")
    asked = read_arguments(arguments)
    # what it takes to ask is loaded now that there is something to ask
    from schedulerclient.commands import COMMANDS
    from schedulerclient.config import check_tier, make_client
    from schedulerprocess.settings import read_environment

    client = make_client(
        read_environment(), url=asked.url, token_file=asked.token_file, timeout_s=asked.timeout
    )
    try:
        check_tier(client)
        if asked.command == "events":
            return _follow(client.events(asked.after), as_json=asked.json)
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


def _follow(events: Iterable[Event], *, as_json: bool) -> int:
    """Print events for as long as they come, one a line."""
    for event in events:
        if as_json:
            line = json.dumps({"id": event.sequence, "event": event.kind, "data": event.data})
        else:
            about = " ".join(f"{name}={_brief(value)}" for name, value in event.data.items())
            line = printable(f"{event.sequence} {event.kind} {about}")
        print(line, flush=True)
    return DONE


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2))


def _show(parts: Iterable[str | Table]) -> None:
    if sys.stdout.isatty():
        from schedulerclient.terminal import draw

        draw(parts)
        return
    for part in parts:
        print(printable(part) if isinstance(part, str) else plain_text(part))


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"{printable(line)}\n")


def _tell_interrupted(asked: Namespace) -> None:
    if changes_something(asked.command):
        _complain([f"interrupted; {unsure(asked)}"])
