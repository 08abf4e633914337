"""Timed promises: each module here measures some figures that have a bound.

To add one, write a module with ``run(progress) -> list[Figure]`` and name it in ``BENCHMARKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BENCHMARKS = ("planning", "replay", "churn", "requests", "start")

Progress = Callable[[str], None]
"""Told in a few words what is being measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    measured: float
    unit: str
    bound: float | None = None
    """At most this, in the same unit; None where nothing is promised."""

    @property
    def holds(self) -> bool:
        return self.bound is None or self.measured <= self.bound
