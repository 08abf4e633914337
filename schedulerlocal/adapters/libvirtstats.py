"""What libvirt's bulk statistics say of each VM: plain data in, counters out.

Fields are missing where nobody knows: without a driver in the guest its memory, from an emulator
that hangs nearly everything, from older libvirt how long a vCPU waited. Domains that are down are
in the answer too, and their CPU time means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from schedulerlocal.core.waiting import VcpuTime
from schedulerlocal.ports import VmUsage

Stats = tuple[str, Mapping[str, Any]]
"""A domain's name and what libvirt says of it."""

_SHUT_OFF = 5
_NS = 1e-9
_KIB_PER_MIB = 1024


def read_stats(told: Iterable[Stats]) -> dict[str, VmUsage]:
    """The usage of every VM that is not down, by name."""
    up = [(name, stats) for name, stats in told if stats.get("state.state") != _SHUT_OFF]
    # where libvirt may not use cgroups it knows of the vCPUs only. Never one VM this way and the
    # next time that: the emulator's own time is only in one of the two.
    whole = any("cpu.time" in stats for _, stats in up)
    return {name: _usage(stats, whole) for name, stats in up}


def _usage(stats: Mapping[str, Any], whole: bool) -> VmUsage:
    times = dict(_vcpu_times(stats))
    cpu_time_s = None
    if whole:
        told = stats.get("cpu.time")
        cpu_time_s = None if told is None else told * _NS
    elif times:
        cpu_time_s = sum([ran_s for ran_s, _ in times.values()])
    return VmUsage(
        cpu_time_s=cpu_time_s,
        memory_used_mib=_memory_used_mib(stats),
        vcpus={
            vcpu: VcpuTime(ran_s, waited_s)
            for vcpu, (ran_s, waited_s) in times.items()
            if waited_s is not None
        },
    )


def _vcpu_times(stats: Mapping[str, Any]) -> Iterable[tuple[int, tuple[float, float | None]]]:
    """By vCPU, whose numbers may have gaps: time run and time waited, in seconds."""
    left = stats.get("vcpu.current", 0)
    for vcpu in range(stats.get("vcpu.maximum", 0)):
        if not left:
            return
        ran = stats.get(f"vcpu.{vcpu}.time")
        if ran is None:
            continue
        left -= 1
        waited = stats.get(f"vcpu.{vcpu}.delay")
        yield vcpu, (ran * _NS, None if waited is None else waited * _NS)


def _memory_used_mib(stats: Mapping[str, Any]) -> float | None:
    """What the guest says it uses, or else what its emulator has of the host's memory.

    Never more than the VM was given: an emulator needs some for itself.
    """
    given = stats.get("balloon.current")
    if given is None:
        return None
    free = stats.get("balloon.usable", stats.get("balloon.unused"))
    used = stats.get("balloon.rss") if free is None else given - free
    return None if used is None else min(max(used, 0), given) / _KIB_PER_MIB
