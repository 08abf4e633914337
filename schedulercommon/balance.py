"""The published score of a placement: does it bring a host's memory per CPU nearer its ideal?"""

from __future__ import annotations

from fractions import Fraction


def progress(
    *,
    capacity_cpus: int,
    capacity_memory_mib: int,
    allocated_cpus: int,
    allocated_memory_mib: int,
    vm_memory_mib: int,
    gained_cpus: int,
) -> float:
    """Progress of a host's memory-per-CPU ratio (MiB per CPU) towards its capacity's ratio.

    With ``ideal = M/C``, ``now = m/c`` (ideal for an empty host) and
    ``next = (m + vm memory)/(c + CPUs gained)``: ``|now - ideal| - |next - ideal|``, and where
    that is negative, times ``1 + c/C``, so that a full host is hurt more. Computed exactly and
    rounded once.
    """
    ideal = Fraction(capacity_memory_mib, capacity_cpus)
    now = Fraction(allocated_memory_mib, allocated_cpus) if allocated_cpus else ideal
    cpus = allocated_cpus + gained_cpus
    following = Fraction(allocated_memory_mib + vm_memory_mib, cpus) if cpus else ideal
    gain = abs(now - ideal) - abs(following - ideal)
    if gain < 0:
        gain *= 1 + Fraction(allocated_cpus, capacity_cpus)
    return float(gain)
