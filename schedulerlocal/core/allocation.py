"""Which CPUs a level takes when it grows and gives back when it shrinks.

A new level starts at the free CPU farthest on average from all CPUs in use and grows around it.
A level grows, one CPU (or core) at a time, by the free one nearest on average to those it has,
and shrinks by the one that leaves it most compact. Ties go to a last-level cache no other level
uses, then to topology order. Every comparison is between integers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedulerlocal.core.host import Host, Units
from schedulerlocal.core.topology import Cpus

_TAKEN = 1 << 50  # larger than any sum of distances


@dataclass(frozen=True, slots=True, eq=False)
class Footprint:
    """CPUs of one level and where they are; made once and carried from snapshot to snapshot."""

    cpus: Cpus
    """In order of arrival."""
    units: NDArray[np.intp]
    """The units they are, descending."""
    near: NDArray[np.int64]
    """For every unit of the host, how near it is to all of them, as :attr:`Units.nearness`."""
    block: NDArray[np.int64]
    """What they are to others, for every unit: out of reach where they are, 1 where they use the
    same last-level cache, else 0."""


def footprint(host: Host, cpus: Cpus) -> Footprint:
    """The footprint of *cpus*."""
    units = host.units
    there = np.zeros(len(units.members), dtype=np.bool_)
    there[units.of_number[np.array(cpus, dtype=np.intp)]] = True
    held = np.flatnonzero(there)[::-1]
    rows = units.nearness.take(held, axis=0)
    # summing 32 bits in 64 takes twice as long, and every sum fits what the rows are in
    near = rows.sum(axis=0, dtype=rows.dtype).astype(np.int64)
    return Footprint(cpus, held, near, _block(units, held))


def resize_cpus(
    host: Host, own: Cpus, others: Collection[Cpus], size: int, keep: Cpus = ()
) -> Cpus | None:
    """:func:`resize` for CPUs whose footprints are not known yet."""
    beside = [footprint(host, cpus) for cpus in others]
    resized = resize(host, footprint(host, own), beside, size, keep)
    return None if resized is None else resized.cpus


def resize(
    host: Host, own: Footprint, others: Collection[Footprint], size: int, keep: Cpus = ()
) -> Footprint | None:
    """What a level that owns *own* owns once it must own *size* CPUs; None if too few are free.

    *others* are those of the other levels. Kept CPUs keep their order of arrival; those in
    *keep* are never given back, even if more than *size* stay for it.
    """
    if size == len(own.cpus):
        return own
    beside = np.zeros(len(host.units.members), dtype=np.int64)
    for other in others:
        np.maximum(beside, other.block, out=beside)
    if size < len(own.cpus):
        return _shrink(host.units, own, beside, size, keep)
    if size > host.cpus - sum([len(other.cpus) for other in others]):
        return None
    return _grow(host.units, own, others, beside, size)


def _grow(
    units: Units,
    own: Footprint,
    others: Collection[Footprint],
    beside: NDArray[np.int64],
    size: int,
) -> Footprint | None:
    count = len(own.cpus)
    gained: list[int] = []
    if count:
        score = own.near + beside
        score[own.units] = _TAKEN
    else:
        apart = -beside
        for other in others:
            apart += other.near
        seed = int(apart.argmax())
        if beside[seed] >= _TAKEN:
            return None
        gained.append(seed)
        count = int(units.sizes[seed])
        score = units.nearness[seed] + beside
        score[seed] = _TAKEN
    while count < size:
        nearest = int(score.argmin())
        if score[nearest] >= _TAKEN:
            return None
        gained.append(nearest)
        count += int(units.sizes[nearest])
        score += units.nearness[nearest]
        score[nearest] = _TAKEN
    cpus = own.cpus + tuple([cpu for unit in gained for cpu in units.members[unit]])
    held = np.concatenate((own.units, gained))
    held[::-1].sort()
    return Footprint(cpus, held, own.near + _summed(units, gained), _block(units, held))


def _shrink(
    units: Units, own: Footprint, beside: NDArray[np.int64], size: int, keep: Cpus
) -> Footprint:
    spare = len(own.cpus) - size
    stays = np.zeros(len(own.units), dtype=np.bool_)
    if keep:
        kept = {units.of_cpu[cpu] for cpu in keep}
        stays[[place for place, unit in enumerate(own.units.tolist()) if unit in kept]] = True
    choose = _lost_of_one_size if units.uniform else _lost_of_many_sizes
    places = choose(units, own, beside[own.units], stays, spare)
    if not places:
        return own
    lost = own.units[places].tolist()
    given = {cpu for unit in lost for cpu in units.members[unit]}
    cpus = tuple([cpu for cpu in own.cpus if cpu not in given])
    left = np.ones(len(own.units), dtype=np.bool_)
    left[places] = False
    held = own.units[left]
    return Footprint(cpus, held, own.near - _summed(units, lost), _block(units, held))


def _lost_of_one_size(
    units: Units,
    own: Footprint,
    tie: NDArray[np.int64],
    stays: NDArray[np.bool_],
    spare: int,
) -> list[int]:
    """The places in ``own.units`` whose loss, one by one, leaves the least mean distance.

    With units of one size that is each time the one that adds most to the sum of distances, on
    equal sums one marked in *tie*, then the last in topology order.
    """
    held = own.units
    score = own.near[held] - units.inner[held] + tie
    score[stays] = -1
    places: list[int] = []
    for _ in range(spare // int(units.sizes[0])):
        place = int(score.argmax())
        if score[place] < 0:
            break
        places.append(place)
        score -= units.nearness[held[place], held]
        score[place] = -_TAKEN
    return places


def _lost_of_many_sizes(
    units: Units,
    own: Footprint,
    tie: NDArray[np.int64],
    stays: NDArray[np.bool_],
    spare: int,
) -> list[int]:
    """The same for units of several sizes, whose means are compared exactly, as fractions."""
    held = own.units
    between = units.between[held[:, None], held]
    sizes = units.sizes[held]
    parts = 2 * between.sum(axis=1) - between.diagonal()
    total, cpus = int(between.sum()), len(own.cpus)

    def mean_without(place: int) -> tuple[Fraction, int, int]:
        left = cpus - int(sizes[place])
        pairs = left * (left - 1)
        rest = total - int(parts[place])
        return (Fraction(rest, pairs) if pairs else Fraction(0), -int(tie[place]), place)

    places: list[int] = []
    while True:
        score = 2 * parts + tie
        score[stays | (sizes > spare)] = -1
        best = [int(np.where(sizes == size, score, -1).argmax()) for size in np.unique(sizes)]
        able = [place for place in best if score[place] >= 0]
        if not able:
            return places
        place = min(able, key=mean_without)
        places.append(place)
        stays[place] = True
        spare -= int(sizes[place])
        cpus -= int(sizes[place])
        total -= int(parts[place])
        parts = parts - 2 * between[place]


def _summed(units: Units, of: list[int]) -> NDArray[Any]:
    """How near every unit is to all those of the list."""
    rows: NDArray[Any] = units.nearness[of[0]]
    return rows if len(of) == 1 else units.nearness.take(of, axis=0).sum(axis=0, dtype=np.int64)


def _block(units: Units, held: Sequence[int] | NDArray[np.intp]) -> NDArray[np.int64]:
    used = np.zeros(units.cache_groups, dtype=np.int64)
    used[units.cache_group[held]] = 1
    block = used[units.cache_group]
    block[held] = _TAKEN
    return block
