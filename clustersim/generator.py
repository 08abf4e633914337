"""Makes workloads: VMs of published sizes that come and go, drawn from a seed.

As many VMs as asked for run to begin with. They leave and others arrive in the same measure, each
kind of VM at its own published pace, so that the number of VMs stays about the same. Providers and
mixes of levels draw by themselves, also from one seed: a mean over mixes then is one over draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import inf, pi, sin, sqrt
from random import Random
from statistics import NormalDist

from clustersim.distributions import PROVIDERS, Provider, quantile
from clustersim.workload import Demand, Workload
from schedulercommon.levels import Level, parse_level
from schedulerglobal.core.view import Shape
from schedulerlocal.core.usageclasses import USAGE, UsageClass

LEVELS: tuple[Level, ...] = tuple(map(parse_level, ("1", "2", "3")))
DAY_S = 86_400.0
TURNOVER = 0.4
RANK_CORRELATION = 1.0
"""Providers sell flavours, in which memory goes with the vCPUs, and their published shares say so:
10, 58, 92 and 97 % of ovhcloud2023's VMs have up to 1, 2, 4 and 8 vCPUs, and as many have up to 2,
7, 15 and 30 GB, which sizes drawn apart would not. So it is with chameleon2020 and, but for
rounding, with azure2017."""

_TICKS_PER_S = 1_000  # times are whole milliseconds, which decimals and floats both hold
_MEAN_TURNOVER = sum(kind.share * kind.turnover for kind in USAGE) / sum(
    kind.share for kind in USAGE
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to draw."""

    provider: str
    """One of :data:`clustersim.distributions.PROVIDERS`."""
    mix: tuple[Fraction, ...]
    """Shares of the VMs, of 1, for each of :data:`LEVELS`."""
    vms: int = 500
    """To begin with, and on average."""
    days: float = 7.0
    seed: int = 0
    turnover: float = TURNOVER
    """Arrivals, and departures, a day for each VM."""
    correlation: float = RANK_CORRELATION
    """Of the ranks of vCPUs and memory, from -1 to 1 (Spearman's, before sizes are rounded to
    those on offer)."""


def generate(recipe: Recipe) -> Workload:
    """In order of arrival. VMs that would leave after the last day stay."""
    # a text as seed is hashed in the same way everywhere
    mix = ",".join(map(str, recipe.mix))
    rng = Random(f"{recipe.provider} {mix} {recipe.seed}")
    provider = PROVIDERS[recipe.provider]
    end_s = recipe.days * DAY_S
    pace = recipe.turnover / _MEAN_TURNOVER / DAY_S
    shapes: dict[Shape, Shape] = {}
    # of VMs that run to begin with, kinds are as frequent as they are; of those that arrive, kinds
    # that come and go quickly are more so
    alive = [kind.share for kind in USAGE]
    arriving = [kind.share * kind.turnover for kind in USAGE]

    def demand(arrival_s: float, weights: list[float]) -> Demand:
        kind = rng.choices(USAGE, weights)[0]
        drawn = _shape(rng, provider, recipe)
        stays_s = _lifetime_s(rng, kind, pace)
        departure_s = _rounded(arrival_s + stays_s) if stays_s < inf else inf
        departure_s = max(departure_s, _rounded(arrival_s + 1 / _TICKS_PER_S))
        return Demand(
            arrival_s, departure_s if departure_s <= end_s else inf, shapes.setdefault(drawn, drawn)
        )

    demands = [demand(0.0, alive) for _ in range(recipe.vms)]
    arrivals_per_s = recipe.vms * recipe.turnover / DAY_S
    now_s = rng.expovariate(arrivals_per_s) if arrivals_per_s else inf
    while now_s < end_s:
        demands.append(demand(_rounded(now_s), arriving))
        now_s += rng.expovariate(arrivals_per_s)
    return tuple(demands)


def _shape(rng: Random, provider: Provider, recipe: Recipe) -> Shape:
    """Sizes of the wanted rank correlation (a Gaussian copula), and a level."""
    normal = NormalDist()
    # Pearson, 1907: of normal deviates, a rank correlation of ρ is a linear one of 2 sin(πρ/6)
    linear = 2 * sin(pi * recipe.correlation / 6)
    first, other = rng.gauss(0, 1), rng.gauss(0, 1)
    second = linear * first + sqrt(max(0.0, 1 - linear**2)) * other
    rank = rng.random()
    level = LEVELS[-1]
    below = Fraction(0)
    for each, share in zip(LEVELS, recipe.mix, strict=True):
        below += share
        if rank < below:
            level = each
            break
    return Shape(
        quantile(normal.cdf(first), provider.vcpus),
        quantile(normal.cdf(second), provider.memory_mib),
        level,
    )


def _lifetime_s(rng: Random, kind: UsageClass, pace: float) -> float:
    departures_per_s = kind.turnover * pace
    return rng.expovariate(departures_per_s) if departures_per_s else inf


def _rounded(time_s: float) -> float:
    return round(time_s * _TICKS_PER_S) / _TICKS_PER_S
