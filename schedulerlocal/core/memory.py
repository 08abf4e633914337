"""On which NUMA nodes a VM's memory should be.

Memory is admitted as one pool; which node it comes from is a preference and never a reason to
refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from schedulerlocal.core.host import Host
from schedulerlocal.core.state import NodeMemory
from schedulerlocal.core.topology import Cpus


def choose_nodes(
    host: Host, free_by_node: Mapping[int, int], cpus: Cpus, memory_mib: int
) -> NodeMemory:
    """Memory nodes for *memory_mib*, for a VM of a level that owns *cpus*.

    The fewest of the level's nodes that have room: with most of its CPUs first if one is
    enough, else the freest. If all of them have not enough, the nearest other nodes are added;
    what exceeds even those (a host found over-committed) is put on the first.
    """
    node_of = host.topology.node_of
    alone = [node for node in {node_of[cpu] for cpu in cpus} if free_by_node[node] >= memory_mib]
    if len(alone) == 1:
        return ((alone[0], memory_mib),)
    weight = Counter([node_of[cpu] for cpu in cpus])
    if alone:
        best = min(alone, key=lambda node: (-weight[node], node))
        return ((best, memory_mib),)
    order = sorted(weight, key=lambda node: (-free_by_node[node], node))
    order += _by_distance(host, weight)
    chosen: list[tuple[int, int]] = []
    missing = memory_mib
    for node in order:
        part = min(missing, free_by_node[node])
        if part > 0:
            chosen.append((node, part))
            missing -= part
        if not missing:
            break
    if missing:
        first, part = chosen[0] if chosen else (order[0], 0)
        chosen[:1] = [(first, part + missing)]
    return tuple(chosen)


def _by_distance(host: Host, near: Counter[int]) -> list[int]:
    """The nodes not in *near*, nearest to the CPUs counted there first."""
    rows = host.topology.numa_distances
    column = {node: place for place, node in enumerate(host.topology.nodes)}
    others = [node for node in host.topology.nodes if node not in near]
    return sorted(
        others,
        key=lambda node: (sum(rows[at][column[node]] * n for at, n in near.items()), node),
    )
