"""What hosts are worth to the shapes that are expected: how many more of each fit, and together.

Worked out for many hosts and all shapes at once, as they are and with one VM more. Whole numbers
all along, though in floats, so that a sum is the same in whatever order it was come by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedulerglobal.core.view import At, ClusterView, Numbers, Shape

Floats = NDArray[np.float64]
Rooms = NDArray[np.float64]
"""What is left, a column a host. Rows: for each level, how much of it the CPUs it has and those
free still take, as vCPUs times its denominator; for each level, those CPUs; memory in MiB; overhead
of a VM in MiB. Nothing is below 0."""

SCALE = 25.0
"""``n(1 + 0.08 n)`` is given times that: ``n(25 + 2 n)``."""
_MOST_COPIES = 65_536.0  # on one host: with more, sums over all hosts would not be exact


class Expected:
    """Some shapes, as arrays."""

    def __init__(self, shapes: tuple[Shape, ...]) -> None:
        self.shapes = shapes
        self._levels = list(dict.fromkeys(each.level for each in shapes))
        self._place_of = {
            (each.numerator, each.denominator): place for place, each in enumerate(self._levels)
        }
        self._level_of = np.array([self._levels.index(each.level) for each in shapes], np.intp)
        self._vcpus = _upright([each.vcpus for each in shapes])
        self._parts = _upright([each.vcpus * each.level.denominator for each in shapes])
        self._memory_mib = _upright([each.memory_mib for each in shapes])
        self._numerators = _upright([each.numerator for each in self._levels])

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def kinds_of_room(self) -> int:
        """Rows of rooms."""
        return 2 * len(self._levels) + 2

    def sizes(self, cpus: float, memory_mib: float) -> Floats:
        """Of each shape, on a host of so many CPUs and MiB: the mean of its two shares, and half
        of the larger once more."""
        level = self._numerators[self._level_of] * (self._vcpus / self._parts)
        x, y = self._vcpus / level / cpus, self._memory_mib / memory_mib
        found: Floats = ((x + y) / 2 + np.maximum(x, y) / 2)[:, 0]
        return found

    def rooms(self, view: ClusterView, at: At) -> Rooms:
        """Of the hosts *at*, new VMs allowed or not."""
        of, count = view.columns, len(self._levels)
        overhead_mib, free_cpus = of.overhead_mib[at], of.room_cpus[at]
        rooms = np.empty((self.kinds_of_room, len(overhead_mib)))
        for place, level in enumerate(self._levels):
            columns = view.level_columns(level)
            cpus = np.add(columns.owned[at], free_cpus, out=rooms[count + place])
            np.subtract(cpus * level.numerator, columns.parts[at], out=rooms[place])
        np.subtract(of.capacity_memory_mib[at], of.memory_mib[at], out=rooms[-2])
        rooms[-2] += overhead_mib
        rooms[-1] = overhead_mib
        return np.maximum(rooms, 0, out=rooms)

    def with_one(self, rooms: Rooms, shape: Shape, gained_cpus: Numbers) -> Rooms:
        """*rooms* once each host has one VM of *shape* more, whose level gains *gained_cpus*."""
        after = self._moved(rooms, shape, -1, gained_cpus)
        return np.maximum(after, 0, out=after)

    def without_one(self, rooms: Rooms, shape: Shape, freed_cpus: Numbers) -> Rooms:
        """*rooms* once each host has one VM of *shape* less, whose level gives back
        *freed_cpus*."""
        return self._moved(rooms, shape, 1, freed_cpus)

    def _moved(self, rooms: Rooms, shape: Shape, sign: int, cpus: Numbers) -> Rooms:
        count = len(self._levels)
        after = rooms.copy()
        own = self._place_of.get((shape.level.numerator, shape.level.denominator))
        cpus = sign * cpus
        after[:count] += self._numerators * cpus
        after[count:-2] += cpus
        if own is not None:
            # what its level gains or gives back was, or is, free for it all the same
            after[own] = rooms[own] + sign * shape.vcpus * shape.level.denominator
            after[count + own] = rooms[count + own]
        after[-2] += sign * (shape.memory_mib + rooms[-1])
        return after

    def worth(self, rooms: Rooms) -> Floats:
        """``n(25 + 2 n)`` for each shape, a row, and each host, a column.

        n is :func:`schedulerglobal.core.capacity.fits`, at most 65 536.
        """
        count = len(self._levels)
        found: Floats = rooms[self._level_of] / self._parts
        # of a VM with more vCPUs than its level could have CPUs, none fits
        found *= rooms[count:-2][self._level_of] >= self._vcpus
        np.minimum(found, rooms[-2] / (self._memory_mib + rooms[-1]), out=found)
        np.minimum(found, _MOST_COPIES, out=found)
        np.floor(found, out=found)  # exact: far below 2**53, the nearest quotient is near enough
        found *= found * 2 + SCALE
        return found


def _upright(numbers: list[int]) -> Floats:
    return np.array(numbers, dtype=np.float64).reshape(-1, 1)
