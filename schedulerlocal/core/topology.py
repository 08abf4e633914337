"""A host's logical CPUs, their caches and NUMA nodes, and how far CPUs are from each other.

The distance of two CPUs looks at the cache indexes from 0 upward and counts 10 for each one
looked at, up to and including the first the two share; if they share none, the NUMA distance of
their nodes is added. With four indexes: SMT siblings 10, same L3 40, same node 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schedulercommon.errors import TopologyError

Cpus = tuple[int, ...]
"""Logical CPU numbers, as Linux counts them."""

CACHE_STEP = 10


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical CPU."""

    id: int
    node: int
    """NUMA node."""
    siblings: Cpus
    """The other listed CPUs of its physical core."""
    caches: tuple[int, ...]
    """For each cache index from 0, the id of the cache it uses; CPUs with the same share it."""
    max_freq_khz: int = 0
    """0 where unknown."""


@dataclass(frozen=True)
class Topology:
    """The CPUs and memory VMs may use, in topology order (the order ties are broken in).

    Raises TopologyError where the parts contradict each other.
    """

    cpus: tuple[Cpu, ...]
    numa_distances: Mapping[int, tuple[int, ...]]
    """Row per NUMA node; columns in ascending order of the nodes."""
    memory_total_mib: int
    memory_allowed_mib: int
    """What VMs may have at most."""
    node_memory_mib: Mapping[int, int] | None = None
    """Memory per NUMA node; None splits it evenly."""
    host_count: int = 0
    """CPUs the machine has, excluded ones included; informative."""
    notes: tuple[str, ...] = ()
    """What the reader of the topology thought worth telling."""

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def ids(self) -> Cpus:
        return tuple(cpu.id for cpu in self.cpus)

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted(self.numa_distances))

    @cached_property
    def index(self) -> dict[int, int]:
        """Position of each CPU number in topology order."""
        return {cpu.id: position for position, cpu in enumerate(self.cpus)}

    @cached_property
    def node_of(self) -> dict[int, int]:
        return {cpu.id: cpu.node for cpu in self.cpus}

    @cached_property
    def core_of(self) -> dict[int, Cpus]:
        """For each CPU the listed CPUs of its physical core, itself included, in topology order."""
        index = self.index
        return {
            cpu.id: tuple(sorted((cpu.id, *cpu.siblings), key=index.__getitem__))
            for cpu in self.cpus
        }

    @cached_property
    def distances(self) -> NDArray[np.int64]:
        """Distance of every two CPUs by position; symmetric, 0 on the diagonal."""
        caches = np.array([cpu.caches for cpu in self.cpus], dtype=np.int64)
        shared = caches[:, None, :] == caches[None, :, :]
        depth = caches.shape[1]
        if depth:
            first = shared.argmax(axis=2)
            any_shared = shared.any(axis=2)
        else:
            first = np.zeros((len(caches),) * 2, dtype=np.int64)
            any_shared = np.zeros_like(first, dtype=bool)
        column = {node: place for place, node in enumerate(self.nodes)}
        matrix = np.array([self.numa_distances[node] for node in self.nodes], dtype=np.int64)
        # firmware may tell two distances for two nodes; both directions pay the larger
        matrix = np.maximum(matrix, matrix.T)
        where = np.array([column[cpu.node] for cpu in self.cpus])
        numa = matrix[where[:, None], where[None, :]]
        found: NDArray[np.int64] = np.where(
            any_shared, CACHE_STEP * (first + 1), CACHE_STEP * depth + numa
        )
        np.fill_diagonal(found, 0)
        found.setflags(write=False)
        return found

    @cached_property
    def last_level_cache(self) -> NDArray[np.int64]:
        """For each CPU by position, the number (from 0) of the last-level cache group it is in."""
        keys = [(cpu.caches[-1], -1) if cpu.caches else (-1, cpu.node) for cpu in self.cpus]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        groups = np.array([numbers[key] for key in keys], dtype=np.int64)
        groups.setflags(write=False)
        return groups


def _check(topology: Topology) -> None:
    cpus = topology.cpus
    if not cpus:
        raise TopologyError("the topology lists no CPU; list at least one under cpuset.cpu_list")
    listed: set[int] = set()
    for cpu in cpus:
        if cpu.id in listed:
            raise TopologyError(f"CPU {cpu.id} is listed twice; list each cpu_id once")
        listed.add(cpu.id)
    for cpu in cpus:
        if unlisted := set(cpu.siblings) - listed:
            raise TopologyError(
                f"CPU {cpu.id} names sibling {min(unlisted)}, which is not listed;"
                " list that CPU or drop it from sib_smt"
            )
    siblings = {cpu.id: {cpu.id, *cpu.siblings} for cpu in cpus}
    depth = len(cpus[0].caches)
    for cpu in cpus:
        if len(cpu.caches) != depth:
            raise TopologyError(
                f"CPU {cpu.id} has {len(cpu.caches)} cache levels and CPU {cpus[0].id} has {depth};"
                " give every CPU the same depth"
            )
        if cpu.node not in topology.numa_distances:
            raise TopologyError(
                f"CPU {cpu.id} is on NUMA node {cpu.node}, which numa_distances does not have;"
                " add its row or correct numa_node"
            )
        for sibling in siblings[cpu.id]:
            if siblings[sibling] != siblings[cpu.id]:
                raise TopologyError(
                    f"CPUs {cpu.id} and {sibling} disagree about their siblings;"
                    " make sib_smt the same set for all CPUs of a core"
                )
    nodes = topology.nodes
    for node in nodes:
        row = topology.numa_distances[node]
        if len(row) != len(nodes) or min(row) < 0:
            raise TopologyError(
                f"numa_distances of node {node} has {len(row)} entries for {len(nodes)} nodes;"
                " give one distance, 0 or more, per node"
            )
    if not 0 < topology.memory_allowed_mib <= topology.memory_total_mib:
        raise TopologyError(
            f"memset allows {topology.memory_allowed_mib} of {topology.memory_total_mib} MiB;"
            " allowed must be positive and at most total"
        )
    memory = topology.node_memory_mib
    if memory is not None and (set(memory) - set(nodes) or min(memory.values(), default=0) < 0):
        raise TopologyError(
            "memset.nodes names a NUMA node without distances or a negative size;"
            " give MiB per node of numa_distances"
        )


def exclude(topology: Topology, cpus: Cpus) -> Topology:
    """*topology* as if *cpus* did not exist; raises TopologyError if none would be left."""
    gone = set(cpus)
    kept = tuple(
        replace(cpu, siblings=tuple(each for each in cpu.siblings if each not in gone))
        for cpu in topology.cpus
        if cpu.id not in gone
    )
    if not kept:
        raise TopologyError("every CPU of the host is excluded; leave some to VMs in TOPO_EXCLUDE")
    return replace(topology, cpus=kept)
