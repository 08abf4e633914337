"""What was published of 30 workloads: hosts needed with the levels apart, and sharing hosts.

Hosts of 32 CPUs and 128 GB, 500 VMs to begin with, 7 days; the least number of hosts on which
nothing was refused. The VMs drawn were not published, so hosts are not to be compared, but what
sharing saves is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from schedulercommon.levels import format_level

Mix = tuple[Fraction, ...]
"""Shares of the VMs, of 1, at levels 1, 2 and 3."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    workload: str
    mix: Mix
    dedicated: int
    """Hosts with one cluster for each level."""
    shared: int

    @property
    def saving(self) -> float:
        """The share of the hosts that sharing does without."""
        return 1 - self.shared / self.dedicated


def percents(mix: Mix) -> str:
    """As users write it: ``25,50,25``."""
    return ",".join(format_level(share * 100).removesuffix(".0") for share in mix)


def _of(workload: str, *rows: tuple[tuple[int, int, int], int, int]) -> tuple[PublishedRow, ...]:
    return tuple(
        PublishedRow(
            workload, tuple(Fraction(percent, 100) for percent in per_cent), dedicated, shared
        )
        for per_cent, dedicated, shared in rows
    )


PUBLISHED: tuple[PublishedRow, ...] = (
    *_of(
        "ovhcloud2023",
        ((0, 0, 100), 54, 54),
        ((0, 25, 75), 56, 54),
        ((0, 50, 50), 57, 54),
        ((0, 75, 25), 58, 56),
        ((0, 100, 0), 61, 61),
        ((25, 0, 75), 70, 64),
        ((25, 25, 50), 71, 66),
        ((25, 50, 25), 75, 70),
        ((25, 75, 0), 73, 71),
        ((50, 0, 50), 83, 75),
        ((50, 25, 25), 87, 81),
        ((50, 50, 0), 86, 85),
        ((75, 0, 25), 94, 89),
        ((75, 25, 0), 97, 97),
        ((100, 0, 0), 110, 110),
    ),
    *_of(
        "azure2017",
        ((0, 0, 100), 31, 31),
        ((0, 25, 75), 34, 31),
        ((0, 50, 50), 35, 32),
        ((0, 75, 25), 36, 34),
        ((0, 100, 0), 39, 39),
        ((25, 0, 75), 41, 38),
        ((25, 25, 50), 46, 43),
        ((25, 50, 25), 45, 43),
        ((25, 75, 0), 48, 47),
        ((50, 0, 50), 53, 51),
        ((50, 25, 25), 56, 54),
        ((50, 50, 0), 60, 59),
        ((75, 0, 25), 66, 64),
        ((75, 25, 0), 66, 65),
        ((100, 0, 0), 76, 76),
    ),
)

BY_MIX: Mapping[tuple[str, Mix], PublishedRow] = MappingProxyType(
    {(row.workload, row.mix): row for row in PUBLISHED}
)
