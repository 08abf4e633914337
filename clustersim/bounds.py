"""How many hosts no policy can do without."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, inf, lcm

from clustersim.workload import HostSize, Workload


def volume_bound(workload: Workload, host: HostSize) -> float:
    """Hosts that the largest demand would fill to the brim.

    The maximum over time of max(Σ vcpus/level ÷ CPUs, Σ memory ÷ memory), a timestamp's
    departures before its arrivals. Worked out in integers and rounded once, so that its ceiling
    is never one too many.
    """
    common = lcm(*{demand.shape.level.numerator for demand in workload})
    changes: list[tuple[float, int, int, int]] = []
    for demand in workload:
        shape = demand.shape
        level = shape.level
        parts = shape.vcpus * level.denominator * (common // level.numerator)
        changes.append((demand.arrival_s, 1, parts, shape.memory_mib))
        if demand.departure_s != inf:
            changes.append((demand.departure_s, 0, -parts, -shape.memory_mib))
    changes.sort()
    parts = memory_mib = most_parts = most_mib = 0
    for _, _, more_parts, more_mib in changes:
        parts += more_parts
        memory_mib += more_mib
        most_parts = max(most_parts, parts)
        most_mib = max(most_mib, memory_mib)
    return float(max(Fraction(most_parts, common * host.cpus), Fraction(most_mib, host.memory_mib)))


def whole_hosts(bound: float) -> int:
    """The least number of hosts that *bound* leaves possible."""
    return ceil(bound)
