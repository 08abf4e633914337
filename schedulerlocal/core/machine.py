"""A machine from a few figures: what a vendor's data sheet says, as a topology.

CPUs are numbered as Linux does on x86: the first thread of every core, socket after socket, then
the second of every core, so the threads of core *n* of *m* are *n*, *n* + *m* and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedulercommon.errors import TopologyError
from schedulerlocal.core.topology import Cpu, Topology

LOCAL_DISTANCE = 10
MOST_CPUS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Raises TopologyError where the figures do not go together."""

    sockets: int = 1
    nodes_per_socket: int = 1
    cores: int
    """Per socket."""
    threads: int = 1
    """Per core."""
    private_caches: int = 3
    """How many cache indexes belong to a core alone: 3 for data, instructions and level 2."""
    l3_cores: int | None = None
    """Cores that share the next cache index; None: those of a NUMA node; 0: there is none."""
    socket_distance: int = 12
    """NUMA distance of the nodes of one socket."""
    numa_distance: int = 20
    """NUMA distance of nodes of different sockets."""
    memory_mib: int
    max_freq_khz: int = 0

    def __post_init__(self) -> None:
        for name in ("sockets", "nodes_per_socket", "cores", "threads", "memory_mib"):
            if getattr(self, name) < 1:
                raise TopologyError(f"a machine needs {_option(name)} of at least 1")
        for name in ("private_caches", "max_freq_khz"):
            if getattr(self, name) < 0:
                raise TopologyError(f"{_option(name)} must be 0 or more")
        for name in ("socket_distance", "numa_distance"):
            if not LOCAL_DISTANCE <= getattr(self, name) <= 255:
                raise TopologyError(
                    f"{_option(name)} must be from {LOCAL_DISTANCE}, a node's to itself, to 255"
                )
        if self.private_caches > 15:
            raise TopologyError("--private-caches must be at most 15; three are usual")
        if self.cpu_count > MOST_CPUS:
            raise TopologyError(
                f"the machine has {self.cpu_count} CPUs, more than the {MOST_CPUS} Linux can have;"
                " give --cores per socket and --threads per core"
            )
        if self.cores % self.nodes_per_socket:
            raise TopologyError(
                f"--nodes-per-socket={self.nodes_per_socket} does not divide the {self.cores}"
                " cores of a socket; choose a number that does"
            )
        if self.l3_cores is not None and (
            self.l3_cores < 0 or (self.l3_cores and self.node_cores % self.l3_cores)
        ):
            raise TopologyError(
                f"--l3-cores={self.l3_cores} does not divide the {self.node_cores} cores of a NUMA"
                " node; choose a number that does, or 0 for no shared cache"
            )

    @property
    def cpu_count(self) -> int:
        return self.sockets * self.cores * self.threads

    @property
    def node_cores(self) -> int:
        return self.cores // self.nodes_per_socket


def machine_topology(machine: Machine) -> Topology:
    cores = machine.sockets * machine.cores
    return Topology(
        cpus=tuple(
            _cpu(machine, thread * cores + core, core)
            for thread in range(machine.threads)
            for core in range(cores)
        ),
        numa_distances=_numa_distances(machine),
        memory_total_mib=machine.memory_mib,
        memory_allowed_mib=machine.memory_mib,
        host_count=machine.cpu_count,
    )


def _cpu(machine: Machine, number: int, core: int) -> Cpu:
    cores = machine.sockets * machine.cores
    shared_by = machine.node_cores if machine.l3_cores is None else machine.l3_cores
    return Cpu(
        id=number,
        node=core // machine.node_cores,
        siblings=tuple(cpu for cpu in range(core, machine.cpu_count, cores) if cpu != number),
        caches=(core,) * machine.private_caches + ((core // shared_by,) if shared_by else ()),
        max_freq_khz=machine.max_freq_khz,
    )


def _numa_distances(machine: Machine) -> dict[int, tuple[int, ...]]:
    nodes = range(machine.sockets * machine.nodes_per_socket)

    def distance(one: int, other: int) -> int:
        if one == other:
            return LOCAL_DISTANCE
        same_socket = one // machine.nodes_per_socket == other // machine.nodes_per_socket
        return machine.socket_distance if same_socket else machine.numa_distance

    return {one: tuple(distance(one, other) for other in nodes) for one in nodes}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
