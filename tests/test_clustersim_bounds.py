from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from math import ceil, inf
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from clustersim.columngeneration import column_bound
from clustersim.peaks import Peak, daily_peaks, peak
from clustersim.pricing import Pricing
from clustersim.workload import Demand, HostSize
from schedulercommon.levels import parse_level
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.view import Shape

LEVELS = [parse_level(text) for text in ("1", "4/3", "3/2", "2", "3")]


def shape(vcpus: int, memory_mib: int, level: str) -> Shape:
    return Shape(vcpus, memory_mib, parse_level(level))


def fits(shapes: Sequence[Shape], host: HostSize) -> bool:
    """A host's rules as they are written, one level after the other."""
    cpus = 0
    for level in {each.level for each in shapes}:
        vcpus = [each.vcpus for each in shapes if each.level == level]
        cpus += cpus_needed(sum(vcpus), max(vcpus), level)
    return cpus <= host.cpus and sum(each.memory_mib for each in shapes) <= host.memory_mib


def volume(shapes: Sequence[Shape], host: HostSize) -> Fraction:
    return max(
        sum((each.vcpus / each.level for each in shapes), Fraction(0)) / host.cpus,
        Fraction(sum(each.memory_mib for each in shapes), host.memory_mib),
    )


def subsets_that_fit(shapes: Sequence[Shape], host: HostSize) -> list[int]:
    return [
        chosen
        for chosen in range(1, 1 << len(shapes))
        if fits([each for place, each in enumerate(shapes) if chosen >> place & 1], host)
    ]


def fewest_hosts(shapes: Sequence[Shape], host: HostSize) -> int:
    """By trying every way to share the VMs out."""
    able = subsets_that_fit(shapes, host)

    @cache
    def fewest(left: int) -> int:
        if not left:
            return 0
        first = left & -left
        return 1 + min(
            fewest(left & ~each) for each in able if each & first and each & left == each
        )

    return fewest((1 << len(shapes)) - 1)


def fewest_with_fractions(shapes: Sequence[Shape], host: HostSize) -> float:
    """The linear programme over every pattern there is: what column generation may reach."""
    able = subsets_that_fit(shapes, host)
    matrix = np.array([[each >> place & 1 for each in able] for place in range(len(shapes))])
    solved = linprog(np.ones(len(able)), A_ub=-matrix, b_ub=-np.ones(len(shapes)))
    return float(solved.fun)


HOSTS = st.builds(HostSize, st.integers(4, 9), st.integers(8, 20))
# no VM larger than the smallest host
SHAPES = st.builds(Shape, st.integers(1, 4), st.integers(1, 8), st.sampled_from(LEVELS))


@given(st.lists(SHAPES, min_size=1, max_size=8), HOSTS)
def test_a_bound_is_one_and_the_best_of_its_kind(shapes: list[Shape], host: HostSize) -> None:
    bound = column_bound(shapes, host)
    assert volume(shapes, host) <= bound.hosts
    assert bound.whole_hosts <= fewest_hosts(shapes, host)
    assert bound.settled
    assert bound.whole_hosts == ceil(fewest_with_fractions(shapes, host) - 1e-6)


@given(st.lists(SHAPES, min_size=1, max_size=8), HOSTS, st.integers(0, 3))
def test_stopped_early_it_is_still_a_bound(
    shapes: list[Shape], host: HostSize, rounds: int
) -> None:
    bound = column_bound(shapes, host, most_rounds=rounds)
    assert bound.rounds <= rounds
    assert volume(shapes, host) <= bound.hosts <= fewest_with_fractions(shapes, host) + 1e-6


@given(st.lists(SHAPES, min_size=1, max_size=5, unique=True), HOSTS, st.data())
def test_the_dearest_pattern_is_found(
    kinds: list[Shape], host: HostSize, data: st.DataObject
) -> None:
    numbers = st.integers(0, 50)
    prices = data.draw(st.lists(numbers, min_size=len(kinds), max_size=len(kinds)))
    most = data.draw(st.lists(st.integers(1, 3), min_size=len(kinds), max_size=len(kinds)))
    worth, patterns = Pricing(kinds, most, host).dearest(prices)

    def value(pattern: Sequence[int]) -> int:
        return sum(count * price for count, price in zip(pattern, prices, strict=True))

    def vms(pattern: Sequence[int]) -> list[Shape]:
        return [kind for kind, count in zip(kinds, pattern, strict=True) for _ in range(count)]

    able = [each for each in product(*(range(n + 1) for n in most)) if fits(vms(each), host)]
    assert worth == max(map(value, able)) == value(patterns[0])
    assert set(patterns) <= set(able)


@pytest.mark.parametrize(
    ("shapes", "whole_hosts"),
    [
        ([], 0),
        ([shape(4, 1, "2")], 1),
        ([shape(3, 1, "1")] * 3, 3),
        ([shape(3, 1, "2")] * 3, 2),
        ([shape(4, 1, "2"), shape(1, 1, "3")], 2),
        ([shape(1, 6, "3")] * 3, 3),
    ],
    ids=[
        "nothing",
        "one that just fits",
        "two of 3 do not share 4 CPUs",
        "4 CPUs carry 8 vCPUs at 2",
        "the largest VM keeps its CPUs",
        "memory alone",
    ],
)
def test_what_volume_does_not_see(shapes: list[Shape], whole_hosts: int) -> None:
    host = HostSize(4, 10)
    assert column_bound(shapes, host).whole_hosts == whole_hosts == fewest_hosts(shapes, host)


def test_a_vm_no_host_takes_is_named() -> None:
    with pytest.raises(ValueError, match="no host takes Shape"):
        column_bound([shape(5, 1, "3")], HostSize(4, 10))


def test_sizes_without_a_common_unit_give_a_bound_too() -> None:
    rng = Random(4)
    shapes = [
        Shape(rng.choice((1, 2, 4, 16)), rng.randrange(500, 30_000), rng.choice(LEVELS))
        for _ in range(150)
    ]
    host = HostSize(64, 262_143)
    bound = column_bound(shapes, host, most_rounds=12)
    assert volume(shapes, host) <= bound.hosts
    assert sum(Counter(shapes).values()) == 150
    assert bound.whole_hosts <= first_fit(shapes, host)


def first_fit(shapes: Sequence[Shape], host: HostSize) -> int:
    hosts: list[list[Shape]] = []
    for each in shapes:
        found = next((there for there in hosts if fits([*there, each], host)), None)
        if found is None:
            hosts.append(found := [])
        found.append(each)
    return len(hosts)


def test_the_peak_counts_departures_first() -> None:
    host = HostSize(8, 100)
    first, second, third = shape(4, 10, "1"), shape(3, 10, "1"), shape(1, 30, "2")
    workload = (
        Demand(0.0, 10.0, first),
        Demand(10.0, inf, second),
        Demand(11.0, 12.0, third),
    )
    assert peak((), host) == Peak(0.0, ())
    assert peak(workload, host) == Peak(0.0, (0,))
    assert peak((*workload, Demand(10.0, 11.0, third)), host) == Peak(0.0, (0,))
    assert peak((*workload, Demand(10.0, 11.0, first)), host) == Peak(10.0, (1, 3))
    by_memory = (*workload, Demand(11.5, 12.0, shape(1, 70, "3")))
    assert peak(by_memory, host) == Peak(11.5, (1, 2, 3))


def test_each_day_has_a_peak() -> None:
    day_s, one = 86_400.0, shape(1, 1, "1")
    workload = (
        Demand(0.0, day_s, one),
        Demand(5.0, inf, one),
        Demand(2.5 * day_s, 2.6 * day_s, one),
        Demand(2.5 * day_s, inf, one),
        Demand(2.7 * day_s, inf, one),
        Demand(2.7 * day_s, 2.8 * day_s, one),
    )
    assert daily_peaks(workload, HostSize(8, 100)) == [
        Peak(2.7 * day_s, (1, 3, 4, 5)),
        Peak(5.0, (0, 1)),
    ]
