"""Plans: what a deploy, a resize or a remove changes, decided on a snapshot.

The order of a plan's steps is a promise: whoever loses CPUs is narrowed before anyone is widened
onto them, a VM is made only once its CPUs are clear, and what cannot be undone comes when
everything that may fail and must not has been done.
"""

from __future__ import annotations

from dataclasses import replace

from schedulercommon.errors import NameTaken
from schedulercommon.levels import PREMIUM, Level
from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.core.allocation import resize_cpus
from schedulerlocal.core.memory import choose_nodes
from schedulerlocal.core.state import HostState, Subset, Vm, claimed_cpus
from schedulerlocal.core.steps import Create, Pin, Plan, Remove, Resize, Step
from schedulerlocal.core.topology import Cpus


def plan_deploy(state: HostState, spec: VmSpec) -> Plan | Rejection:
    """How *spec* comes to run here; raises NameTaken if its name is in use."""
    if spec.name in state.level_of:
        raise NameTaken(spec.name)
    level = spec.runs_at
    old = state.subsets.get(level, _NOTHING)
    memory_mib = spec.max_memory_mib + state.host.rules.vm_overhead_mib
    vm = Vm(spec, spec.vcpus, memory_mib, ())
    cpus = _cpus_for(state, level, Subset(old.cpus, (*old.vms, vm)))
    if isinstance(cpus, Rejection):
        return cpus
    if memory_mib > state.free_memory_mib:
        return Rejection("memory_mib", asked=memory_mib, free=max(state.free_memory_mib, 0))
    vm = replace(vm, memory_nodes=choose_nodes(state.host, state.free_by_node, cpus, memory_mib))
    after = state.with_subset(level, Subset(cpus, (*old.vms, vm)))
    narrow, widen = transition(state, after)
    return Plan((*narrow, *widen, Create(vm, after.reach[level])), after)


def plan_remove(state: HostState, name: str) -> Plan:
    """How the VM called *name* goes; raises UnknownVm."""
    vm = state.vm(name)
    level = vm.spec.runs_at
    after = _without(state, level, name)
    narrow, widen = transition(state, after, leaving=name)
    return Plan((*narrow, Remove(vm, state.reach[level]), *widen), after)


def plan_resize(
    state: HostState, name: str, vcpus: int | None = None, memory_mib: int | None = None
) -> Plan | Rejection:
    """How the VM called *name* gets *vcpus* and *memory_mib*; None leaves that one as it is.

    Raises UnknownVm, and ValueError for an impossible size. Maxima that the new size exceeds
    rise to it. Memory stays on the nodes it is on; only what is added is placed.
    """
    vm = state.vm(name)
    spec = vm.spec
    vcpus = spec.vcpus if vcpus is None else vcpus
    memory_mib = spec.memory_mib if memory_mib is None else memory_mib
    # a maximum nobody asked for follows the size
    max_vcpus = vcpus if spec.max_vcpus == spec.vcpus else max(spec.max_vcpus, vcpus)
    max_memory_mib = (
        memory_mib
        if spec.max_memory_mib == spec.memory_mib
        else max(spec.max_memory_mib, memory_mib)
    )
    wanted = replace(
        spec,
        vcpus=vcpus,
        memory_mib=memory_mib,
        max_vcpus=max_vcpus,
        max_memory_mib=max_memory_mib,
    )
    return plan_recount(state, name, wanted, vcpus, max_memory_mib)


def plan_recount(
    state: HostState, name: str, spec: VmSpec, vcpus: int, boot_memory_mib: int
) -> Plan | Rejection:
    """How the VM called *name* becomes *spec* while *vcpus* and *boot_memory_mib* count for it.

    The two differ from *spec* while a smaller size waits for the VM's next boot.
    """
    vm = state.vm(name)
    level = vm.spec.runs_at
    old = state.subsets[level]
    memory_mib = boot_memory_mib + state.host.rules.vm_overhead_mib
    resized = replace(vm, spec=spec, vcpus=vcpus, memory_mib=memory_mib)
    vms = tuple([resized if each is vm else each for each in old.vms])
    cpus = _cpus_for(state, level, Subset(old.cpus, vms))
    if isinstance(cpus, Rejection):
        return cpus
    added_mib = memory_mib - vm.memory_mib
    if added_mib > max(state.free_memory_mib, 0):
        return Rejection("memory_mib", asked=added_mib, free=max(state.free_memory_mib, 0))
    free = dict(state.free_by_node)
    for node, part in vm.memory_nodes:
        free[node] += part
    here = {node: free[node] for node, _ in vm.memory_nodes}
    resized = replace(
        resized,
        memory_nodes=vm.memory_nodes
        if not added_mib
        else _same_nodes(here, memory_mib) or choose_nodes(state.host, free, cpus, memory_mib),
    )
    vms = tuple([resized if each is vm else each for each in old.vms])
    after = state.with_subset(level, Subset(cpus, vms))
    narrow, widen = transition(state, after)
    step = Resize(vm, resized)
    if vcpus < vm.vcpus:
        # it gives vCPUs up before its level gives CPUs up
        return Plan((step, *narrow, *widen), after)
    return Plan((*narrow, *widen, step), after)


def transition(
    before: HostState, after: HostState, leaving: str | None = None
) -> tuple[list[Step], list[Step]]:
    """The pins between two snapshots: those that narrow, then those that widen.

    *leaving* is being removed between the two and is not worth re-pinning.
    """
    narrow: list[Step] = []
    widen: list[Step] = []
    for level in dict.fromkeys((*before.subsets, *after.subsets)):
        old = before.reach.get(level, ())
        new = after.reach.get(level, ())
        if old == new:
            continue
        subset = before.subsets.get(level, _NOTHING)
        vms = tuple([v.spec.name for v in subset.vms if not v.foreign and v.spec.name != leaving])
        kept = _common(old, new)
        if kept and len(kept) < len(old):
            narrow.append(Pin(level, vms, old, kept))
            old = kept
        if old != new:
            # no CPU in common, a level that begins or one that ends: one move
            widen.append(Pin(level, vms, old, new))
    return narrow, widen


_NOTHING = Subset()


def _cpus_for(state: HostState, level: Level, subset: Subset) -> Cpus | Rejection:
    """The CPUs *subset* owns once it has the size its VMs call for."""
    size = subset.size(level)
    others = [each.cpus for other, each in state.subsets.items() if other != level]
    keep = claimed_cpus(state.host, subset.vms) if level == PREMIUM else ()
    cpus = resize_cpus(state.host, subset.cpus, others, size, keep)
    if cpus is None:
        free = state.host.cpus - state.allocated_cpus
        return Rejection("cpus", asked=size - len(subset.cpus), free=free)
    return cpus


def _without(state: HostState, level: Level, name: str) -> HostState:
    old = state.subsets[level]
    vms = tuple([vm for vm in old.vms if vm.spec.name != name])
    if not vms:
        return state.with_subset(level, _NOTHING)
    cpus = _cpus_for(state, level, Subset(old.cpus, vms))
    # only a level found with too few CPUs can still lack some: it keeps what it has
    return state.with_subset(level, Subset(old.cpus if isinstance(cpus, Rejection) else cpus, vms))


def _common(old: Cpus, new: Cpus) -> Cpus:
    if not old or not new:
        return ()
    there = set(new)
    return tuple([cpu for cpu in old if cpu in there])


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
