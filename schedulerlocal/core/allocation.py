"""Which CPUs a level takes when it grows and gives back when it shrinks.

A new level starts at the free CPU farthest on average from all CPUs in use and grows around it.
A level grows, one CPU (or core) at a time, by the free one nearest on average to those it has,
and shrinks by the one that leaves it most compact. Ties go to a last-level cache no other level
uses, then to topology order. Every comparison is between integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from schedulerlocal.core.host import Host, Units
from schedulerlocal.core.topology import Cpus

_TAKEN = 1 << 50  # larger than any sum of distances


def resize_cpus(
    host: Host, own: Cpus, others: Iterable[Cpus], size: int, keep: Cpus = ()
) -> Cpus | None:
    """The CPUs of a level that owns *own* once it must own *size*; None if too few are free.

    *others* are the CPUs of the other levels. Kept CPUs keep their order of arrival; those in
    *keep* are never given back, even if more than *size* stay for it.
    """
    if size == len(own):
        return own
    elsewhere = list(chain.from_iterable(others))
    if size > len(own):
        return _grow(host, own, elsewhere, size)
    return _shrink(host, own, elsewhere, size, keep)


def _grow(host: Host, own: Cpus, elsewhere: Sequence[int], size: int) -> Cpus | None:
    units = host.units
    if size > host.cpus - len(elsewhere):
        return None
    used, held = _units_of(units, elsewhere), _units_of(units, own)
    taken = np.zeros(len(units.members), dtype=np.int64)
    taken[used] = _TAKEN
    taken[held] = _TAKEN
    shared_cache = _shares_cache(units, used)
    count = len(own)
    gained: list[int] = []
    if own:
        score = _summed_nearness(units, held) + shared_cache
    else:
        apart = _summed_nearness(units, used) - shared_cache - taken
        seed = int(apart.argmax())
        if taken[seed]:
            return None
        gained.append(seed)
        count += int(units.sizes[seed])
        taken[seed] = _TAKEN
        score = units.nearness[seed] + shared_cache
    score += taken
    while count < size:
        nearest = int(score.argmin())
        if score[nearest] >= _TAKEN:
            return None
        gained.append(nearest)
        count += int(units.sizes[nearest])
        score += units.nearness[nearest]
        score[nearest] += _TAKEN
    return own + tuple([cpu for unit in gained for cpu in units.members[unit]])


def _shrink(host: Host, own: Cpus, elsewhere: Sequence[int], size: int, keep: Cpus) -> Cpus:
    units = host.units
    spare = len(own) - size
    # descending, so that the first of equals is the last in topology order
    held = _units_of(units, own)[::-1]
    between = units.between[held[:, None], held]
    sizes = units.sizes[held]
    bulk = _Bulk(
        parts=2 * between.sum(axis=1) - between.diagonal(),
        total=int(between.sum()),
        cpus=len(own),
    )
    tie = _shares_cache(units, _units_of(units, elsewhere))[held]
    stays = np.zeros(len(held), dtype=bool)
    if keep:
        kept = {units.of_cpu[cpu] for cpu in keep}
        stays[[place for place, unit in enumerate(held.tolist()) if unit in kept]] = True
    given: set[int] = set()
    while True:
        lost = _least_missed(bulk, sizes, tie, stays | (sizes > spare))
        if lost is None:
            return tuple([cpu for cpu in own if cpu not in given])
        given.update(units.members[held[lost]])
        stays[lost] = True
        spare -= int(sizes[lost])
        bulk.total -= int(bulk.parts[lost])
        bulk.parts -= 2 * between[lost]
        bulk.cpus -= int(sizes[lost])


@dataclass(slots=True)
class _Bulk:
    """How spread out a level's CPUs are."""

    parts: NDArray[np.int64]
    """What each unit adds to the total."""
    total: int
    """Sum of the distances of all ordered pairs of CPUs."""
    cpus: int


def _least_missed(
    bulk: _Bulk,
    sizes: NDArray[np.int64],
    tie: NDArray[np.int64],
    stays: NDArray[np.bool_],
) -> int | None:
    """The unit, of those that need not stay, whose loss leaves the least mean distance.

    Among units of one size that is the one with the largest part, and on equal parts the one
    marked in *tie*; the few sizes are compared exactly.
    """
    score = 2 * bulk.parts + tie
    score[stays] = -1
    lost = int(score.argmax())
    if score[lost] < 0:
        return None
    others = np.unique(sizes[~stays]) if sizes.min() != sizes.max() else sizes[:1]
    if len(others) == 1:
        return lost

    def mean_left(unit: int) -> tuple[Fraction, int, int]:
        left = bulk.cpus - int(sizes[unit])
        pairs = left * (left - 1)
        rest = bulk.total - int(bulk.parts[unit])
        return (Fraction(rest, pairs) if pairs else Fraction(0), -int(tie[unit]), unit)

    best = [int(np.where(sizes == size, score, -1).argmax()) for size in others]
    return min(best, key=mean_left)


def _units_of(units: Units, cpus: Sequence[int]) -> NDArray[np.intp]:
    """The units *cpus* are in, ascending and each once, however many of its CPUs are named."""
    there = np.zeros(len(units.members), dtype=np.bool_)
    there[units.of_number[np.array(cpus, dtype=np.intp)]] = True
    return np.flatnonzero(there)


def _summed_nearness(units: Units, near: NDArray[np.intp]) -> NDArray[np.int64]:
    """How near each unit is to all of *near*, on the scale of :attr:`Units.nearness`."""
    rows = units.nearness.take(near, axis=0)
    sums: NDArray[np.int64] = rows.sum(axis=0, dtype=rows.dtype).astype(np.int64)
    return sums


def _shares_cache(units: Units, used: NDArray[np.intp]) -> NDArray[np.int64]:
    """1 for every unit whose last-level cache one of *used* also uses, else 0."""
    busy = np.zeros(int(units.cache_group.max()) + 1, dtype=np.int64)
    busy[units.cache_group[used]] = 1
    return busy[units.cache_group]
