"""How many CPUs a level needs: the one sizing rule of hosts, cluster and simulator."""

from __future__ import annotations

from schedulercommon.levels import Level


def cpus_needed(vcpus: int, largest_vcpus: int, level: Level) -> int:
    """CPUs a level must own for *vcpus* in all.

    Sharing divides the sum, yet the largest VM keeps one CPU per vCPU: no VM may compete with
    itself. Exact: 3 vCPUs at 3/2 need 2 CPUs, never 3 for a rounding error.
    """
    return max(-(-vcpus * level.denominator // level.numerator), largest_vcpus)
