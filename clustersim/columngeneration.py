"""How few hosts a set of VMs needs at least: column generation, with every rule of a host.

A pattern is what one host takes together. The linear programme that covers all VMs with patterns
has one dual price per shape; any prices, divided by what the dearest pattern is worth, prove a
bound (Farley, 1990), so stopping early still proves one. Pricing is exact: prices are rounded down
to integers, and the dearest pattern is found by :mod:`clustersim.pricing` without rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.pricing import Pattern, Pricing, least_shares
from clustersim.workload import HostSize
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.view import Shape

Prices = NDArray[np.float64]

MOST_ROUNDS = 400
_SCALE = 1_000_000_000  # prices become integers; what rounding down loses is a billionth of a host
_TOLERANCE = 1e-7
_SMOOTHING = 0.6
"""The share of the best prices so far in those priced next: prices of few patterns swing wildly."""


@dataclass(frozen=True, slots=True)
class SnapshotBound:
    """No fewer hosts than ``hosts`` hold the VMs together."""

    hosts: Fraction
    """Proven; whole hosts are this rounded up."""
    rounds: int
    """How many times prices were tried."""
    settled: bool
    """Whether more rounds could not raise it by a whole host."""

    @property
    def whole_hosts(self) -> int:
        return ceil(self.hosts)


def column_bound(
    shapes: Sequence[Shape], host: HostSize, most_rounds: int = MOST_ROUNDS
) -> SnapshotBound:
    """A bound on the hosts that hold *shapes* at once; never below the volume bound.

    Raises ValueError for a VM that no host takes.
    """
    counts = Counter(shapes)
    kinds = tuple(sorted(counts, key=lambda kind: (kind.level, kind.vcpus, kind.memory_mib)))
    for kind in kinds:
        if cpus_needed(kind.vcpus, kind.vcpus, kind.level) > host.cpus or (
            kind.memory_mib > host.memory_mib
        ):
            raise ValueError(f"no host takes {kind}")
    if not kinds:
        return SnapshotBound(Fraction(0), 0, settled=True)
    wanted = np.array([counts[kind] for kind in kinds], dtype=np.int64)
    return _generate(kinds, wanted, host, most_rounds)


def _generate(
    kinds: tuple[Shape, ...], wanted: NDArray[np.int64], host: HostSize, most_rounds: int
) -> SnapshotBound:
    pricing = Pricing(kinds, wanted.tolist(), host)
    by_cpus, by_memory = least_shares(kinds, host)
    volumes = [
        sum((n * share for n, share in zip(wanted.tolist(), each, strict=True)), Fraction(0))
        for each in (by_cpus, by_memory)
    ]
    best = max(volumes)
    centre: Prices = np.array((by_cpus, by_memory)[volumes[1] > volumes[0]], dtype=np.float64)
    columns = _Columns(wanted)
    smoothing = 1.0  # the first prices are those of the volume bound
    rounds = 0
    while rounds < most_rounds:
        cost, dual = columns.solve()
        if ceil(best) >= ceil(cost - _TOLERANCE):
            return SnapshotBound(best, rounds, settled=True)
        rounds += 1
        prices = smoothing * centre + (1 - smoothing) * dual
        whole = np.floor(prices * _SCALE).astype(np.int64)
        worth, patterns = pricing.dearest(whole.tolist())
        proven = Fraction(int(whole @ wanted), worth) if worth else Fraction(0)
        if proven > best:
            best, centre = proven, prices
        fresh = columns.add(patterns)
        if not fresh and smoothing == 0.0:
            # no pattern is missing: only rounding keeps the two apart
            return SnapshotBound(best, rounds, settled=ceil(best) >= ceil(cost - _TOLERANCE))
        smoothing = _SMOOTHING if fresh else 0.0
    return SnapshotBound(best, rounds, settled=False)


class _Columns:
    """The patterns found so far, and the linear programme over them."""

    def __init__(self, wanted: NDArray[np.int64]) -> None:
        self._wanted = wanted
        self._seen: set[Pattern] = set()
        self._patterns: list[Pattern] = []
        kinds = len(wanted)
        self.add([tuple(int(row == kind) for row in range(kinds)) for kind in range(kinds)])

    def add(self, patterns: Sequence[Pattern]) -> int:
        """How many of them are new."""
        new = [each for each in dict.fromkeys(patterns) if each not in self._seen]
        self._seen.update(new)
        self._patterns += new
        return len(new)

    def solve(self) -> tuple[float, Prices]:
        """The least hosts, fractions allowed, and what one VM of each shape adds to them."""
        from scipy.optimize import linprog

        matrix = np.array(self._patterns, dtype=np.float64).T
        solved: Any = linprog(
            np.ones(matrix.shape[1]), A_ub=-matrix, b_ub=-self._wanted, method="highs"
        )
        prices: Prices = np.maximum(-solved.ineqlin.marginals, 0.0)
        return float(solved.fun), prices
