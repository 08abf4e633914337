"""The cluster in columns: what every host has, promised and still has free, by level.

One row per host, grown ahead of need, so that a decision over a hundred thousand hosts is a
handful of array operations over columns worked out when a host changed. Every column can be read
as an array or, for one row, as plain numbers; rules are written once, for both. Whoever scores
hosts over and over is told which rows changed since it last looked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from schedulercommon.levels import PREMIUM, Level
from schedulercommon.model import HostStatus, LevelStatus, VmSpec
from schedulercommon.sizing import cpus_needed

Numbers = Any
"""An array, one value per row asked for; or the plain number of one row."""
At = Any
"""Of which rows: a slice or an array of rows, with arrays; one row, with plain numbers."""
Larger = Callable[[Numbers, Numbers], Numbers]
"""``numpy.maximum`` or ``max``; the smaller alike."""

BLOCK = 1_024
"""Columns are whole blocks of that many rows."""

_MOST_CPUS = 1 << 20
_MOST_MIB = (1 << 31) - 1
# What a host claims beyond these (2 PiB, a million CPUs) is cut off: with them, every integer here
# fits 32 bits, and is exact as a float.
_MOST_PARTS = 1 << 30
_MOST_LEVELS = 64  # of one host that get columns; CPUs of more count as promised
_KEPT_CHANGES = 8_192
_NO_ROOM = -1


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a VM matters for where it fits."""

    vcpus: int
    memory_mib: int
    """Without overhead: that is each host's own."""
    level: Level


def shape_of(spec: VmSpec) -> Shape:
    """What *spec* takes of a host: memory counts at its boot maximum, at the level it runs at."""
    return Shape(spec.vcpus, spec.max_memory_mib, spec.runs_at)


@dataclass(slots=True)
class Columns:
    """What is known of hosts beyond their levels."""

    room_cpus: Numbers
    """Free CPUs, no fewer than 0."""
    room_mib: Numbers
    """Memory of the largest VM there is room for, overhead aside; negative if new VMs may not go
    there, or only if no other host has room."""
    cpus: Numbers
    """Promised CPUs."""
    memory_mib: Numbers
    """Promised memory, and the overhead of one more VM."""
    capacity_cpus: Numbers
    capacity_memory_mib: Numbers
    overhead_mib: Numbers
    vms: Numbers
    ideal: Numbers
    """Capacity in MiB per CPU."""
    apart: Numbers
    """How far what is promised is from that, in MiB per CPU."""
    worse: Numbers
    """1 and the share of CPUs promised."""


@dataclass(slots=True)
class LevelColumns:
    """What is known of one level of hosts."""

    parts: Numbers
    """vCPUs promised, times the level's denominator."""
    owned: Numbers
    """CPUs."""


_EMPTY: dict[str, tuple[type, int]] = {
    name: (np.int32 if name in {"room_cpus", "room_mib", "parts", "owned"} else np.float64, 0)
    for name in (field.name for of in (Columns, LevelColumns) for field in fields(of))
}
_EMPTY |= {
    "room_mib": (np.int32, _NO_ROOM),
    # of a host not seen yet; nothing is divided by zero
    **dict.fromkeys(("capacity_cpus", "capacity_memory_mib", "worse"), (np.float64, 1)),
}


class _Level:
    """The columns of a level, both ways, and how many hosts have it."""

    def __init__(self, level: Level, rows: int) -> None:
        self.level = level
        self.columns: LevelColumns = _columns(LevelColumns, rows)
        self.cells: LevelColumns = _cells(self.columns)
        self.hosts = 0

    def grow(self, rows: int) -> None:
        self.columns = _columns(LevelColumns, rows, self.columns)
        self.cells = _cells(self.columns)


class ClusterView:
    """Columns indexed by row; a row stays its host's for good. Not safe for threads.

    New VMs may go to a host once its status is known, unless it was closed.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: dict[str, int] = {}
        self.changes = 0
        """How many times any row changed."""
        self.columns: Columns = _columns(Columns, BLOCK)
        self.cells: Columns = _cells(self.columns)
        self._size = BLOCK
        self._log: list[int] = []
        self._log_start = 0
        self._levels: dict[tuple[int, int], _Level] = {}
        self._no_level = _Level(PREMIUM, BLOCK)
        """Stands for a level that no host has."""
        self._levels_of: list[list[tuple[int, int]]] = []
        self._unseen: set[int] = set()
        self._closed: set[int] = set()
        self._unpreferred: set[int] = set()

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str) -> int:
        """The row of the host called *name*, made if there is none."""
        row = self.rows.get(name)
        if row is not None:
            return row
        row = len(self.names)
        if row == self._size:
            self._grow(2 * row)
        self.names.append(name)
        self.rows[name] = row
        self._levels_of.append([])
        self._unseen.add(row)
        self._changed(row)
        return row

    def rename(self, row: int, name: str) -> None:
        """Call the host of *row* by *name*, which no other has."""
        if self.rows.get(name, row) != row:
            raise ValueError(f"host {name!r} already has a row")
        del self.rows[self.names[row]]
        self.names[row] = name
        self.rows[name] = row

    def set_status(self, row: int, status: HostStatus, reserved: Iterable[Shape] = ()) -> None:
        """Take over what the host says of itself, and count *reserved* in."""
        cells = self.cells
        for key in self._levels_of[row]:
            self._leave(row, key)
        self._levels_of[row] = []
        owned = 0
        for level in status.levels:
            owned += min(level.cpus, _MOST_CPUS)
            if len(self._levels_of[row]) < _MOST_LEVELS:
                self._enter(row, level)
        capacity_cpus = min(status.capacity_cpus, _MOST_CPUS)
        capacity_mib = min(status.capacity_memory_mib, _MOST_MIB)
        overhead = min(status.vm_overhead_mib, _MOST_MIB)
        memory = min(status.allocated_memory_mib, _MOST_MIB) + overhead
        # a host that has nothing at all is full
        cpus = max(owned, 1) if capacity_cpus < 1 else owned
        memory = max(memory, 1) if capacity_mib < 1 else memory
        cells.capacity_cpus[row] = max(capacity_cpus, 1)
        cells.capacity_memory_mib[row] = max(capacity_mib, 1)
        cells.overhead_mib[row] = overhead
        cells.vms[row] = status.vms
        cells.ideal[row] = cells.capacity_memory_mib[row] / cells.capacity_cpus[row]
        self._unseen.discard(row)
        self._promise(row, cpus, memory)
        for shape in reserved:
            self._reserve(row, shape)
        self._changed(row)

    def reserve(self, row: int, shape: Shape) -> None:
        """Count one more VM of *shape* on the host of *row*, whether or not it fits."""
        self._reserve(row, shape)
        self._changed(row)

    def release(self, row: int, shape: Shape, largest_vcpus: int) -> None:
        """Count one VM of *shape* less on the host of *row*: the opposite of :meth:`reserve`.

        *largest_vcpus* are those of the largest VM left at that level of the host, 0 if none is.
        Raises ValueError if no such VM can be there.
        """
        key = (shape.level.numerator, shape.level.denominator)
        cells, level = self.cells, self._level(shape.level).cells
        owned, left = level.owned[row], level.parts[row] - shape.vcpus * key[1]
        if left < largest_vcpus * key[1] or key not in self._levels_of[row]:
            raise ValueError(f"host {self.names[row]!r} has no VM of {shape}")
        if left:
            kept = cpus_needed(left // key[1], largest_vcpus, shape.level)
            level.parts[row], level.owned[row] = left, kept
        else:
            kept = 0
            self._leave(row, key)
            self._levels_of[row].remove(key)
        cells.vms[row] -= 1
        memory = cells.memory_mib[row] - shape.memory_mib - cells.overhead_mib[row]
        self._promise(row, cells.cpus[row] - owned + kept, memory)
        self._changed(row)

    def set_open(self, row: int, is_open: bool) -> None:
        """Let new VMs go to the host of *row*, or no longer."""
        self._put(self._closed, row, not is_open)

    def set_preferred(self, row: int, is_preferred: bool) -> None:
        """Use the host of *row* like any other, or only where no preferred one has room."""
        self._put(self._unpreferred, row, not is_preferred)

    def is_open(self, row: int) -> bool:
        """Whether new VMs may go to the host of *row*."""
        return row not in self._closed and row not in self._unseen

    def is_preferred(self, row: int) -> bool:
        return row not in self._unpreferred

    @property
    def closed(self) -> set[int]:
        """Rows where new VMs may not go."""
        return self._closed | self._unseen

    @property
    def unpreferred(self) -> list[int]:
        """Rows where new VMs may go if no preferred one has room, ascending."""
        return sorted(row for row in self._unpreferred if self.is_open(row))

    def free(self, row: int) -> tuple[int, int]:
        """CPUs and MiB of memory not promised; negative on a host found over-committed."""
        cells = self.cells
        memory_mib = cells.memory_mib[row] - cells.overhead_mib[row]
        return (
            int(cells.capacity_cpus[row] - cells.cpus[row]),
            int(cells.capacity_memory_mib[row] - memory_mib),
        )

    def levels_of(self, row: int) -> list[tuple[Level, int, int]]:
        """The levels of the host of *row*, the CPUs each owns and the vCPUs promised at it."""
        levels = [self._levels[key] for key in self._levels_of[row]]
        return [
            (
                each.level,
                each.cells.owned[row],
                each.cells.parts[row] // each.level.denominator,
            )
            for each in levels
        ]

    def level_columns(self, level: Level) -> LevelColumns:
        """The arrays of *level*."""
        return self._level(level).columns

    def level_cells(self, level: Level) -> LevelColumns:
        """The plain numbers of *level*."""
        return self._level(level).cells

    def changed_since(self, changes: int) -> Sequence[int] | None:
        """Rows changed since :attr:`changes` was *changes*; None if that is too long ago."""
        start = changes - self._log_start
        return None if start < 0 else self._log[start:]

    def _level(self, level: Level) -> _Level:
        return self._levels.get((level.numerator, level.denominator), self._no_level)

    def _enter(self, row: int, status: LevelStatus) -> None:
        level = self._join(row, status.level)
        parts = level.cells.parts[row] + status.vcpus * status.level.denominator
        level.cells.parts[row] = min(parts, _MOST_PARTS)
        level.cells.owned[row] = min(level.cells.owned[row] + status.cpus, _MOST_CPUS)

    def _join(self, row: int, level: Level) -> _Level:
        key = (level.numerator, level.denominator)
        found = self._levels.get(key)
        if found is None:
            found = self._levels[key] = _Level(level, self._size)
        if key not in self._levels_of[row]:
            self._levels_of[row].append(key)
            found.hosts += 1
        return found

    def _leave(self, row: int, key: tuple[int, int]) -> None:
        level = self._levels[key]
        level.hosts -= 1
        if not level.hosts:
            del self._levels[key]
            return
        level.cells.parts[row] = 0
        level.cells.owned[row] = 0

    def _reserve(self, row: int, shape: Shape) -> None:
        level = self._join(row, shape.level)
        gained = gained_cpus(level.cells, row, shape, max)
        parts = level.cells.parts[row] + shape.vcpus * shape.level.denominator
        level.cells.parts[row] = min(parts, _MOST_PARTS)
        level.cells.owned[row] += gained
        cells = self.cells
        cells.vms[row] += 1
        memory = cells.memory_mib[row] + shape.memory_mib + cells.overhead_mib[row]
        self._promise(row, cells.cpus[row] + gained, memory)

    def _promise(self, row: int, cpus: float, memory_mib: float) -> None:
        """Write down what is promised on *row*, and what follows from it."""
        cells = self.cells
        capacity_cpus = cells.capacity_cpus[row]
        cells.cpus[row] = cpus
        cells.memory_mib[row] = memory_mib
        cells.room_cpus[row] = max(int(capacity_cpus - cpus), 0)
        promised = memory_mib - cells.overhead_mib[row]
        cells.apart[row] = abs(promised / cpus - cells.ideal[row]) if cpus else 0.0
        cells.worse[row] = 1.0 + cpus / capacity_cpus
        self._offer(row)

    def _offer(self, row: int) -> None:
        offered = self.is_open(row) and row not in self._unpreferred
        cells = self.cells
        room = int(cells.capacity_memory_mib[row] - cells.memory_mib[row]) if offered else _NO_ROOM
        cells.room_mib[row] = max(room, _NO_ROOM)

    def _put(self, rows: set[int], row: int, inside: bool) -> None:
        if (row in rows) == inside:
            return
        if inside:
            rows.add(row)
        else:
            rows.discard(row)
        self._offer(row)
        self._changed(row)

    def _changed(self, row: int) -> None:
        self._log.append(row)
        self.changes += 1
        if len(self._log) > 2 * _KEPT_CHANGES:
            del self._log[:_KEPT_CHANGES]
            self._log_start += _KEPT_CHANGES

    def _grow(self, rows: int) -> None:
        self._size = rows
        self.columns = _columns(Columns, rows, self.columns)
        self.cells = _cells(self.columns)
        for level in (*self._levels.values(), self._no_level):
            level.grow(rows)


def gained_cpus(of: LevelColumns, at: At, shape: Shape, maximum: Larger) -> Numbers:
    """CPUs a level would gain with one more VM of *shape*: :mod:`schedulercommon.sizing`.

    A level owns at least as many CPUs as its largest VM has vCPUs, so that of those there now,
    the largest does not matter for what is gained.
    """
    vcpus, level, owned = shape.vcpus, shape.level, of.owned[at]
    rounding_up = vcpus * level.denominator + level.numerator - 1
    needed = maximum((of.parts[at] + rounding_up) // level.numerator, vcpus)
    return maximum(needed, owned) - owned


def _columns(of: Any, rows: int, before: Any = None) -> Any:
    """Empty columns of *rows* rows, or *before* made longer."""
    columns = {}
    for field in fields(of):
        dtype, value = _EMPTY[field.name]
        column: Any = np.full(rows, value, dtype=dtype)
        if before is not None:
            old = getattr(before, field.name)
            column[: len(old)] = old
        columns[field.name] = column
    return of(**columns)


def _cells(columns: Any) -> Any:
    """The same memory, which a memoryview reads and writes as plain numbers, and fast."""
    return type(columns)(
        **{field.name: getattr(columns, field.name).data for field in fields(columns)}
    )
