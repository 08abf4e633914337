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
from schedulerlocal.core.waiting import IDLE, Demand, demand, share_waited, waiting
from schedulerlocal.ports import HostUsage, VmUsage


@dataclass(frozen=True, slots=True)
class VmReading:
    """None is what could not be told."""

    cpus: float | None
    """CPUs used, on average since the last reading."""
    memory_mib: float | None
    """Used, of what it was given."""
    waiting: float | None
    """Share of the time its vCPUs were ready to run that they waited for a CPU."""


@dataclass(frozen=True, slots=True)
class LevelReading:
    """A level's VMs together, and the CPUs it owns; None is what could not be told."""

    cpus: float | None
    """CPUs its VMs used, borrowed ones included."""
    busy: float | None
    """Share of the CPUs it owns that were busy, whoever used them; offline ones do not count."""
    memory_mib: float
    waiting: float | None
    """Share of the time its VMs were ready to run that they waited for a CPU."""
    waiting_p95: float | None
    """The same of its VMs one by one: 95 in 100 do not exceed it."""


@dataclass(frozen=True, slots=True)
class Readings:
    """A host's usage at one moment."""

    at_s: float
    """Monotonic."""
    over_s: float | None
    """How long ago the reading before was, over which shares and CPUs used are averages."""
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
    vms: dict[str, VmReading] = {}
    demands: dict[str, Demand | None] = {}
    for vm in state.vms():
        name = vm.name
        if states.get(name) is VmState.DOWN:
            demands[name], vms[name] = IDLE, VmReading(cpus=0.0, memory_mib=0.0, waiting=0.0)
            continue
        usage = now.vms.get(name)
        cpus, demands[name] = _between(earlier.get(name), usage, elapsed_s)
        vms[name] = VmReading(
            cpus=cpus,
            memory_mib=usage.memory_used_mib if usage else None,
            waiting=_share(demands[name], elapsed_s),
        )
    return Readings(
        at_s=now.at_s,
        over_s=elapsed_s if elapsed_s > 0 else None,
        cpus=_cpus_used(state.host, now),
        cpu_share=now.cpu_share,
        memory_share=now.memory_share,
        levels={
            level: _level_reading(subset, now, vms, demands, elapsed_s)
            for level, subset in state.subsets.items()
        },
        vms=vms,
    )


def _between(
    before: VmUsage | None, now: VmUsage | None, elapsed_s: float
) -> tuple[float | None, Demand | None]:
    """CPUs used, and what the vCPUs wanted; None for what cannot be told."""
    if before is None or now is None or elapsed_s <= 0:
        return None, None
    cpus = None
    if before.cpu_time_s is not None and now.cpu_time_s is not None:
        if now.cpu_time_s < before.cpu_time_s:
            return None, None  # a counter that went back belongs to a VM made or booted anew
        cpus = (now.cpu_time_s - before.cpu_time_s) / elapsed_s
    throttled_s = _throttled_s(before, now)
    return cpus, None if throttled_s is None else demand(before.vcpus, now.vcpus, throttled_s)


def _throttled_s(before: VmUsage, now: VmUsage) -> float | None:
    """None for a VM that has a quota and was not looked at before."""
    if not now.throttled_s:
        return 0.0
    return None if before.throttled_s is None else now.throttled_s - before.throttled_s


def _share(wanted: Demand | None, elapsed_s: float) -> float | None:
    return None if wanted is None else share_waited(wanted, elapsed_s)


def _level_reading(
    subset: Subset,
    now: HostUsage,
    vms: Mapping[str, VmReading],
    demands: Mapping[str, Demand | None],
    elapsed_s: float,
) -> LevelReading:
    readings = [vms[vm.name] for vm in subset.vms]
    online = [now.cpu_shares[cpu] for cpu in subset.cpus if cpu in now.cpu_shares]
    wanted = [demands[vm.name] for vm in subset.vms]
    known = [each for each in wanted if each is not None]
    # that VMs which are down do not wait says nothing of the others
    untold = len(known) < len(wanted) and all(each is IDLE for each in known)
    waited = None if untold else waiting(known, elapsed_s)
    return LevelReading(
        cpus=_sum_known([each.cpus for each in readings]),
        busy=sum(online) / len(online) if online else None,
        memory_mib=_sum_known([each.memory_mib for each in readings]) or 0.0,
        waiting=waited.share if waited else None,
        waiting_p95=waited.p95 if waited else None,
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
