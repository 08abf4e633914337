"""Server-sent events: from the lines of a stream to what happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol

from schedulerclient.answers import Event

_LONGEST_LINE = 1 << 20


class Lines(Protocol):
    """A stream that is read line by line."""

    def readline(self, limit: int = -1, /) -> bytes: ...


def read_events(stream: Lines) -> Iterator[Event]:
    """The events of *stream* until it ends; comments and what is no event are left out."""
    fields: dict[str, str] = {}
    while line := stream.readline(_LONGEST_LINE):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            # an event's data may come in several lines
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        else:
            if event := _event(fields):
                yield event
            fields = {}


def _event(fields: dict[str, str]) -> Event | None:
    try:
        data = json.loads(fields["data"])
        return Event(int(fields["id"]), fields["event"], data) if isinstance(data, dict) else None
    except (KeyError, ValueError, RecursionError):
        return None
