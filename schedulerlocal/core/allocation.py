"""Which CPUs a level takes when it grows and gives back when it shrinks.

A new level starts at the free CPU farthest on average from all CPUs in use and grows around it.
A level grows, one CPU (or core) at a time, by the free one nearest on average to those it has,
and shrinks by the one that leaves it most compact. Ties go to a last-level cache no other level
uses, then to topology order. Every comparison is between integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

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
    elsewhere = [cpu for cpus in others for cpu in cpus]
    if size > len(own):
        return _grow(host, own, elsewhere, size)
    return _shrink(host, own, elsewhere, size, keep)


def _grow(host: Host, own: Cpus, elsewhere: list[int], size: int) -> Cpus | None:
    units = host.units
    if size > host.cpus - len(elsewhere):
        return None
    used = [units.of_cpu[cpu] for cpu in elsewhere]
    held = [units.of_cpu[cpu] for cpu in own]
    taken = np.zeros(len(units.members), dtype=np.int64)
    taken[used] = _TAKEN
    taken[held] = _TAKEN
    shared_cache = _shares_cache(units, used)
    count = len(own)
    gained: list[int] = []
    if held:
        score = units.nearness[held].sum(axis=0)
    else:
        apart = units.nearness[used].sum(axis=0) - shared_cache - taken
        seed = int(apart.argmax())
        if taken[seed]:
            return None
        gained.append(seed)
        count += int(units.sizes[seed])
        taken[seed] = _TAKEN
        score = units.nearness[seed].copy()
    score += shared_cache
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


def _shrink(host: Host, own: Cpus, elsewhere: list[int], size: int, keep: Cpus) -> Cpus:
    units = host.units
    spare = len(own) - size
    if spare == 0:
        return own
    # descending, so that the first of equals is the last in topology order
    held = np.array(sorted({units.of_cpu[cpu] for cpu in own}, reverse=True))
    between = units.between[np.ix_(held, held)]
    sizes = units.sizes[held]
    shared_cache = _shares_cache(units, [units.of_cpu[cpu] for cpu in elsewhere])[held]
    inner = between.diagonal()
    sums = between.sum(axis=1)
    left = len(own)
    there = np.ones(len(held), dtype=bool)
    free_to_go = ~np.isin(held, [units.of_cpu[cpu] for cpu in keep])
    given: set[int] = set()
    while True:
        best = _least_missed(
            2 * sums - inner,
            sizes,
            shared_cache,
            there & free_to_go & (sizes <= spare),
            int(sums[there].sum()),
            left,
        )
        if best is None:
            return tuple([cpu for cpu in own if cpu not in given])
        given.update(units.members[held[best]])
        there[best] = False
        spare -= int(sizes[best])
        left -= int(sizes[best])
        sums -= between[best]


def _least_missed(
    parts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    shared_cache: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    total: int,
    left: int,
) -> int | None:
    """The unit whose loss leaves the least mean distance between the CPUs that stay.

    *parts* is what each unit adds to *total*, the sum over ordered pairs of the *left* CPUs.
    Among units of one size that is the largest part; the few sizes are compared exactly.
    """
    best: tuple[Fraction, int, int] | None = None
    for size in np.unique(sizes[allowed]).tolist():
        key = np.where(allowed & (sizes == size), 2 * parts + shared_cache, -1)
        unit = int(key.argmax())
        stay = left - size
        mean = Fraction(total - int(parts[unit]), stay * (stay - 1)) if stay > 1 else Fraction(0)
        candidate = (mean, -int(shared_cache[unit]), unit)
        if best is None or candidate < best:
            best = candidate
    return None if best is None else best[2]


def _shares_cache(units: Units, used: list[int]) -> NDArray[np.int64]:
    """1 for every unit whose last-level cache one of *used* also uses, else 0."""
    busy = np.zeros(int(units.cache_group.max()) + 1, dtype=np.int64)
    busy[units.cache_group[used]] = 1
    return busy[units.cache_group]
