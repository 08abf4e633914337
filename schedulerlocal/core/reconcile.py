"""What has to change, here and there, once the hypervisor was found to differ from the state.

The hypervisor is right about which VMs there are and how large; the state is right about where
they run. So the state follows the former, and steps set the latter right, unless the host turns
out to be over-committed: then nothing is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from schedulercommon.levels import PREMIUM, Level, format_level
from schedulerlocal.core.adoption import FoundVm, adopt
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.state import HostState, Vm, violations
from schedulerlocal.core.steps import Pin, Step, moves
from schedulerlocal.core.topology import Cpus


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was not as the state had it."""

    kind: str
    """``appeared``, ``vanished``, ``changed``, ``moved`` or ``autostart``."""
    vm: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The state that is true, and the steps that make the hypervisor agree with it."""

    after: HostState
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]


def reconcile(
    state: HostState, found: Iterable[FoundVm], owned: Mapping[Level, Cpus] | None = None
) -> Reconciliation:
    """Compare *state* with the VMs *found*; *owned* by the levels is by default as in *state*."""
    by_name = {each.spec.name: each for each in found}
    known = [vm.name for vm in state.vms() if vm.name in by_name]
    ordered = [by_name[name] for name in dict.fromkeys((*known, *by_name))]
    if owned is None:
        owned = {level: subset.cpus for level, subset in state.subsets.items()}
    truth = adopt(state.host, ordered, owned)
    after = state
    if truth.subsets != state.subsets:
        after = replace(truth, generation=state.generation + 1)
    findings = [*_differences(state, after)]
    if violations(after):
        return Reconciliation(after, (), tuple(findings))
    wrong = _misplaced(after, by_name)
    for level, pinned, names in wrong:
        before, wanted = format_cpulist(pinned), format_cpulist(after.reach[level])
        findings += [Finding("moved", name, before, wanted) for name in names]
    narrow, widen = _pins(after, wrong)
    ended = [
        Pin(level, (), state.reach[level], ())
        for level in state.subsets
        if level not in after.subsets
    ]
    return Reconciliation(after, (*narrow, *widen, *ended), tuple(findings))


def warnings(state: HostState) -> tuple[str, ...]:
    """Sentences about what an operator should look into."""
    told = [f"over-committed: {sentence}" for sentence in violations(state)]
    premium = state.subsets.get(PREMIUM)
    for vm in premium.vms if premium else ():
        if not vm.foreign:
            continue
        where = set(vm.pinned or state.host.topology.ids)
        for level, subset in state.subsets.items():
            if level != PREMIUM and not where.isdisjoint(subset.cpus):
                told.append(
                    f"VM {vm.name!r} was not made here and may run on CPUs of level"
                    f" {format_level(level)}; adopt it or pin it elsewhere"
                )
    return tuple(told)


def _differences(state: HostState, after: HostState) -> Iterable[Finding]:
    before = {vm.name: vm for vm in state.vms()}
    now = {vm.name: vm for vm in after.vms()}
    for name in before:
        if name not in now:
            yield Finding("vanished", name, _size(before[name]), "")
    for name, vm in now.items():
        old = before.get(name)
        if old is None:
            yield Finding("appeared", name, "", _size(vm))
        elif _size(old) != _size(vm):
            yield Finding("changed", name, _size(old), _size(vm))


def _size(vm: Vm) -> str:
    whose = "not ours" if vm.foreign else f"level {format_level(vm.spec.runs_at)}"
    return f"{vm.vcpus} vCPUs, {vm.memory_mib} MiB, {whose}"


def _misplaced(
    after: HostState, found: Mapping[str, FoundVm]
) -> list[tuple[Level, Cpus, tuple[str, ...]]]:
    """VMs of ours that are not pinned to where their level runs, by level and where they are."""
    everywhere = tuple(sorted(after.host.topology.ids))
    wrong: dict[tuple[Level, Cpus], list[str]] = {}
    for level, subset in after.subsets.items():
        for vm in subset.vms:
            pinned = tuple(sorted(found[vm.name].pinned)) or everywhere
            if not vm.foreign and pinned != after.reach[level]:
                wrong.setdefault((level, pinned), []).append(vm.name)
    return [(level, pinned, tuple(names)) for (level, pinned), names in wrong.items()]


def _pins(
    after: HostState, wrong: Iterable[tuple[Level, Cpus, tuple[str, ...]]]
) -> tuple[list[Pin], list[Pin]]:
    """Pins, narrowing and widening, that bring the *wrong* VMs to where their level runs."""
    narrow: list[Pin] = []
    widen: list[Pin] = []
    for level, pinned, names in wrong:
        narrower, wider = moves(level, names, pinned, after.reach[level])
        narrow += narrower
        widen += wider
    return narrow, widen
