"""What levels and VMs use, worked out from two readings of a host's counters.

Nothing that happens to VMs or CPUs between two readings is an error: what cannot be told is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schedulercommon.levels import Level
from schedulercommon.model import VmState
from schedulerlocal.core.host import Host
from schedulerlocal.core.state import HostState, Subset
from schedulerlocal.ports import HostUsage, VmUsage


@dataclass(frozen=True, slots=True)
class VmReading:
    """None is what could not be told."""

    cpus: float | None
    """CPUs used, on average since the last reading."""
    memory_mib: float | None
    """Used, of what it was given."""


@dataclass(frozen=True, slots=True)
class LevelReading:
    """A level's VMs together, and the CPUs it owns; None is what could not be told."""

    cpus: float | None
    """CPUs its VMs used, borrowed ones included."""
    busy: float | None
    """Share of the CPUs it owns that were busy, whoever used them; offline ones do not count."""
    memory_mib: float


@dataclass(frozen=True, slots=True)
class Readings:
    """A host's usage at one moment."""

    at_s: float
    """Monotonic."""
    cpus: float | None
    """CPUs used, whoever used them."""
    cpu_share: float | None
    memory_share: float
    levels: Mapping[Level, LevelReading]
    vms: Mapping[str, VmReading]


def read_usage(
    state: HostState,
    states: Mapping[str, VmState],
    before: HostUsage | None,
    now: HostUsage,
) -> Readings:
    """What happened between two readings of the counters, the earlier one None for the first."""
    elapsed_s = now.at_s - before.at_s if before else 0.0
    earlier = before.vms if before else {}
    vms = {}
    for vm in state.vms():
        down = states.get(vm.name) is VmState.DOWN
        vms[vm.name] = _vm_reading(earlier.get(vm.name), now.vms.get(vm.name), elapsed_s, down)
    return Readings(
        at_s=now.at_s,
        cpus=_cpus_used(state.host, now),
        cpu_share=now.cpu_share,
        memory_share=now.memory_share,
        levels={level: _level_reading(subset, now, vms) for level, subset in state.subsets.items()},
        vms=vms,
    )


def _vm_reading(
    before: VmUsage | None, now: VmUsage | None, elapsed_s: float, down: bool
) -> VmReading:
    if down:
        return VmReading(cpus=0.0, memory_mib=0.0)
    if now is None:
        return VmReading(cpus=None, memory_mib=None)
    cpus = None
    # a counter that went back belongs to a VM made or booted anew
    if before is not None and elapsed_s > 0 and now.cpu_time_s >= before.cpu_time_s:
        cpus = (now.cpu_time_s - before.cpu_time_s) / elapsed_s
    return VmReading(cpus, now.memory_used_mib)


def _level_reading(subset: Subset, now: HostUsage, vms: Mapping[str, VmReading]) -> LevelReading:
    readings = [vms[vm.name] for vm in subset.vms]
    online = [now.cpu_shares[cpu] for cpu in subset.cpus if cpu in now.cpu_shares]
    return LevelReading(
        cpus=_sum_known([each.cpus for each in readings]),
        busy=sum(online) / len(online) if online else None,
        memory_mib=_sum_known([each.memory_mib for each in readings]) or 0.0,
    )


def _cpus_used(host: Host, now: HostUsage) -> float | None:
    shares = [now.cpu_shares[cpu] for cpu in host.topology.ids if cpu in now.cpu_shares]
    if shares:
        return sum(shares)
    return None if now.cpu_share is None else now.cpu_share * host.cpus


def _sum_known(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
