"""What a host answers about itself: the published status, and the progress of a placement."""

from __future__ import annotations

from typing import Any

from schedulercommon import balance
from schedulercommon.levels import Level, format_level
from schedulercommon.sizing import cpus_needed
from schedulerlocal.core.allocation import resize
from schedulerlocal.core.state import HostState, Subset


def published_status(state: HostState) -> dict[str, Any]:
    """The JSON of ``/status``: CPUs by level, memory (MiB) as one pool.

    ``pcap`` CPUs owned, ``palloc`` vCPUs promised, ``vavail = pcap·level - palloc``,
    ``vpotential = avail·level``.
    """
    avail = state.host.cpus - state.allocated_cpus
    levels = {}
    for level, subset in state.subsets.items():
        pcap, palloc = len(subset.cpus), subset.vcpus
        over, under = level.numerator, level.denominator
        levels[format_level(level)] = {
            "pcap": pcap,
            "palloc": palloc,
            "vavail": (pcap * over - palloc * under) / under,
            "vpotential": avail * over / under,
        }
    memory, free = state.allocated_memory_mib, state.free_memory_mib
    pool = {"pcap": memory, "palloc": memory, "vavail": 0, "vpotential": free}
    return {
        "cpu": {"avail": avail, "subset": levels},
        "mem": {"avail": free, "subset": {"1": pool} if levels else {}},
    }


def deploy_progress(state: HostState, vcpus: int, memory_mib: int, level: Level) -> float:
    """The progress (see :func:`schedulercommon.balance.progress`) a VM of that size would make.

    It answers also for a VM that does not fit.
    """
    subset = state.subsets.get(level, Subset())
    size = cpus_needed(subset.vcpus + vcpus, max(subset.largest_vcpus, vcpus), level)
    gained = max(size - len(subset.cpus), 0)
    if gained and state.host.rules.smt_isolation:
        host = state.host
        others = [each.footprint(host) for other, each in state.subsets.items() if other != level]
        owned = resize(host, subset.footprint(host), others, size)
        gained = gained if owned is None else len(owned.cpus) - len(subset.cpus)
    return balance.progress(
        capacity_cpus=state.host.cpus,
        capacity_memory_mib=state.host.memory_mib,
        allocated_cpus=state.allocated_cpus,
        allocated_memory_mib=state.allocated_memory_mib,
        vm_memory_mib=memory_mib + state.host.rules.vm_overhead_mib,
        gained_cpus=gained,
    )
