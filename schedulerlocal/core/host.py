"""What does not change about a host: its topology, its rules, and what follows from the two.

CPUs change hands in *units*: single CPUs, or whole physical cores where SMT isolation is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np
from numpy.typing import NDArray

from schedulerlocal.core.topology import Cpus, Topology


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's choices for a host."""

    smt_isolation: bool = False
    """Levels take whole physical cores, and nothing is lent."""
    critical_size: int = 6
    """Levels with fewer VMs than this borrow free CPUs; 0 turns lending off."""
    vm_overhead_mib: int = 0
    """Memory the hypervisor itself needs per VM."""
    reserved_memory_mib: int = 0
    """Memory kept for the host itself."""


@dataclass(frozen=True)
class Units:
    """What changes hands at once, and how far apart such units are.

    Arrays are indexed by unit; distances are sums of integers, so comparing them is exact.
    """

    members: tuple[Cpus, ...]
    sizes: NDArray[np.int64]
    between: NDArray[np.int64]
    """Sum of the distances of the CPUs of two units; [k, k]."""
    nearness: NDArray[np.int32] | NDArray[np.int64]
    """``between[i, j]`` per CPU of j: twice the mean, times a factor common to all units.

    In 32 bits where every sum of rows fits, since reading it is what picking CPUs costs.
    """
    inner: NDArray[np.int64]
    """Sum of the distances inside each unit."""
    uniform: bool
    """Whether all units have as many CPUs."""
    cache_group: NDArray[np.int64]
    cache_groups: int
    """How many there are."""
    of_cpu: dict[int, int]
    of_number: NDArray[np.intp]
    """:attr:`of_cpu` for many at once, indexed by CPU number; no unit's where there is no CPU."""


@dataclass(frozen=True)
class Host:
    """A host as its owner set it up; raises ValueError if no memory is left for VMs."""

    topology: Topology
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        if self.memory_mib < 1:
            raise ValueError(
                f"the host keeps {self.rules.reserved_memory_mib} of"
                f" {self.topology.memory_allowed_mib} MiB for itself, which leaves VMs nothing;"
                " lower SCL_RESERVED_MEMORY_MIB"
            )

    @property
    def cpus(self) -> int:
        """CPUs there are for VMs."""
        return len(self.topology.cpus)

    @property
    def memory_mib(self) -> int:
        """Memory there is for VMs, after the reserve."""
        return self.topology.memory_allowed_mib - self.rules.reserved_memory_mib

    @cached_property
    def node_memory_mib(self) -> Mapping[int, int]:
        """:attr:`memory_mib` by NUMA node: in proportion to what each has, and summing to it."""
        nodes = self.topology.nodes
        sizes = self.topology.node_memory_mib
        parts = [sizes.get(node, 0) for node in nodes] if sizes else [1] * len(nodes)
        if not any(parts):
            parts = [1] * len(nodes)
        total, seen, given = sum(parts), 0, 0
        shares = {}
        for node, part in zip(nodes, parts, strict=True):
            seen += part
            upto = self.memory_mib * seen // total
            shares[node], given = upto - given, upto
        return shares

    @cached_property
    def units(self) -> Units:
        topology = self.topology
        if self.rules.smt_isolation:
            members = tuple(dict.fromkeys(topology.core_of[cpu] for cpu in topology.ids))
        else:
            members = tuple((cpu,) for cpu in topology.ids)
        belongs = np.zeros((len(members), len(topology.cpus)), dtype=np.int64)
        for unit, cpus in enumerate(members):
            belongs[unit, [topology.index[cpu] for cpu in cpus]] = 1
        sizes = belongs.sum(axis=1)
        if self.rules.smt_isolation:
            # float64 multiplies through BLAS and is exact far beyond these sums
            wide = belongs.astype(np.float64)
            between = np.rint(wide @ topology.distances @ wide.T).astype(np.int64)
        else:
            between = topology.distances
        common = lcm(*(int(size) for size in np.unique(sizes)))
        nearness = 2 * between * (common // sizes)[None, :]
        if nearness.sum(axis=0).max() < np.iinfo(np.int32).max:
            nearness = nearness.astype(np.int32)
        first = [topology.index[cpus[0]] for cpus in members]
        of_cpu = {cpu: unit for unit, cpus in enumerate(members) for cpu in cpus}
        of_number = np.full(max(of_cpu) + 1, len(members), dtype=np.intp)
        of_number[list(of_cpu)] = list(of_cpu.values())
        return Units(
            members=members,
            sizes=sizes,
            between=between,
            nearness=nearness,
            inner=between.diagonal(),
            uniform=bool(sizes.min() == sizes.max()),
            cache_group=topology.last_level_cache[first],
            cache_groups=int(topology.last_level_cache.max()) + 1,
            of_cpu=of_cpu,
            of_number=of_number,
        )
