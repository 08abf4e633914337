"""What a host has promised, read back from what is found running on it.

The hypervisor is the truth: VMs found are all counted, whether they fit or not. CPUs are read
back so that as little as possible has to move: first those that VMs which are not ours are pinned
to, then those each level is known to have owned, then those its VMs alone are pinned to; what is
missing or too much follows the usual rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from schedulercommon.levels import PREMIUM, Level
from schedulercommon.model import VmSpec
from schedulerlocal.core.allocation import resize_cpus
from schedulerlocal.core.host import Host
from schedulerlocal.core.memory import choose_nodes
from schedulerlocal.core.state import HostState, NodeMemory, Subset, Vm, claimed_cpus
from schedulerlocal.core.topology import Cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVm:
    """A VM the hypervisor has."""

    spec: VmSpec
    """For a VM without our metadata: its size, at level 1."""
    vcpus: int
    """To be counted: the larger one while a resize waits for a reboot."""
    boot_memory_mib: int
    """To be counted, without overhead."""
    pinned: Cpus = ()
    """Where its vCPUs may run; empty means anywhere."""
    memory_nodes: NodeMemory = ()
    """As planned when it was made; empty if unknown."""
    foreign: bool = False


def adopt(
    host: Host,
    found: Iterable[FoundVm],
    owned: Mapping[Level, Cpus],
    generation: int = 0,
) -> HostState:
    """The state that *found* amounts to; *owned* is what levels are known to have had.

    A host found over-committed gets a state that says so (see
    :func:`schedulerlocal.core.state.violations`); levels then own what there was for them.
    """
    vms: dict[Level, list[Vm]] = {}
    for each in found:
        memory_mib = each.boot_memory_mib + host.rules.vm_overhead_mib
        level = PREMIUM if each.foreign else each.spec.runs_at
        pinned = tuple([cpu for cpu in each.pinned if cpu in host.topology.index])
        vm = Vm(each.spec, each.vcpus, memory_mib, each.memory_nodes, each.foreign, pinned)
        vms.setdefault(level, []).append(vm)
    cpus = _levels_cpus(host, vms, owned)
    free = dict(host.node_memory_mib)
    subsets = {}
    for level in sorted(vms):
        placed = []
        for vm in vms[level]:
            nodes = vm.memory_nodes
            if sum(mib for _, mib in nodes) != vm.memory_mib or any(
                n not in free for n, _ in nodes
            ):
                nodes = choose_nodes(host, free, cpus[level] or host.topology.ids, vm.memory_mib)
            for node, memory_mib in nodes:
                free[node] -= memory_mib
            # where a VM of ours runs follows from its level; only a foreign one's pins are kept
            placed.append(replace(vm, memory_nodes=nodes, pinned=vm.pinned if vm.foreign else ()))
        subsets[level] = Subset(cpus[level], tuple(placed))
    return HostState(host, subsets, generation)


def _levels_cpus(
    host: Host, vms: Mapping[Level, list[Vm]], owned: Mapping[Level, Cpus]
) -> dict[Level, Cpus]:
    claimed = claimed_cpus(host, vms.get(PREMIUM, ()))
    taken: set[int] = set()
    cpus: dict[Level, Cpus] = {}
    # level 1 goes first: what others are pinned to beside us cannot be moved
    for level in sorted(vms):
        first = claimed if level == PREMIUM else ()
        known = owned.get(level) or _pinned_alone(level, vms)
        cpus[level] = _whole_units(host, (*first, *known), taken)
        taken.update(cpus[level])
    # whoever has too much gives it back before anyone grows
    for level in sorted(vms, key=lambda each: _missing(cpus[each], each, vms[each])):
        others = [each for other, each in cpus.items() if other != level]
        size = Subset((), tuple(vms[level])).size(level)
        keep = claimed if level == PREMIUM else ()
        cpus[level] = _as_many(host, cpus[level], others, size, keep)
    return cpus


def _pinned_alone(level: Level, vms: Mapping[Level, list[Vm]]) -> Cpus:
    """CPUs that all VMs of *level*, and no VM of ours at another level, are pinned to."""
    ours = [vm.pinned for vm in vms[level] if not vm.foreign and vm.pinned]
    if not ours:
        return ()
    others = {
        cpu
        for other, there in vms.items()
        if other != level
        for vm in there
        if not vm.foreign
        for cpu in vm.pinned
    }
    common = set(ours[0]).intersection(*ours[1:]) - others
    return tuple([cpu for cpu in ours[0] if cpu in common])


def _whole_units(host: Host, cpus: Iterable[int], taken: set[int]) -> Cpus:
    """*cpus*, as far as they exist and are not *taken*, widened to whole units."""
    units = host.units
    wanted = dict.fromkeys(units.of_cpu[cpu] for cpu in cpus if cpu in units.of_cpu)
    whole = [units.members[unit] for unit in wanted]
    return tuple([cpu for unit in whole if taken.isdisjoint(unit) for cpu in unit])


def _missing(cpus: Cpus, level: Level, vms: list[Vm]) -> int:
    return Subset((), tuple(vms)).size(level) - len(cpus)


def _as_many(host: Host, own: Cpus, others: list[Cpus], size: int, keep: Cpus) -> Cpus:
    """*own* resized to *size*, or as near to it as there are CPUs."""
    for reachable in range(size, len(own), -1):
        cpus = resize_cpus(host, own, others, reachable)
        if cpus is not None:
            return cpus
    return resize_cpus(host, own, others, min(size, len(own)), keep) or own
