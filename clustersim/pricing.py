"""The dearest set of VMs that one host takes, for given prices: the pricing of column generation.

A table per level, over vCPUs sold and memory; its VMs are taken up by size, so that the table that
counts for a level of *c* CPUs holds none larger than *c*. Levels are put together over CPUs and
memory. All integers. Memory is counted in the largest unit that divides all sizes; where that
makes the tables too large, in a coarser one, rounded down: what fits a host still does, so the
bound stays one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.workload import HostSize
from schedulercommon.levels import PREMIUM, Level
from schedulerglobal.core.view import Shape

Pattern = tuple[int, ...]
"""How many VMs of each shape."""
Table = NDArray[np.int64]

_MOST_CELLS = 1 << 27  # of the marks of all pieces: a byte each
_MOST_UNITS = 1_024
_MOST_UNITS_JOINED = 192  # where several levels share: joining two tables costs their square


def least_shares(kinds: Sequence[Shape], host: HostSize) -> tuple[list[Fraction], list[Fraction]]:
    """The share of a host's CPUs, and of its memory, that each VM takes at least."""
    return (
        [Fraction(kind.vcpus) / (kind.level * host.cpus) for kind in kinds],
        [Fraction(kind.memory_mib, host.memory_mib) for kind in kinds],
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some copies of one shape, taken or left together."""

    kind: int
    copies: int
    vcpus: int
    units: int
    """Of memory."""


class Pricing:
    """For shapes of which there are *most*."""

    def __init__(self, kinds: Sequence[Shape], most: Sequence[int], host: HostSize) -> None:
        self._kinds = len(kinds)
        self._cpus = host.cpus
        self._pieces: dict[Level, list[_Piece]] = {}
        unit = _memory_unit(kinds, most, host)
        self._units = host.memory_mib // unit
        for place in sorted(range(len(kinds)), key=lambda each: kinds[each].vcpus):
            kind = kinds[place]
            units = kind.memory_mib // unit
            room = _sold(kind.level, host.cpus) // kind.vcpus
            copies = min(most[place], room, self._units // units if units else room)
            self._pieces.setdefault(kind.level, []).extend(
                _Piece(place, part, part * kind.vcpus, part * units) for part in _parts(copies)
            )
        self._sizes = [kind.vcpus for kind in kinds]

    def dearest(self, prices: Sequence[int]) -> tuple[int, list[Pattern]]:
        """The most that a host's VMs are worth, and patterns, the first of which is worth that."""
        levels = [
            _LevelTable(level, pieces, self._sizes, prices, self._cpus, self._units)
            for level, pieces in sorted(self._pieces.items())
            if level != PREMIUM
        ]
        joined = _Joined(levels[:-1], self._cpus, self._units)
        if PREMIUM in self._pieces:
            # there a CPU is a vCPU, so these go straight on top
            joined.put_on_top(self._pieces[PREMIUM], prices)
        if not levels:
            return int(joined.table[-1, -1]), [self._pattern(joined.taken(-1, -1))]
        last = levels[-1]
        sums = joined.table[::-1, ::-1] + last.table
        by_cpus = sums.max(axis=1)
        patterns = []
        for cpus in np.argsort(-by_cpus, kind="stable")[:_SEVERAL].tolist():
            units = int(sums[cpus].argmax())
            rest = joined.taken(self._cpus - cpus, self._units - units)
            patterns.append(self._pattern(rest + last.taken(cpus, units)))
        return int(by_cpus.max()), patterns

    def _pattern(self, pieces: list[_Piece]) -> Pattern:
        counts = [0] * self._kinds
        for piece in pieces:
            counts[piece.kind] += piece.copies
        return tuple(counts)


_SEVERAL = 8
"""Patterns offered at once: those worth most with different shares of CPUs for the last level."""


class _Marked:
    """A table over something and memory, and which pieces raised which of its cells."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._taken: list[tuple[_Piece, NDArray[np.bool_]]] = []

    def __len__(self) -> int:
        return len(self._taken)

    def put(self, piece: _Piece, worth: int) -> None:
        rows, columns = self.table.shape
        if worth <= 0 or piece.vcpus >= rows or piece.units >= columns:
            return
        there = self.table[piece.vcpus :, piece.units :]
        with_it = self.table[: rows - piece.vcpus, : columns - piece.units] + worth
        better = with_it > there
        np.copyto(there, with_it, where=better)
        self._taken.append((piece, better))

    def back(self, row: int, column: int, among: int) -> tuple[list[_Piece], int, int]:
        """The pieces of the first *among* in a cell, and the cell without them."""
        found = []
        for piece, better in self._taken[among - 1 :: -1] if among else ():
            above, left = row - piece.vcpus, column - piece.units
            if above >= 0 and left >= 0 and better[above, left]:
                found.append(piece)
                row, column = above, left
        return found, row, column


class _LevelTable:
    """What the VMs of one level are worth at most, by CPUs and memory of the level."""

    def __init__(
        self,
        level: Level,
        pieces: Sequence[_Piece],
        sizes: Sequence[int],
        prices: Sequence[int],
        cpus: int,
        units: int,
    ) -> None:
        self._level = level
        self._sold = _Marked(np.zeros((_sold(level, cpus) + 1, units + 1), dtype=np.int64))
        self._among = [0] * (cpus + 1)
        """By CPUs: how many marks there were when the table was that of VMs no larger."""
        self.table: Table = np.zeros((cpus + 1, units + 1), dtype=np.int64)
        place = 0
        for each in range(cpus + 1):
            while place < len(pieces) and sizes[pieces[place].kind] <= each:
                piece = pieces[place]
                self._sold.put(piece, prices[piece.kind] * piece.copies)
                place += 1
            self.table[each] = self._sold.table[_sold(level, each)]
            self._among[each] = len(self._sold)

    def taken(self, cpus: int, units: int) -> list[_Piece]:
        return self._sold.back(_sold(self._level, cpus), units, self._among[cpus])[0]


class _Joined:
    """Levels together, by CPUs and memory."""

    def __init__(self, levels: Sequence[_LevelTable], cpus: int, units: int) -> None:
        self._levels = levels
        tables = [np.zeros((cpus + 1, units + 1), dtype=np.int64)]
        for level in levels:
            # nothing to convolve with the first
            tables.append(level.table if len(tables) == 1 else _together(tables[-1], level.table))
        self._tables = tables
        self._top = _Marked(tables[-1].copy())

    @property
    def table(self) -> Table:
        return self._top.table

    def put_on_top(self, pieces: Sequence[_Piece], prices: Sequence[int]) -> None:
        for piece in pieces:
            self._top.put(piece, prices[piece.kind] * piece.copies)

    def taken(self, cpus: int, units: int) -> list[_Piece]:
        rows, columns = self.table.shape
        found, row, column = self._top.back(cpus % rows, units % columns, len(self._top))
        for before, after, level in zip(
            self._tables[-2::-1], self._tables[:0:-1], self._levels[::-1], strict=True
        ):
            sums = before[row::-1, column::-1] + level.table[: row + 1, : column + 1]
            at = int((sums == after[row, column]).argmax())
            own_row, own_column = divmod(at, column + 1)
            found += level.taken(own_row, own_column)
            row, column = row - own_row, column - own_column
        return found


def _together(one: Table, other: Table) -> Table:
    """The most of both within each number of CPUs and units of memory."""
    rows, columns = one.shape
    result = one.copy()
    for row, column in _steps(other):
        there = result[row:, column:]
        np.maximum(there, one[: rows - row, : columns - column] + other[row, column], out=there)
    return result


def _steps(table: Table) -> Iterator[tuple[int, int]]:
    """Cells worth more than those with fewer CPUs or less memory; the others add nothing."""
    padded: Any = np.zeros((table.shape[0] + 1, table.shape[1] + 1), dtype=np.int64)
    padded[1:, 1:] = table
    new = (table > padded[:-1, 1:]) & (table > padded[1:, :-1])
    yield from zip(*(each.tolist() for each in np.nonzero(new)), strict=True)


def _sold(level: Level, cpus: int) -> int:
    """vCPUs that *cpus* CPUs carry."""
    return cpus * level.numerator // level.denominator


def _parts(copies: int) -> Iterator[int]:
    """Numbers whose subsets add up to everything from 0 to *copies*."""
    part = 1
    while copies > 0:
        yield min(part, copies)
        copies -= part
        part *= 2


def _memory_unit(kinds: Sequence[Shape], most: Sequence[int], host: HostSize) -> int:
    """MiB."""
    unit = gcd(*(kind.memory_mib for kind in kinds))
    rows = sum(
        (_sold(kind.level, host.cpus) + 1) * len(list(_parts(count)))
        for kind, count in zip(kinds, most, strict=True)
    )
    shared = {kind.level for kind in kinds} - {PREMIUM}
    most_units = min(_MOST_CELLS // rows, _MOST_UNITS if len(shared) < 3 else _MOST_UNITS_JOINED)
    return max(unit, -(-host.memory_mib // max(most_units, 1)))
