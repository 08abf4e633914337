"""What a host has promised: a snapshot of its levels, their CPUs and their VMs.

Snapshots are never changed; a decision makes the next one. Whatever can be derived from the
promise is derived here, once per snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from schedulercommon.errors import UnknownVm
from schedulercommon.kept import kept, knowing
from schedulercommon.levels import PREMIUM, Level, format_level
from schedulercommon.model import HostStatus, LevelStatus, VmSpec
from schedulercommon.sizing import cpus_needed
from schedulerlocal.core.allocation import Footprint, footprint
from schedulerlocal.core.host import Host
from schedulerlocal.core.topology import Cpus

NodeMemory = tuple[tuple[int, int], ...]
"""(NUMA node, MiB) pairs."""


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM with what the host counts for it."""

    spec: VmSpec
    vcpus: int
    """Counted for sizing: what was asked, or more until a pending reboot."""
    memory_mib: int
    """Counted for admission: the boot maximum plus the overhead."""
    memory_nodes: NodeMemory
    """Where that memory is meant to be; sums to ``memory_mib``."""
    foreign: bool = False
    """Found without our metadata: counted, never touched."""
    pinned: Cpus = ()
    """For a foreign VM, the CPUs it was found pinned to; empty means anywhere."""

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class Subset:
    """A level inside a host. What is derived is kept, since most decisions change one level."""

    cpus: Cpus = ()
    """Owned, in order of arrival."""
    vms: tuple[Vm, ...] = ()
    known_footprint: Footprint | None = field(default=None, repr=False, compare=False)
    """Of ``cpus``, where whoever made this had it."""

    def footprint(self, host: Host) -> Footprint:
        """Where the CPUs are; *host* is the one they belong to."""
        known = self.known_footprint
        if known is None:
            known = footprint(host, self.cpus)
            if self.cpus:  # nothing is the same on every host, and its arrays are not
                object.__setattr__(self, "known_footprint", known)
        return known

    @kept
    def ascending(self) -> Cpus:
        """The CPUs owned, in ascending order."""
        return tuple(sorted(self.cpus))

    @kept
    def vcpus(self) -> int:
        return sum([vm.vcpus for vm in self.vms])

    @kept
    def largest_vcpus(self) -> int:
        return max([vm.vcpus for vm in self.vms], default=0)

    @kept
    def memory_mib(self) -> int:
        return sum([vm.memory_mib for vm in self.vms])

    @kept
    def memory_by_node(self) -> Mapping[int, int]:
        """MiB promised, per NUMA node."""
        promised: dict[int, int] = {}
        for vm in self.vms:
            for node, memory_mib in vm.memory_nodes:
                promised[node] = promised.get(node, 0) + memory_mib
        return promised

    @kept
    def our_names(self) -> tuple[str, ...]:
        """The names of the VMs that may be re-pinned."""
        return tuple([vm.spec.name for vm in self.vms if not vm.foreign])

    @kept
    def by_name(self) -> Mapping[str, Vm]:
        return {vm.spec.name: vm for vm in self.vms}

    def size(self, level: Level) -> int:
        """CPUs this level must own by the sizing rule."""
        return cpus_needed(self.vcpus, self.largest_vcpus, level)

    # What follows from the VMs goes on from one subset to the next: with hundreds of them, working
    # it out anew would take longer than all else a decision does.

    def with_vm(self, vm: Vm) -> Subset:
        """The same CPUs with *vm* as well."""
        by_node = dict(self.memory_by_node)
        for node, memory_mib in vm.memory_nodes:
            by_node[node] = by_node.get(node, 0) + memory_mib
        return knowing(
            Subset(self.cpus, (*self.vms, vm), self.known_footprint),
            vcpus=self.vcpus + vm.vcpus,
            largest_vcpus=max(self.largest_vcpus, vm.vcpus),
            memory_mib=self.memory_mib + vm.memory_mib,
            memory_by_node=by_node,
            our_names=self.our_names if vm.foreign else (*self.our_names, vm.name),
            by_name={**self.by_name, vm.name: vm},
        )

    def without(self, vm: Vm) -> Subset:
        """The same CPUs without *vm*, which is there."""
        vms = tuple([each for each in self.vms if each is not vm])
        by_node = dict(self.memory_by_node)
        for node, memory_mib in vm.memory_nodes:
            by_node[node] -= memory_mib
        by_name = dict(self.by_name)
        del by_name[vm.name]
        fewer = knowing(
            Subset(self.cpus, vms, self.known_footprint),
            vcpus=self.vcpus - vm.vcpus,
            memory_mib=self.memory_mib - vm.memory_mib,
            memory_by_node={node: mib for node, mib in by_node.items() if mib},
            our_names=tuple([each for each in self.our_names if each != vm.name]),
            by_name=by_name,
        )
        if vm.vcpus < self.largest_vcpus:
            knowing(fewer, largest_vcpus=self.largest_vcpus)
        return fewer

    def owning(self, owned: Footprint) -> Subset:
        """The same VMs on the CPUs of *owned*."""
        of_vms = {name: self.__dict__[name] for name in _OF_VMS if name in self.__dict__}
        return knowing(Subset(owned.cpus, self.vms, owned), **of_vms)


_OF_VMS = "vcpus largest_vcpus memory_mib memory_by_node our_names by_name".split()
"""What a subset derives from its VMs alone."""


@dataclass(frozen=True)
class HostState:
    """A snapshot of one host; ``subsets`` is in ascending order of level."""

    host: Host
    subsets: Mapping[Level, Subset]
    generation: int = 0

    def with_subset(self, level: Level, subset: Subset) -> HostState:
        """The next snapshot, in which *level* is *subset*; one without VMs is gone."""
        subsets = dict(self.subsets)
        fresh = level not in subsets
        if subset.vms:
            subsets[level] = subset
            if fresh:
                subsets = {each: subsets[each] for each in sorted(subsets)}
        else:
            subsets.pop(level, None)
        return HostState(self.host, subsets, self.generation + 1)

    def vms(self) -> Iterator[Vm]:
        """All VMs, by level and then in order of arrival."""
        for subset in self.subsets.values():
            yield from subset.vms

    def level_of(self, name: str) -> Level | None:
        """The level the VM called *name* runs at; None if there is no such VM."""
        for level, subset in self.subsets.items():
            if name in subset.by_name:
                return level
        return None

    def vm(self, name: str) -> Vm:
        """The VM called *name*; raises UnknownVm."""
        level = self.level_of(name)
        if level is None:
            raise UnknownVm(name)
        return self.subsets[level].by_name[name]

    @kept
    def allocated_cpus(self) -> int:
        return sum([len(subset.cpus) for subset in self.subsets.values()])

    @kept
    def allocated_memory_mib(self) -> int:
        return sum([subset.memory_mib for subset in self.subsets.values()])

    @property
    def free_memory_mib(self) -> int:
        """Negative on a host found over-committed."""
        return self.host.memory_mib - self.allocated_memory_mib

    @kept
    def free_cpus(self) -> Cpus:
        """CPUs no level owns, in topology order."""
        owned = set(chain.from_iterable([subset.cpus for subset in self.subsets.values()]))
        return tuple([cpu for cpu in self.host.topology.ids if cpu not in owned])

    @kept
    def lent_cpus(self) -> Cpus:
        """Free CPUs that levels above 1 may borrow, in topology order.

        A CPU whose sibling belongs to level 1 is not lent: a borrower on it would slow that
        level down through the core they share.
        """
        rules = self.host.rules
        if rules.smt_isolation or not rules.critical_size:
            return ()
        premium = self.subsets.get(PREMIUM)
        if premium is None:
            return self.free_cpus
        topology = self.host.topology
        kept = set(chain.from_iterable([subset.cpus for subset in self.subsets.values()]))
        kept.update(chain.from_iterable([topology.core_of[cpu] for cpu in premium.cpus]))
        return tuple([cpu for cpu in topology.ids if cpu not in kept])

    @kept
    def reach(self) -> Mapping[Level, Cpus]:
        """For each level the CPUs its VMs run on, ascending: its own and those it borrows."""
        critical = self.host.rules.critical_size
        return {
            level: tuple(sorted(subset.cpus + self.lent_cpus))
            if len(subset.vms) < critical and level > PREMIUM
            else subset.ascending
            for level, subset in self.subsets.items()
        }

    @kept
    def free_by_node(self) -> Mapping[int, int]:
        """Memory not promised yet, MiB per NUMA node; negative where a node was overdrawn."""
        free = dict(self.host.node_memory_mib)
        for subset in self.subsets.values():
            for node, memory_mib in subset.memory_by_node.items():
                free[node] -= memory_mib
        return free


def claimed_cpus(host: Host, vms: Iterable[Vm]) -> Cpus:
    """CPUs level 1 owns because VMs that are not ours are pinned to them.

    For each such VM the first of its CPUs, at most one per vCPU; one that may run anywhere
    claims none in particular.
    """
    claimed: dict[int, None] = {}
    for vm in vms:
        if vm.foreign and len(vm.pinned) < host.cpus:
            unclaimed = [cpu for cpu in vm.pinned if cpu not in claimed]
            claimed.update(dict.fromkeys(unclaimed[: vm.vcpus]))
    return tuple(claimed)


def host_status(state: HostState, name: str, usage_ratio: float = 0.0) -> HostStatus:
    """*state* as the global tier sees it."""
    return HostStatus(
        name=name,
        generation=state.generation,
        capacity_cpus=state.host.cpus,
        capacity_memory_mib=state.host.memory_mib,
        allocated_memory_mib=state.allocated_memory_mib,
        levels=tuple(
            LevelStatus(level, len(subset.cpus), subset.vcpus, subset.largest_vcpus)
            for level, subset in state.subsets.items()
        ),
        usage_ratio=usage_ratio,
    )


def violations(state: HostState) -> list[str]:
    """Sentences about every promise *state* breaks; none for a state our plans made."""
    found: list[str] = []
    host = state.host
    owner: dict[int, Level] = {}
    for level, subset in state.subsets.items():
        label = format_level(level)
        for cpu in subset.cpus:
            if cpu not in host.topology.index:
                found.append(f"level {label} owns CPU {cpu}, which the host does not have")
            if cpu in owner:
                found.append(f"CPU {cpu} is owned twice, by {format_level(owner[cpu])} and {label}")
            owner[cpu] = level
        size = subset.size(level)
        if len(subset.cpus) < size:
            found.append(f"level {label} owns {len(subset.cpus)} CPUs and needs {size}")
        elif len(subset.cpus) > size and not host.rules.smt_isolation:
            found.append(f"level {label} owns {len(subset.cpus)} CPUs, more than its {size}")
        if not subset.vms:
            found.append(f"level {label} has no VM and still exists")
        for vm in subset.vms:
            if sum(memory_mib for _, memory_mib in vm.memory_nodes) != vm.memory_mib:
                found.append(f"the memory nodes of {vm.name} do not hold its {vm.memory_mib} MiB")
            if vm.spec.runs_at != level:
                found.append(f"{vm.name} is filed under level {label} and runs at another")
    names = [vm.name for vm in state.vms()]
    if len(names) != len(set(names)):
        found.append("a VM's name is there twice")
    if state.free_memory_mib < 0:
        found.append(f"{-state.free_memory_mib} MiB more than the host has are promised")
    return found
