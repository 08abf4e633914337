"""Plans: the steps that lead from one snapshot to the next, in an order that is safe.

The order of a plan's steps is a promise: whoever loses CPUs is narrowed before anyone is widened
onto them, a VM is made only once its CPUs are clear, and what cannot be undone comes when
everything that may fail and must not has been done.
"""

from __future__ import annotations

from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.core.decisions import deployed, recounted, removed, resized_spec
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Adopt, Create, Pin, Plan, Remove, Resize, Step, moves


def plan_deploy(state: HostState, spec: VmSpec) -> Plan | Rejection:
    """How *spec* comes to run here; raises NameTaken if its name is in use."""
    after = deployed(state, spec)
    if isinstance(after, Rejection):
        return after
    level = spec.runs_at
    narrow, widen = transition(state, after)
    create = Create(after.subsets[level].by_name[spec.name], after.reach[level])
    return Plan((*narrow, *widen, create), after)


def plan_remove(state: HostState, name: str) -> Plan:
    """How the VM called *name* goes; raises UnknownVm."""
    vm = state.vm(name)
    after = removed(state, name)
    narrow, widen = transition(state, after, leaving=name)
    return Plan((*narrow, Remove(vm, state.reach[vm.spec.runs_at]), *widen), after)


def plan_resize(
    state: HostState, name: str, vcpus: int | None = None, memory_mib: int | None = None
) -> Plan | Rejection:
    """How the VM called *name* gets *vcpus* and *memory_mib*; None leaves that one as it is.

    Raises UnknownVm, and ValueError for an impossible size.
    """
    spec = resized_spec(state.vm(name).spec, vcpus, memory_mib)
    return plan_recount(state, name, spec, spec.vcpus, spec.max_memory_mib)


def plan_recount(
    state: HostState, name: str, spec: VmSpec, vcpus: int, boot_memory_mib: int
) -> Plan | Rejection:
    """How the VM called *name* becomes *spec* while *vcpus* and *boot_memory_mib* count for it.

    The two differ from *spec* while a smaller size waits for the VM's next boot.
    """
    after = recounted(state, name, spec, vcpus, boot_memory_mib)
    if isinstance(after, Rejection):
        return after
    old, new = state.vm(name), after.vm(name)
    narrow, widen = transition(state, after)
    if new.vcpus < old.vcpus:
        # it gives vCPUs up before its level gives CPUs up
        return Plan((Resize(old, new), *narrow, *widen), after)
    return Plan((*narrow, *widen, Resize(old, new)), after)


def transition(
    before: HostState, after: HostState, leaving: str | None = None
) -> tuple[list[Step], list[Step]]:
    """The pins between two snapshots: those that narrow, then those that widen.

    *leaving* is being removed between the two and is not worth re-pinning.
    """
    narrow: list[Step] = []
    widen: list[Step] = []
    for level, subset in before.subsets.items():
        old, new = before.reach[level], after.reach.get(level, ())
        if old is not new and old != new:
            names = subset.our_names
            vms = names if leaving is None else tuple([each for each in names if each != leaving])
            narrower, wider = moves(level, vms, old, new)
            narrow += narrower
            widen += wider
    for level, new in after.reach.items():
        if level not in before.subsets:
            widen.append(Pin(level, (), (), new))
    return narrow, widen


def plan_adopt(state: HostState, name: str, spec: VmSpec) -> Plan | Rejection:
    """How the foreign VM called *name* becomes ours, as *spec*; raises UnknownVm."""
    old = state.vm(name)
    after = deployed(removed(state, name), spec)
    if isinstance(after, Rejection):
        return after
    level = spec.runs_at
    new = after.subsets[level].by_name[name]
    narrow, widen = transition(state, after)
    was = tuple(sorted(old.pinned or state.host.topology.ids))
    move = [Pin(level, (name,), was, after.reach[level])] if was != after.reach[level] else []
    # it leaves the CPUs it was found on before anyone else is let onto them
    return Plan((Adopt(old, new), *narrow, *move, *widen), after)
