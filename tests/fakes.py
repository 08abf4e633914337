"""Stand-ins that record what is asked of them and can be made to fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

from schedulercommon.levels import Level
from schedulerlocal.core.state import HostState, Vm
from schedulerlocal.core.steps import Adopt, Create, Pin, Plan, Remove, Resize, Step, way_back
from schedulerlocal.core.topology import Cpus


class StepFailed(Exception):
    """A step was told to fail, and left nothing."""


@dataclass
class FakeHypervisor:
    """VMs and where they may run, changed by steps; knows nothing of levels' rules.

    A step that does not fit what is there is a bug in the plan and fails an assertion.
    """

    vms: dict[str, Vm] = field(default_factory=dict)
    runs_on: dict[str, Cpus] = field(default_factory=dict)
    reach: dict[Level, Cpus] = field(default_factory=dict)
    performed: list[Step] = field(default_factory=list, compare=False)
    fails_after: int | None = field(default=None, compare=False)
    """Steps that work before one fails; None for all of them."""

    @classmethod
    def showing(cls, state: HostState) -> FakeHypervisor:
        """As it must be when *state* has been carried out."""
        return cls(
            {vm.name: vm for vm in state.vms()},
            {vm.name: state.reach[vm.spec.runs_at] for vm in state.vms()},
            dict(state.reach),
        )

    def perform(self, step: Step) -> None:
        if self.fails_after is not None and len(self.performed) == self.fails_after:
            self.fails_after = None
            raise StepFailed
        match step:
            case Pin():
                self._pin(step)
            case Create(vm, cpus):
                assert vm.name not in self.vms
                assert cpus == self.reach[vm.spec.runs_at]
                self.vms[vm.name] = vm
                self.runs_on[vm.name] = cpus
            case Remove(vm, cpus):
                assert self.vms.pop(vm.name) == vm
                assert self.runs_on.pop(vm.name) == cpus
            case Resize(before, after) | Adopt(before, after):
                assert before.name == after.name
                assert self.vms[before.name] == before
                self.vms[before.name] = after
        self.performed.append(step)

    def _pin(self, step: Pin) -> None:
        assert step.before != step.after
        assert self.reach.get(step.level, ()) == step.before
        for name in step.vms:
            assert self.vms[name].spec.runs_at == step.level
            assert self.runs_on[name] == step.before
            assert step.after, f"{name} may run nowhere"
            self.runs_on[name] = step.after
        if step.after:
            self.reach[step.level] = step.after
        else:
            del self.reach[step.level]


def perform_or_undo(
    plan: Plan, hypervisor: FakeHypervisor, fails_after: int | None = None
) -> Iterator[FakeHypervisor]:
    """Carry *plan* out as an agent would, and yield after every step, done or undone.

    The step after *fails_after* others fails. A plan that can no longer be undone stays as it is.
    """
    hypervisor.performed.clear()
    hypervisor.fails_after = fails_after
    done: list[Step] = []
    try:
        for step in plan.steps:
            hypervisor.perform(step)
            done.append(step)
            yield hypervisor
    except StepFailed:
        for step in way_back(done) or ():
            hypervisor.perform(step)
            yield hypervisor


def broken_promises(hypervisor: FakeHypervisor, before: HostState, after: HostState) -> list[str]:
    """What is wrong with a moment between two snapshots, or at one of them."""
    found = []
    settled = _meetings(FakeHypervisor.showing(before)) | _meetings(FakeHypervisor.showing(after))
    for one, other, cpu in sorted(_meetings(hypervisor)):
        levels = {hypervisor.vms[one].spec.runs_at, hypervisor.vms[other].spec.runs_at}
        if 1 in levels:
            found.append(f"{one} and {other} meet on CPU {cpu}, and one of them is at level 1")
        elif (one, other, cpu) not in settled:
            found.append(f"{one} and {other} meet on CPU {cpu}, in neither snapshot")
    found += _too_near(hypervisor, before, after)
    sold: dict[Level, int] = {}
    cpus: dict[Level, set[int]] = {}
    for name, vm in hypervisor.vms.items():
        level = vm.spec.runs_at
        sold[level] = sold.get(level, 0) + vm.vcpus
        cpus.setdefault(level, set()).update(hypervisor.runs_on[name])
        if vm.vcpus > len(hypervisor.runs_on[name]):
            found.append(f"{name} competes with itself")
    found += [
        f"level {level} is sold beyond its ratio"
        for level, vcpus in sold.items()
        if vcpus > level * len(cpus[level])
    ]
    return found


def _meetings(hypervisor: FakeHypervisor) -> set[tuple[str, str, int]]:
    """(VM, VM, CPU) wherever two VMs of different levels may both run."""
    return {
        (one, other, cpu)
        for one, other in combinations(sorted(hypervisor.vms), 2)
        if hypervisor.vms[one].spec.runs_at != hypervisor.vms[other].spec.runs_at
        for cpu in {*hypervisor.runs_on[one]} & {*hypervisor.runs_on[other]}
    }


def _too_near(hypervisor: FakeHypervisor, before: HostState, after: HostState) -> list[str]:
    """Borrowers on a sibling of a CPU that a VM of level 1 may run on."""
    premium = {
        cpu
        for name, vm in hypervisor.vms.items()
        if vm.spec.runs_at == 1
        for cpu in hypervisor.runs_on[name]
    }
    siblings = {cpu.id: cpu.siblings for cpu in before.host.topology.cpus}
    found = []
    for name, vm in hypervisor.vms.items():
        level = vm.spec.runs_at
        snapshots = [
            state.subsets[level].cpus for state in (before, after) if level in state.subsets
        ]
        own = {cpu for cpus in snapshots for cpu in cpus}
        borrowed = {*hypervisor.runs_on[name]} - own if level != 1 else set()
        near = [cpu for cpu in borrowed if premium.intersection(siblings[cpu])]
        found += [f"{name} borrows CPU {cpu}, beside a VM of level 1" for cpu in near]
    return found
