"""What happened, as lines for people: when by the local clock, what, and about what."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from schedulerclient.answers import Event
from schedulerclient.tables import Cell
from schedulerclient.troubles import STATE_STYLES

_IDS = ("id", "request_id")
_STYLES = {
    **STATE_STYLES,
    **dict.fromkeys(("deployed", "adopted", "ready"), "green"),
    **dict.fromkeys(("removed", "resized", "cancelled", "settled"), "cyan"),
    **dict.fromkeys(("conflict", "incomplete", "undone"), "red"),
}


def event_cells(event: Event, before: Event | None, *, ids: bool) -> list[Cell]:
    """The line of *event*, the one *before* telling whether its date has to be."""
    about = {name: value for name, value in event.data.items() if name != "time_s"}
    if not ids:
        about = {name: value for name, value in about.items() if name not in _IDS}
    told = " ".join(f"{name}={_brief(about[name])}" for name in about if not _empty(about[name]))
    style = _STYLES.get(event.kind) or _STYLES.get(str(about.get("state"))) or "bold"
    words = [
        Cell(str(event.sequence) if ids else ""),
        Cell(_clock(event, before), "dim"),
        Cell(event.kind, style),
        Cell(told),
    ]
    return [word for word in words if word.text]


def _clock(event: Event, before: Event | None) -> str:
    now = _local(event)
    if now is None:
        return ""
    then = _local(before) if before else None
    same_day = then is not None and then.date() == now.date()
    return now.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S")


def _local(event: Event) -> datetime | None:
    try:
        return datetime.fromtimestamp(event.data["time_s"], UTC).astimezone()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None  # another version's, or no time there can be


def _empty(value: object) -> bool:
    return value is None or value == "" or value == [] or value == {}


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
