"""How kinds of VMs use their vCPUs, as published for the Azure 2017 data set.

https://doi.org/10.1145/3132747.3132772
"""

from __future__ import annotations

from dataclasses import dataclass

PEAK_HOUR = 15.0
"""Hour of the day at which VMs are busiest, on average."""


@dataclass(frozen=True, slots=True)
class UsageClass:
    """How a kind of VM uses its vCPUs; shares of 1."""

    share: float
    """Of all VMs."""
    average: tuple[float, float]
    high: tuple[float, float]
    """What one sample in twenty reaches."""
    turnover: float
    """Arrivals, and departures, per VM and day."""
    rhythmic: float
    """VMs that follow the day closely."""


USAGE = (
    UsageClass(0.36, (0.002, 0.333), (0.666, 1.0), 0.60, 0.011),
    UsageClass(0.28, (0.0, 0.259), (0.0, 0.312), 0.15, 0.004),
    UsageClass(0.21, (0.001, 0.519), (0.26, 0.702), 0.32, 0.008),
    UsageClass(0.14, (0.293, 1.0), (0.521, 1.0), 0.57, 0.008),
)
