"""Hosts with their VMs as plain numbers, to try moves out on.

Trying a move changes two hosts of a few hundred, and nearly all that is tried is thrown away. So
a host is read from the view once, copied when a trial changes it, and never written back.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from schedulerglobal.core.policies import Score, Trial
from schedulerglobal.core.scores import NO_ROOM, scored
from schedulerglobal.core.view import ClusterView, Columns, Shape

Vm = TypeVar("Vm", bound=Hashable)
"""What tells VMs apart: a name, or a number."""
Key = tuple[int, int, int, int]
"""A shape as integers, whose hash is cheap: vCPUs, MiB, and the level's two halves."""


def key_of(shape: Shape) -> Key:
    level = shape.level
    return shape.vcpus, shape.memory_mib, level.numerator, level.denominator


class Held:
    """What a level has on a host."""

    __slots__ = ("denominator", "numerator", "owned", "sizes", "vcpus")

    def __init__(self, numerator: int, denominator: int) -> None:
        self.numerator = numerator
        self.denominator = denominator
        self.vcpus = 0
        self.owned = 0
        self.sizes: list[int] = []
        """vCPUs of each VM, ascending."""

    def copy(self) -> Held:
        new = Held(self.numerator, self.denominator)
        new.vcpus, new.owned, new.sizes = self.vcpus, self.owned, self.sizes.copy()
        return new

    def with_one(self, vcpus: int) -> int:
        """CPUs it owns with one more VM."""
        shared = -(-(self.vcpus + vcpus) * self.denominator // self.numerator)
        return max(shared, vcpus, self.owned)

    def without(self, vcpus: int) -> int:
        """CPUs it owns once one of its VMs has left: those left decide."""
        sizes = self.sizes
        if len(sizes) < 2:
            return 0
        largest = sizes[-2] if vcpus == sizes[-1] else sizes[-1]
        shared = -(-(self.vcpus - vcpus) * self.denominator // self.numerator)
        kept = largest if largest > shared else shared
        return kept if kept < self.owned else self.owned


class Standing(Generic[Vm]):
    """One host: what is free, what its levels have, and its VMs."""

    __slots__ = (
        "capacity_cpus",
        "capacity_mib",
        "free_cpus",
        "levels",
        "overhead_mib",
        "room_mib",
        "vms",
    )

    free_cpus: int
    room_mib: int
    """Memory of the largest VM there is room for, overhead aside."""
    levels: dict[tuple[int, int], Held]
    vms: dict[Vm, Key]

    def __init__(self, capacity_cpus: int, capacity_mib: int, overhead_mib: int) -> None:
        self.capacity_cpus = capacity_cpus
        self.capacity_mib = capacity_mib
        self.overhead_mib = overhead_mib

    def copy(self) -> Standing[Vm]:
        new: Standing[Vm] = Standing(self.capacity_cpus, self.capacity_mib, self.overhead_mib)
        new.free_cpus, new.room_mib = self.free_cpus, self.room_mib
        new.levels = {key: held.copy() for key, held in self.levels.items()}
        new.vms = self.vms.copy()
        return new

    def gained(self, key: Key) -> int:
        """CPUs its level would gain with one more VM."""
        held = self.levels.get(key[2:])
        if held is None:
            return max(-(-key[0] * key[3] // key[2]), key[0])
        return held.with_one(key[0]) - held.owned

    def freed(self, key: Key) -> int:
        """CPUs its level would give back with one VM less."""
        held = self.levels[key[2:]]
        return held.owned - held.without(key[0])

    def has_room(self, key: Key) -> bool:
        return key[1] <= self.room_mib and self.gained(key) <= self.free_cpus

    def add(self, vm: Vm, key: Key) -> None:
        vcpus, memory_mib, numerator, denominator = key
        held = self.levels.get((numerator, denominator))
        if held is None:
            held = self.levels[numerator, denominator] = Held(numerator, denominator)
        owned = held.with_one(vcpus)
        self.free_cpus -= owned - held.owned
        held.owned = owned
        held.vcpus += vcpus
        insort(held.sizes, vcpus)
        self.room_mib -= memory_mib + self.overhead_mib
        self.vms[vm] = key

    def discard(self, vm: Vm) -> None:
        vcpus, memory_mib, numerator, denominator = self.vms.pop(vm)
        held = self.levels[numerator, denominator]
        owned = held.without(vcpus)
        self.free_cpus += held.owned - owned
        held.owned = owned
        held.vcpus -= vcpus
        held.sizes.remove(vcpus)
        if not held.sizes:
            del self.levels[numerator, denominator]
        self.room_mib += memory_mib + self.overhead_mib


def read_standing(view: ClusterView, row: int, vms: Mapping[Vm, Shape]) -> Standing[Vm]:
    """The host of *row*, which has *vms* and no others."""
    cells = view.cells
    capacity_cpus, capacity_mib = cells.capacity_cpus[row], cells.capacity_memory_mib[row]
    standing: Standing[Vm] = Standing(
        int(capacity_cpus), int(capacity_mib), int(cells.overhead_mib[row])
    )
    standing.free_cpus = int(capacity_cpus - cells.cpus[row])
    standing.room_mib = int(capacity_mib - cells.memory_mib[row])
    levels = standing.levels = {}
    for level, owned, vcpus in view.levels_of(row):
        held = levels[level.numerator, level.denominator] = Held(level.numerator, level.denominator)
        held.owned, held.vcpus = owned, vcpus
    standing.vms = {vm: key_of(shape) for vm, shape in vms.items()}
    for vcpus, _, numerator, denominator in standing.vms.values():
        levels[numerator, denominator].sizes.append(vcpus)
    for held in levels.values():
        held.sizes.sort()
    return standing


class Layout(Generic[Vm]):
    """The hosts of a view with *vms*, all those promised on each row; read when first asked for.

    It is of no use once the view has changed.
    """

    def __init__(self, view: ClusterView, vms: Sequence[Mapping[Vm, Shape]], score: Score) -> None:
        self._view = view
        self._vms = vms
        self._score = score
        self._standings: dict[int, Standing[Vm]] = {}
        self._orders: dict[Key, tuple[list[int], list[float]]] = {}
        self._shapes: dict[Key, Shape] = {}
        one = [0.0]
        self._one = Columns(*(one.copy() for _ in range(11)))

    def __len__(self) -> int:
        return len(self._view)

    def standing(self, row: int) -> Standing[Vm]:
        """To be copied before it is changed."""
        found = self._standings.get(row)
        if found is None:
            vms = self._vms[row]
            found = self._standings[row] = read_standing(self._view, row, vms)
            self._shapes.update(zip(found.vms.values(), vms.values(), strict=True))
        return found

    def destination(self, key: Key, source: int, changed: Mapping[int, Standing[Vm]]) -> int | None:
        """The host with the largest score for one more VM, of equals the first, where *changed*
        replaces what the layout has; None if none but *source* has room."""
        order = self._orders.get(key)
        if order is None:
            order = self._orders[key] = self._ordered(self._shapes[key])
        best, best_score = None, NO_ROOM
        for row, score in zip(*order, strict=True):
            if row != source and row not in changed:
                best, best_score = row, score
                break
        for row, standing in changed.items():
            if row == source or not standing.has_room(key) or not self._view.is_open(row):
                continue
            score = self._score_of(standing, key)
            if score > best_score or (score == best_score and best is not None and row < best):
                best, best_score = row, score
        return best

    def _ordered(self, shape: Shape) -> tuple[list[int], list[float]]:
        rows = slice(len(self._view))
        scores = scored(self._view, shape, self._score, rows)
        order = np.argsort(-scores, kind="stable")[: int((scores > NO_ROOM).sum())]
        return order.tolist(), scores[order].tolist()

    def _score_of(self, on: Standing[Vm], key: Key) -> float:
        of = self._one
        of.capacity_cpus[0] = on.capacity_cpus
        of.capacity_memory_mib[0] = on.capacity_mib
        of.cpus[0] = on.capacity_cpus - on.free_cpus
        of.memory_mib[0] = on.capacity_mib - on.room_mib
        return float(self._score(Trial(of, 0, key[1], on.gained(key), min)))
