"""What is simulated: VMs that arrive and leave, and the size of the hosts they go to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from schedulerglobal.core.view import Shape


@dataclass(frozen=True, slots=True)
class Demand:
    """A VM: one row of a trace. Its place in the workload, from 0, is its number."""

    arrival_s: float
    departure_s: float
    """Later than its arrival; ``math.inf`` for one that stays."""
    shape: Shape

    @property
    def stays(self) -> bool:
        return self.departure_s == inf


Workload = tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class HostSize:
    """What every host offers: all of it to VMs, without reserve or overhead."""

    cpus: int
    memory_mib: int

    def holds(self, shape: Shape) -> bool:
        """Whether an empty host takes it: no VM competes with itself, whatever its level."""
        return shape.vcpus <= self.cpus and shape.memory_mib <= self.memory_mib


def too_large(workload: Iterable[Demand], host: HostSize) -> int | None:
    """The number of the first VM that no host can take, however many there are."""
    fits: dict[Shape, bool] = {}
    for number, demand in enumerate(workload):
        shape = demand.shape
        if shape not in fits:
            fits[shape] = host.holds(shape)
        if not fits[shape]:
            return number
    return None
