"""Hosts and requests as Hypothesis draws them: small, and as odd as real machines get."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from schedulercommon.model import VmSpec
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.topology import Cpu, Topology, exclude

LEVELS = tuple(map(Fraction, ("1", "4/3", "3/2", "2", "3", "64")))


@st.composite
def topologies(draw: st.DrawFn, most_cores: int = 6) -> Topology:
    """1 or 2 sockets of a few cores, caches shared by uneven groups, some CPUs excluded."""
    sockets = draw(st.integers(1, 2))
    cores = [socket for socket in range(sockets) for _ in range(draw(st.integers(1, most_cores)))]
    threads = draw(st.integers(1, 2))
    private = draw(st.integers(0, 2))
    groups = _groups(draw, cores) if draw(st.booleans()) or not private else None
    nodes = draw(st.sampled_from([(0, 1), (0, 2), (3, 1)]))[:sockets]
    # siblings n and n + cores, as on most machines, or n and n + 1
    paired = draw(st.booleans())
    numbers = [
        [
            core * threads + thread if paired else core + thread * len(cores)
            for core in range(len(cores))
        ]
        for thread in range(threads)
    ]
    cpus = [
        Cpu(
            id=numbers[thread][core],
            node=nodes[socket],
            siblings=tuple(numbers[each][core] for each in range(threads) if each != thread),
            caches=(core,) * private + (() if groups is None else (groups[core],)),
        )
        for thread in range(threads)
        for core, socket in enumerate(cores)
    ]
    cpus.sort(key=lambda cpu: cpu.id)
    if draw(st.booleans()):
        cpus = draw(st.permutations(cpus))
    far = draw(st.sampled_from([10, 12, 20, 32]))
    ranked = sorted(nodes)
    memory_mib = draw(st.integers(4_096, 65_536))
    split = draw(st.integers(0, memory_mib))
    by_node = {nodes[0]: split, nodes[-1]: memory_mib - split}
    topology = Topology(
        cpus=tuple(cpus),
        numa_distances={a: tuple(10 if a == b else far for b in ranked) for a in ranked},
        memory_total_mib=memory_mib,
        memory_allowed_mib=memory_mib,
        node_memory_mib=by_node if sockets == 2 and draw(st.booleans()) else None,
    )
    gone = draw(st.sets(st.sampled_from(topology.ids), max_size=len(cpus) // 3))
    return exclude(topology, tuple(gone)) if gone else topology


def _groups(draw: st.DrawFn, cores: list[int]) -> list[int]:
    """The last-level cache of each core; groups are of any size and end with their socket."""
    group, found = 0, [0]
    for core in range(1, len(cores)):
        if cores[core] != cores[core - 1] or draw(st.integers(0, 2)) == 0:
            group += 1
        found.append(group)
    return found


rules = st.builds(
    Rules,
    smt_isolation=st.booleans(),
    critical_size=st.integers(0, 6),
    vm_overhead_mib=st.sampled_from([0, 1, 128]),
    reserved_memory_mib=st.sampled_from([0, 1, 2_048]),
)

hosts = st.builds(Host, topologies(), rules)

vcpus = st.integers(1, 4) | st.integers(1, 4) | st.integers(1, 16)
memory_mib = st.integers(1, 1_024) | st.integers(1, 1_024) | st.integers(1, 70_000)


@st.composite
def specs(draw: st.DrawFn, name: str) -> VmSpec:
    """Mostly small VMs; some with a boot maximum, some on a better level than they bought."""
    size, memory = draw(vcpus), draw(memory_mib)
    level = draw(st.sampled_from(LEVELS))
    better = [each for each in LEVELS if each <= level]
    return VmSpec(
        name=name,
        vcpus=size,
        memory_mib=memory,
        level=level,
        runs_at=draw(st.sampled_from(better)) if draw(st.integers(0, 4)) == 0 else level,
        max_memory_mib=memory + draw(st.sampled_from([0, 0, 0, 512])),
        max_vcpus=size + draw(st.sampled_from([0, 0, 2])),
    )
