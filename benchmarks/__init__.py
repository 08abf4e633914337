"""Timed promises: each module here measures some figures that have a bound.

To add one, write a module with ``run(progress) -> list[Figure]`` and name it in ``BENCHMARKS``,
or in ``ON_DEMAND``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BENCHMARKS = (
    "planning",
    "placement",
    "packing",
    "replay",
    "churn",
    "requests",
    "start",
    "stats",
    "cluster",
    "polling",
    "faultyhosts",
    "crashes",
)
ON_DEMAND = ("hypervisor", "repin", "chaos")
"""Run only when named: the first two want libvirt, one of them root too; the last takes long."""

Progress = Callable[[str], None]
"""Told in a few words what is being measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    measured: float
    unit: str
    bound: float | None = None
    """In the same unit; None where nothing is promised."""
    at_least: bool = False
    """Whether more is better: the bound is the least it may be, not the most."""

    @property
    def holds(self) -> bool:
        if self.bound is None:
            return True
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound
