"""The text files the simulator writes: what happened on the hosts, and workloads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path

from clustersim.engine import Event
from clustersim.workload import Workload
from schedulercommon.errors import OutputError
from schedulercommon.levels import format_level

PLACEMENT_COLUMNS = ("policy", "time_s", "event", "vm", "host", "level")
TRACE_COLUMNS = ("arrival_s", "departure_s", "vcpus", "memory_mib", "level")

_EXACT = 1 << 53  # from here on, floats that are whole are best written as Python does


def placement_lines(policy: str, events: Iterable[Event]) -> Iterator[str]:
    """One line an event, without the header; of a move, the host is the destination."""
    for time_s, kind, vm, row, level in events:
        yield f"{policy},{format_time(time_s)},{kind},{vm},{row},{format_level(level)}\n"


def trace_lines(workload: Workload) -> Iterator[str]:
    """The whole trace, which :func:`clustersim.tracefile.read_trace` reads as the same."""
    yield ",".join(TRACE_COLUMNS) + "\n"
    for demand in workload:
        shape = demand.shape
        departure = "" if demand.departure_s == inf else format_time(demand.departure_s)
        yield (
            f"{format_time(demand.arrival_s)},{departure},{shape.vcpus},{shape.memory_mib},"
            f"{format_level(shape.level)}\n"
        )


def format_time(time_s: float) -> str:
    """The shortest text that is read as *time_s*."""
    return str(int(time_s)) if time_s.is_integer() and abs(time_s) < _EXACT else repr(time_s)


def check_writable(path: Path, option: str) -> None:
    """Raise OutputError if :func:`write_lines` would for want of a place, before the work."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            return  # a pipe, whose reader must see one writer only
        was_there = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not was_there:
            path.unlink()
    except (OSError, ValueError) as problem:
        raise _failed(path, option, problem) from problem


def write_lines(path: Path, lines: Iterable[str], option: str) -> None:
    """Raises OutputError, which names *option* as the way to choose another place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="ascii", newline="") as file:
            file.writelines(lines)
    except OSError as problem:
        raise _failed(path, option, problem) from problem


def _failed(path: Path, option: str, problem: OSError | ValueError) -> OutputError:
    why: object = problem.strerror if isinstance(problem, OSError) else problem
    if isinstance(problem, FileExistsError):
        why = f"{path.parent} is not a folder"
    return OutputError(f"cannot write {path}: {why}; choose another file with {option}")
