"""When a workload needs most, and which VMs there are then."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, lcm

from clustersim.workload import HostSize, Workload

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Peak:
    """A moment at which the volume bound of the VMs there is largest, the first such."""

    time_s: float
    vms: tuple[int, ...]
    """Ascending."""


def peak(workload: Workload, host: HostSize) -> Peak:
    """The largest of all."""
    return max(_of_periods(workload, host, None), default=(0, Peak(0.0, ())))[1]


def daily_peaks(workload: Workload, host: HostSize) -> list[Peak]:
    """The largest of each day in which any VM arrived, largest first; of equals the earlier."""
    return [each for _, each in sorted(_of_periods(workload, host, DAY_S), key=_largest_first)]


def _largest_first(found: tuple[int, Peak]) -> tuple[int, float]:
    return -found[0], found[1].time_s


def _of_periods(
    workload: Workload, host: HostSize, period_s: float | None
) -> list[tuple[int, Peak]]:
    """Of each period, or of all time: the demand in parts of a host, and when it was."""
    common = lcm(*{demand.shape.level.numerator for demand in workload})
    # both in the same parts of a host, so that the larger of the two can be told in integers
    cpu_parts = host.memory_mib
    memory_parts = common * host.cpus
    changes: list[tuple[float, int, int, int, int]] = []
    for number, demand in enumerate(workload):
        shape = demand.shape
        vcpus = shape.vcpus * shape.level.denominator * (common // shape.level.numerator)
        cpus, memory = vcpus * cpu_parts, shape.memory_mib * memory_parts
        changes.append((demand.arrival_s, 1, number, cpus, memory))
        changes.append((demand.departure_s, 0, number, -cpus, -memory))
    changes.sort()
    # of each period: demand, time, and how many changes there were until then
    largest: dict[int, tuple[int, float, int]] = {}
    cpus = memory = 0
    for place, (time_s, arrives, _, more_cpus, more_memory) in enumerate(changes, start=1):
        cpus += more_cpus
        memory += more_memory
        if arrives:
            period = floor(time_s / period_s) if period_s else 0
            demand_parts = max(cpus, memory)
            if period not in largest or demand_parts > largest[period][0]:
                largest[period] = demand_parts, time_s, place
    found = []
    there: dict[int, None] = {}
    done = 0
    for parts_then, time_s, until in sorted(largest.values(), key=lambda each: each[2]):
        for _, arrives, number, _, _ in changes[done:until]:
            if arrives:
                there[number] = None
            else:
                there.pop(number, None)
        done = until
        found.append((parts_then, Peak(time_s, tuple(sorted(there)))))
    return found
