"""The rules of a host, written once more: slowly, from their description, sharing no code.

Everything is recomputed from plain data with exact fractions and exhaustive loops, so that the
tests compare two independent readings of the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, permutations
from math import ceil

from schedulercommon.levels import Level
from schedulerlocal.core.host import Host
from schedulerlocal.core.state import HostState
from schedulerlocal.core.topology import Cpu, Cpus, Topology


def size_of(level: Level, vcpus: Sequence[int]) -> int:
    return max(ceil(Fraction(sum(vcpus)) / level), max(vcpus, default=0))


def distance(topology: Topology, one: int, other: int) -> int:
    a, b = _cpu(topology, one), _cpu(topology, other)
    looked_at = 0
    for mine, theirs in zip(a.caches, b.caches, strict=True):
        looked_at += 10
        if mine == theirs:
            return looked_at
    column = sorted(topology.numa_distances).index(b.node)
    return looked_at + topology.numa_distances[a.node][column]


def resized(host: Host, own: Cpus, others: Iterable[int], size: int) -> Cpus | None:
    """The CPUs of a level that must own *size*, one unit at a time; None if there are too few."""
    change = _grown if size > len(own) else _shrunk
    return change(host, own, set(others), size)


def _grown(host: Host, own: Cpus, others: set[int], size: int) -> Cpus | None:
    held = own
    while len(held) < size:
        free = [unit for unit in _units(host) if not {*unit} & (others | {*held})]
        if not free:
            return None
        held += min((_nearness(host.topology, unit, held, others), unit) for unit in free)[1]
    return held


def _nearness(
    topology: Topology, unit: Cpus, held: Cpus, others: set[int]
) -> tuple[Fraction, bool, int]:
    """Less is better: near what the level has, or far from all in use if it has nothing yet."""
    if held:
        away = _mean(distance(topology, a, b) for a in unit for b in held)
    else:
        away = -_mean(distance(topology, a, b) for a in unit for b in others)
    return away, _contested(topology, unit, others), topology.ids.index(unit[0])


def _shrunk(host: Host, own: Cpus, others: set[int], size: int) -> Cpus:
    held = own
    while True:
        spare = len(held) - size
        given = [unit for unit in _units(host) if {*unit} <= {*held} and len(unit) <= spare]
        if not given:
            return held
        lost = min((_looseness(host.topology, unit, held, others), unit) for unit in given)[1]
        held = tuple(cpu for cpu in held if cpu not in lost)


def _looseness(
    topology: Topology, unit: Cpus, held: Cpus, others: set[int]
) -> tuple[Fraction, bool, int]:
    """Less is better: how spread out *held* is without *unit*.

    The tie rules say what is good to have, so what goes is the opposite.
    """
    rest = [cpu for cpu in held if cpu not in unit]
    spread = _mean(distance(topology, a, b) for a, b in permutations(rest, 2))
    return spread, not _contested(topology, unit, others), -topology.ids.index(unit[0])


def lent(state: HostState) -> set[int]:
    """CPUs no level owns, none of whose siblings belongs to level 1."""
    owner = {cpu: level for level, subset in state.subsets.items() for cpu in subset.cpus}
    return {
        cpu.id
        for cpu in state.host.topology.cpus
        if cpu.id not in owner and all(owner.get(sibling) != 1 for sibling in cpu.siblings)
    }


def reach(state: HostState) -> dict[Level, set[int]]:
    """Where the VMs of each level may run."""
    rules = state.host.rules
    return {
        level: {*subset.cpus}
        | (
            lent(state)
            if level > 1 and len(subset.vms) < rules.critical_size and not rules.smt_isolation
            else set()
        )
        for level, subset in state.subsets.items()
    }


def progress(state: HostState, gained: int, memory_mib: int) -> float:
    """The published formula; *memory_mib* with overhead."""
    capacity = len(state.host.topology.cpus)
    rules = state.host.rules
    memory = state.host.topology.memory_allowed_mib - rules.reserved_memory_mib
    cpus = sum(len(subset.cpus) for subset in state.subsets.values())
    used = sum(vm.memory_mib for vm in state.vms())
    ideal = Fraction(memory, capacity)
    now = Fraction(used, cpus) if cpus else ideal
    following = Fraction(used + memory_mib, cpus + gained)
    gain = abs(now - ideal) - abs(following - ideal)
    return float(gain * (1 + Fraction(cpus, capacity)) if gain < 0 else gain)


def memory_faults(
    host: Host,
    free: Mapping[int, int],
    cpus: Cpus,
    memory_mib: int,
    nodes: Sequence[tuple[int, int]],
) -> list[str]:
    """What is wrong with putting *memory_mib* of a level that owns *cpus* on *nodes*."""
    faults = []
    if sum(part for _, part in nodes) != memory_mib:
        faults.append("it does not add up")
    if any(part < 1 or part > free[node] for node, part in nodes):
        faults.append("a node has not that much room")
    chosen = [node for node, _ in nodes]
    if len(chosen) != len(set(chosen)):
        faults.append("a node is named twice")
    local = {_cpu(host.topology, cpu).node for cpu in cpus}
    enough = [
        count
        for count in range(1, len(local) + 1)
        if any(
            sum(max(free[node], 0) for node in some) >= memory_mib
            for some in combinations(local, count)
        )
    ]
    if enough:
        if not {*chosen} <= local:
            faults.append("it is on a node without CPUs of the level, though those have room")
        if len(chosen) != enough[0]:
            faults.append(f"it is on {len(chosen)} nodes where {enough[0]} would do")
    else:
        faults += _faults_of_far_nodes(host, free, cpus, chosen)
    return faults


def _faults_of_far_nodes(
    host: Host, free: Mapping[int, int], cpus: Cpus, chosen: Sequence[int]
) -> list[str]:
    """The nearest nodes with room are the level's own, then others by their mean distance."""
    rows, columns = host.topology.numa_distances, sorted(host.topology.numa_distances)
    at = [_cpu(host.topology, cpu).node for cpu in cpus]
    faults = []
    if any(free[node] > 0 and node not in chosen for node in at):
        faults.append("room on the level's own nodes is left")
    away = {node: _mean(rows[near][columns.index(node)] for near in at) for node in columns}
    farthest = max((away[node] for node in chosen if node not in at), default=Fraction(0))
    skipped = [n for n in columns if n not in at and n not in chosen and free[n] > 0]
    if any(away[node] < farthest for node in skipped):
        faults.append("a nearer node with room was passed over")
    return faults


def _cpu(topology: Topology, number: int) -> Cpu:
    return next(cpu for cpu in topology.cpus if cpu.id == number)


def _units(host: Host) -> list[Cpus]:
    """What changes hands at once: CPUs, or whole cores; in topology order."""
    cpus = host.topology.cpus
    if not host.rules.smt_isolation:
        return [(cpu.id,) for cpu in cpus]
    cores = {frozenset((cpu.id, *cpu.siblings)): None for cpu in cpus}
    return [tuple(cpu.id for cpu in cpus if cpu.id in core) for core in cores]


def _contested(topology: Topology, unit: Cpus, others: set[int]) -> bool:
    """Another level uses the same last-level cache (the node's, where there are no caches)."""

    def group(number: int) -> tuple[str, int]:
        cpu = _cpu(topology, number)
        return ("cache", cpu.caches[-1]) if cpu.caches else ("node", cpu.node)

    return any(group(cpu) == group(unit[0]) for cpu in others)


def _mean(numbers: Iterable[int]) -> Fraction:
    found = list(numbers)
    return Fraction(sum(found), len(found)) if found else Fraction(0)
