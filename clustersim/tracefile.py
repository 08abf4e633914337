"""Reading a workload: a CSV with a row per VM, or a monitoring trace of a host."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, isfinite
from pathlib import Path

from clustersim.placements import TRACE_COLUMNS
from clustersim.workload import Demand, HostSize, Workload, too_large
from schedulercommon.errors import InputError, TraceError
from schedulercommon.levels import parse_decimal, parse_level
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS
from schedulerglobal.core.view import Shape
from schedulerlocal.adapters.tracecsv import TraceReader
from schedulerlocal.replay import VmRow

_LONGEST_HEADER_BYTES = 1 << 16
_TIME = re.compile(r"(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Trace:
    """A workload, and where each VM of it was read."""

    workload: Workload
    lines: tuple[int, ...]
    """Empty for a workload that was not read."""
    name: str

    def check_fits(self, host: HostSize) -> None:
        """Raise InputError, naming the line, if a VM is larger than any host."""
        vm = too_large(self.workload, host)
        if vm is None:
            return
        shape = self.workload[vm].shape
        where = f"{self.name}, line {self.lines[vm]}" if self.lines else self.name
        raise InputError(
            f"{where}: VM {vm} has {shape.vcpus} vCPUs and {shape.memory_mib} MiB, more than any"
            f" host of {host.cpus} CPUs and {host.memory_mib} MiB; give larger hosts with --host"
        )


def read_trace(path: Path) -> Trace:
    """Rows in the order of the file; a monitoring trace's VMs in order of appearance.

    Raises TraceError, naming the line.
    """
    try:
        with path.open("rb") as file:
            header = file.readline(_LONGEST_HEADER_BYTES)
            if b"\t" not in header:
                return _rows(path, _text(path, header + file.read()))
            again = file.seekable()
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise TraceError(
            f"cannot read the trace {path}: {why}; name a CSV of VMs or a monitoring CSV"
        ) from problem
    if not again:
        raise TraceError(f"{path}: a monitoring trace must be a file, not a pipe; save it to one")
    return _monitored(path)


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        number = content.count(b"\n", 0, problem.start) + 1
        raise TraceError(
            f"{path}, line {number}: it is not UTF-8 text; save the trace as UTF-8"
        ) from problem


def _rows(path: Path, text: str) -> Trace:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    demands: list[Demand] = []
    lines: list[int] = []
    shapes: dict[tuple[str, str, str], Shape] = {}
    try:
        places = _places(next(reader, []))
        for fields in reader:
            if not any(map(str.strip, fields)):
                continue  # blank, as many editors leave at the end
            if len(fields) <= max(places):
                raise ValueError(f"it has {len(fields)} columns; complete it")
            arrival, departure, *size = (fields[place].strip() for place in places)
            arrival_s = _time_s(arrival, "arrival_s")
            departure_s = _time_s(departure, "departure_s") if departure else inf
            if departure_s <= arrival_s:
                raise ValueError(
                    f"the VM departs at {departure} s and arrives at {arrival} s;"
                    " departure_s must be later, or empty for one that stays"
                )
            key = (size[0], size[1], size[2])
            shape = shapes.get(key)
            if shape is None:
                shape = shapes[key] = _shape(*key)
            demands.append(Demand(arrival_s, departure_s, shape))
            lines.append(reader.line_num)
    except (ValueError, csv.Error) as problem:
        raise TraceError(f"{path}, line {max(reader.line_num, 1)}: {problem}") from None
    if not demands:
        what = "has a header and no rows" if text.strip() else "is empty"
        raise TraceError(
            f"{path}: the trace {what}; give a row for each VM: {','.join(TRACE_COLUMNS)}"
        )
    return Trace(tuple(demands), tuple(lines), str(path))


def _places(header: list[str]) -> list[int]:
    """Where the columns are; others may be among them."""
    names = [name.strip() for name in header]
    if not any(names):
        raise ValueError(f"the header is missing; it must name {','.join(TRACE_COLUMNS)}")
    if missing := [name for name in TRACE_COLUMNS if name not in names]:
        raise ValueError(
            f"the header lacks {', '.join(missing)}; it must name {','.join(TRACE_COLUMNS)}"
        )
    if twice := [name for name in TRACE_COLUMNS if names.count(name) > 1]:
        raise ValueError(f"the header names {twice[0]} twice; keep one")
    return [names.index(name) for name in TRACE_COLUMNS]


def _time_s(text: str, column: str) -> float:
    time_s = float(text) if _TIME.fullmatch(text) else inf
    if not isfinite(time_s):
        raise ValueError(f"{column} is {text[:40]!r}; it must be a number of seconds, 0 or more")
    return time_s


def _shape(vcpus: str, memory_mib: str, level: str) -> Shape:
    return Shape(
        _count(vcpus, "vcpus", MAX_VCPUS),
        _count(memory_mib, "memory_mib", MAX_MEMORY_MIB),
        parse_level(level),
    )


def _count(text: str, column: str, most: int) -> int:
    try:
        count = parse_decimal(text)
    except ValueError:
        count = Fraction(0)
    if count.denominator != 1 or not 1 <= count <= most:
        raise ValueError(f"{column} is {text[:40]!r}; it must be a whole number from 1 to {most}")
    return int(count)


@dataclass(slots=True)
class _Guest:
    """A VM that a monitoring trace shows at the moment."""

    vm: int
    shape: Shape


def _monitored(path: Path) -> Trace:
    """A VM arrives at the first timestamp that shows it and departs at the first that does not.
    One that changes its size or level departs, and arrives anew as another."""
    demands: list[Demand] = []
    lines: list[int] = []
    guests: dict[str, _Guest] = {}
    memory: dict[str, int] = {}
    cpu: Mapping[VmRow, bytes] = {}
    mem: Mapping[VmRow, bytes] = {}
    for tick in TraceReader(path).ticks():
        if tick.cpu.keys() == cpu.keys() and tick.mem.keys() == mem.keys():
            continue
        cpu, mem = tick.cpu, tick.mem
        time_s = float(tick.time)
        shown = {row.uuid: row for row in cpu}
        # a row of memory may be missing now and then; the last one counts
        memory = {uuid: size for uuid, size in memory.items() if uuid in shown}
        memory |= {row.uuid: row.size for row in mem if row.uuid in shown}
        shapes = _shapes(path, tick.time.decode(), shown.values(), memory)
        for uuid in [uuid for uuid, guest in guests.items() if guest.shape != shapes.get(uuid)]:
            vm = guests.pop(uuid).vm
            demands[vm] = replace(demands[vm], departure_s=time_s)
        for uuid, shape in shapes.items():
            if uuid not in guests:
                guests[uuid] = _Guest(len(demands), shape)
                demands.append(Demand(time_s, inf, shape))
                lines.append(shown[uuid].line)
    if not demands:
        raise TraceError(f"{path}: the trace shows no VM; record a host that has some")
    return Trace(tuple(demands), tuple(lines), str(path))


def _shapes(
    path: Path, time: str, rows: Iterable[VmRow], memory: Mapping[str, int]
) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for row in rows:
        if row.uuid not in memory:
            raise TraceError(
                f"{path}, line {row.line}: VM {row.name} appears at {time} s without a vm mem row;"
                " add one that gives its MiB under config"
            )
        shapes[row.uuid] = Shape(row.size, memory[row.uuid], row.level)
    return shapes
