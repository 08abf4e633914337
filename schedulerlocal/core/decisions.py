"""Decisions: the next snapshot after a deploy, a resize or a remove, or why there is none."""

from __future__ import annotations

from dataclasses import replace

from schedulercommon.errors import NameTaken
from schedulercommon.levels import Level
from schedulercommon.model import Rejection, VmSpec
from schedulercommon.sizing import cpus_needed
from schedulerlocal.core.allocation import Footprint, resize
from schedulerlocal.core.memory import choose_nodes
from schedulerlocal.core.state import HostState, Subset, Vm, claimed_cpus

_NOTHING = Subset()


def deployed(state: HostState, spec: VmSpec) -> HostState | Rejection:
    """*state* with *spec* placed; raises NameTaken if its name is in use."""
    if state.level_of(spec.name) is not None:
        raise NameTaken(spec.name)
    level = spec.runs_at
    old = state.subsets.get(level, _NOTHING)
    memory_mib = spec.max_memory_mib + state.host.rules.vm_overhead_mib
    size = cpus_needed(old.vcpus + spec.vcpus, max(old.largest_vcpus, spec.vcpus), level)
    owned = _resized(state, level, old, old.vms, size)
    if isinstance(owned, Rejection):
        return owned
    if memory_mib > state.free_memory_mib:
        return Rejection("memory_mib", asked=memory_mib, free=max(state.free_memory_mib, 0))
    nodes = choose_nodes(state.host, state.free_by_node, owned.cpus, memory_mib)
    vm = Vm(spec, spec.vcpus, memory_mib, nodes)
    return state.with_subset(level, old.with_vm(vm).owning(owned))


def removed(state: HostState, name: str) -> HostState:
    """*state* without the VM called *name*; raises UnknownVm."""
    vm = state.vm(name)
    level = vm.spec.runs_at
    old = state.subsets[level]
    left = old.without(vm)
    if not left.vms:
        return state.with_subset(level, _NOTHING)
    owned = _resized(state, level, old, left.vms, left.size(level))
    if isinstance(owned, Rejection):
        # only a level found with too few CPUs can still lack some: it keeps what it has
        return state.with_subset(level, left)
    return state.with_subset(level, left.owning(owned))


def resized_spec(spec: VmSpec, vcpus: int | None, memory_mib: int | None) -> VmSpec:
    """*spec* in another size; None leaves that one as it is, maxima it exceeds rise to it.

    Raises ValueError for an impossible size.
    """
    vcpus = spec.vcpus if vcpus is None else vcpus
    memory_mib = spec.memory_mib if memory_mib is None else memory_mib
    # a maximum nobody asked for follows the size
    bare_vcpus = spec.max_vcpus == spec.vcpus
    bare_memory = spec.max_memory_mib == spec.memory_mib
    return replace(
        spec,
        vcpus=vcpus,
        memory_mib=memory_mib,
        max_vcpus=vcpus if bare_vcpus else max(spec.max_vcpus, vcpus),
        max_memory_mib=memory_mib if bare_memory else max(spec.max_memory_mib, memory_mib),
    )


def recounted(
    state: HostState, name: str, spec: VmSpec, vcpus: int, boot_memory_mib: int
) -> HostState | Rejection:
    """*state* with the VM called *name* as *spec*, counted as *vcpus* and *boot_memory_mib*.

    Raises UnknownVm. Memory stays on the nodes it is on as far as they have room.
    """
    vm = state.vm(name)
    level = vm.spec.runs_at
    old = state.subsets[level]
    memory_mib = boot_memory_mib + state.host.rules.vm_overhead_mib
    changed = replace(vm, spec=spec, vcpus=vcpus, memory_mib=memory_mib)
    vms = tuple([changed if each is vm else each for each in old.vms])
    owned = _resized(state, level, old, vms, Subset(old.cpus, vms).size(level))
    if isinstance(owned, Rejection):
        return owned
    added_mib = memory_mib - vm.memory_mib
    if added_mib > max(state.free_memory_mib, 0):
        return Rejection("memory_mib", asked=added_mib, free=max(state.free_memory_mib, 0))
    if added_mib:
        free = dict(state.free_by_node)
        for node, part in vm.memory_nodes:
            free[node] += part
        here = {node: free[node] for node, _ in vm.memory_nodes}
        nodes = _same_nodes(here, memory_mib) or choose_nodes(
            state.host, free, owned.cpus, memory_mib
        )
        changed = replace(changed, memory_nodes=nodes)
        vms = tuple([changed if each is vm else each for each in old.vms])
    return state.with_subset(level, Subset(owned.cpus, vms, owned))


def _resized(
    state: HostState, level: Level, old: Subset, vms: tuple[Vm, ...], size: int
) -> Footprint | Rejection:
    """What *level*, by now *old*, owns once it has *size* CPUs for *vms*."""
    host = state.host
    others = [each.footprint(host) for each in state.subsets.values() if each is not old]
    keep = claimed_cpus(host, vms) if level == 1 else ()
    owned = resize(host, old.footprint(host), others, size, keep)
    if owned is None:
        free = host.cpus - state.allocated_cpus
        return Rejection("cpus", asked=size - len(old.cpus), free=free)
    return owned


def _same_nodes(room: dict[int, int], memory_mib: int) -> tuple[tuple[int, int], ...] | None:
    """*memory_mib* on the nodes of *room*, in their order, if it fits there."""
    if sum(max(free, 0) for free in room.values()) < memory_mib:
        return None
    parts: list[tuple[int, int]] = []
    for node, free in room.items():
        part = min(memory_mib, max(free, 0))
        if part:
            parts.append((node, part))
        memory_mib -= part
    return tuple(parts)
