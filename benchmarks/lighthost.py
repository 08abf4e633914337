"""A host by its rules alone: levels by the sizing rule, one pool of memory, names taken once.

No CPU is chosen and nothing runs, so that one process can be thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schedulercommon.errors import NameTaken, NoCapacity, RefusedError, UnknownVm
from schedulercommon.levels import Level, format_level
from schedulercommon.model import Rejection
from schedulercommon.sizing import cpus_needed


class LightVm(NamedTuple):
    """A VM as it was asked for; two that are equal are the same request."""

    vcpus: int
    memory_mib: int
    level: Level
    image: str


@dataclass(slots=True)
class _LevelInUse:
    cpus: int = 0
    vcpus: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """vCPUs of each VM."""


class LightHost:
    """What a host holds. A change that is refused leaves it as it was."""

    def __init__(self, cpus: int, memory_mib: int) -> None:
        self.vms: dict[str, LightVm] = {}
        self.generation = 1
        self.free_cpus = cpus
        self.free_memory_mib = memory_mib
        self._capacity = cpus, memory_mib
        self._levels: dict[Level, _LevelInUse] = {}

    def deploy(self, name: str, vm: LightVm) -> RefusedError | None:
        """Why not; None once it is there, as it may have been before."""
        there = self.vms.get(name)
        if there is not None:
            return None if there == vm else NameTaken(name)
        level = self._levels.get(vm.level) or _LevelInUse()
        largest = max(level.sizes.values(), default=0)
        size = cpus_needed(level.vcpus + vm.vcpus, max(largest, vm.vcpus), vm.level)
        gained = size - level.cpus
        if gained > self.free_cpus:
            return NoCapacity(Rejection("cpus", gained, self.free_cpus).sentence)
        if vm.memory_mib > self.free_memory_mib:
            rejection = Rejection("memory_mib", vm.memory_mib, self.free_memory_mib)
            return NoCapacity(rejection.sentence)
        self._levels[vm.level] = level
        level.cpus = size
        level.vcpus += vm.vcpus
        level.sizes[name] = vm.vcpus
        self.free_cpus -= gained
        self.free_memory_mib -= vm.memory_mib
        self.vms[name] = vm
        self.generation += 1
        return None

    def remove(self, name: str) -> RefusedError | None:
        """Why not; None once it is gone."""
        vm = self.vms.pop(name, None)
        if vm is None:
            return UnknownVm(name)
        level = self._levels[vm.level]
        del level.sizes[name]
        level.vcpus -= vm.vcpus
        size = cpus_needed(level.vcpus, max(level.sizes.values(), default=0), vm.level)
        self.free_cpus += level.cpus - size
        self.free_memory_mib += vm.memory_mib
        level.cpus = size
        if not level.sizes:
            del self._levels[vm.level]
        self.generation += 1
        return None

    def forget(self) -> None:
        """Lose every VM."""
        self.free_cpus, self.free_memory_mib = self._capacity
        self.vms.clear()
        self._levels.clear()
        self.generation += 1

    def status(self, boast: int = 1) -> dict[str, Any]:
        """The published status of the host; what it says is free is *boast* times its capacity
        where that is more than 1."""
        cpus, memory_mib = self.free_cpus, self.free_memory_mib
        allocated_mib = self._capacity[1] - memory_mib
        if boast > 1:
            cpus, memory_mib = (capacity * boast for capacity in self._capacity)
        levels = {}
        for level, used in self._levels.items():
            over, under = level.numerator, level.denominator
            levels[format_level(level)] = {
                "pcap": used.cpus,
                "palloc": used.vcpus,
                "vavail": (used.cpus * over - used.vcpus * under) / under,
                "vpotential": cpus * over / under,
            }
        pool = {
            "pcap": allocated_mib,
            "palloc": allocated_mib,
            "vavail": 0,
            "vpotential": memory_mib,
        }
        return {
            "cpu": {"avail": cpus, "subset": levels},
            "mem": {"avail": memory_mib, "subset": {"1": pool} if levels else {}},
        }
