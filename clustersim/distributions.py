"""Published sizes of VMs, by provider, and how often kinds of VMs come and go.

azure2017: https://doi.org/10.1145/3132747.3132772; ovhcloud2023 and chameleon2020 as published
with the comparison of shared and dedicated clusters that the simulator is held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from schedulercommon.levels import gb_to_mib

Quantiles = tuple[tuple[int, float], ...]
"""Values in ascending order, each with its probability."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What VMs of a provider are like; which memory goes with which vCPUs is not published."""

    vcpus: Quantiles
    memory_mib: Quantiles


def _gb(*sizes: tuple[str, float]) -> Quantiles:
    return tuple((gb_to_mib(Fraction(size)), probability) for size, probability in sizes)


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "azure2017": Provider(
            ((1, 0.51), (2, 0.25), (4, 0.17), (8, 0.07)),
            _gb(
                *(("0.75", 0.04), ("1.75", 0.47), ("3.5", 0.25)),
                *(("7", 0.16), ("14", 0.06), ("56", 0.02)),
            ),
        ),
        "ovhcloud2023": Provider(
            ((1, 0.10), (2, 0.48), (4, 0.34), (8, 0.05), (16, 0.03)),
            _gb(
                *(("2", 0.10), ("4", 0.21), ("7", 0.27), ("8", 0.14)),
                *(("15", 0.20), ("30", 0.05), ("60", 0.03)),
            ),
        ),
        "chameleon2020": Provider(
            ((1, 0.26), (2, 0.20), (4, 0.12), (8, 0.43)),
            _gb(("0.5", 0.02), ("2", 0.24), ("4", 0.20), ("8", 0.12), ("16", 0.43)),
        ),
    }
)


def quantile(rank: float, table: Quantiles) -> int:
    """The value of *table* below which a share of *rank* lies; shares need not sum to 1."""
    rank *= sum(probability for _, probability in table)
    for value, probability in table:
        rank -= probability
        if rank < 0:
            return value
    return table[-1][0]
