"""How long VMs wait for CPUs, worked out from their counters."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulerlocal.core.waiting import (
    BAD_AT,
    LEAST_CPUS,
    WARNING_AT,
    Crowding,
    Demand,
    VcpuTime,
    crowded,
    crowding,
    crowding_sentence,
    demand,
    share_waited,
    waiting,
)

CALM, WARNING, BAD = Crowding.CALM, Crowding.WARNING, Crowding.BAD
ONE, TWO, THREE = Fraction(1), Fraction(2), Fraction(3)

seconds = st.floats(0, 1e7)
counters = st.dictionaries(st.integers(0, 8), st.builds(VcpuTime, seconds, seconds))
demands = st.lists(st.builds(Demand, st.floats(0, 1e4), st.floats(0, 1e4)), max_size=40)


@pytest.mark.parametrize(
    ("before", "now", "throttled_s", "wanted"),
    [
        ({0: (1, 2)}, {0: (4, 3)}, 0, (3, 1)),
        ({0: (1, 0), 1: (1, 0)}, {0: (2, 1), 1: (3, 2)}, 0, (3, 3)),
        ({0: (1, 1)}, {0: (1, 1)}, 0, (0, 0)),
        ({0: (1, 0)}, {0: (3, 5)}, 3.5, (2, 1.5)),
        ({0: (1, 0)}, {0: (3, 5)}, 6, (2, 0)),
        ({0: (1, 0)}, {0: (3, 5)}, -6, (2, 5)),
        ({0: (1, 1)}, {0: (2, 2), 1: (7, 7)}, 0, (1, 1)),
        ({0: (1, 1), 3: (9, 9)}, {0: (2, 2), 3: (0, 0)}, 0, (1, 1)),
        ({0: (1, 9)}, {0: (2, 8)}, 0, None),
        ({0: (9, 1)}, {0: (8, 2)}, 0, None),
        ({}, {0: (8, 2)}, 0, None),
        ({0: (8, 2)}, {}, 0, None),
        ({0: (8, 2)}, {1: (8, 2)}, 0, None),
    ],
    ids=[
        *("ran and waited", "vCPUs together", "slept", "own quota", "only quota", "quota anew"),
        *("plugged in", "given up", "booted anew", "migrated here", "first sight", "untold"),
        "renumbered",
    ],
)
def test_what_vcpus_wanted(
    before: dict[int, tuple[float, float]],
    now: dict[int, tuple[float, float]],
    throttled_s: float,
    wanted: tuple[float, float] | None,
) -> None:
    then, after = ({vcpu: VcpuTime(*each) for vcpu, each in told.items()} for told in (before, now))
    assert demand(then, after, throttled_s) == (Demand(*wanted) if wanted else None)


@pytest.mark.parametrize(
    ("vms", "share", "p95"),
    [
        ([], 0, 0),
        ([(5, 5)], 0.5, 0.5),
        ([(9, 1), (1, 9)], 0.5, 0.9),
        ([(10, 0), (0.05, 0.05)], 0, 0),
        ([(10, 0), (0, 10)], 0.5, 1),
        ([(9, 0)] * 19 + [(0, 9)], 0.05, 0),
        ([(9, 0)] * 18 + [(0, 9)] * 2, 0.1, 1),
        ([(0, 0)], 0, 0),
    ],
    ids=["none", "one", "two", "an idle one", "starved", "one in 20", "two in 20", "asleep"],
)
def test_vms_together(vms: list[tuple[float, float]], share: float, p95: float) -> None:
    found = waiting([Demand(*each) for each in vms], elapsed_s=10)
    assert (found.share, found.p95) == (pytest.approx(share), pytest.approx(p95))


@given(counters, counters, st.floats(-1e7, 1e7))
def test_whatever_counters_do(
    before: dict[int, VcpuTime], now: dict[int, VcpuTime], throttled_s: float
) -> None:
    wanted = demand(before, now, throttled_s)
    if wanted is None:
        risen = [
            vcpu
            for vcpu in before.keys() & now.keys()
            if now[vcpu].ran_s >= before[vcpu].ran_s and now[vcpu].waited_s >= before[vcpu].waited_s
        ]
        assert not risen
        return
    assert wanted.ran_s >= 0
    assert wanted.waited_s >= 0
    assert 0 <= share_waited(wanted, 15) <= 1


@given(demands, st.floats(0.001, 1e4))
def test_a_level_waits_as_its_vms_do(vms: list[Demand], elapsed_s: float) -> None:
    found = waiting(vms, elapsed_s)
    counted = [each for each in vms if each.wanted_s > LEAST_CPUS * elapsed_s]
    shares = [share_waited(each, elapsed_s) for each in counted] or [0.0]
    slack = 1e-9
    assert min(shares) - slack <= found.share <= max(shares) + slack
    assert found.p95 in shares
    assert sum(share > found.p95 for share in shares) <= len(shares) * 0.05
    assert waiting(list(reversed(vms)), elapsed_s).p95 == found.p95
    assert waiting([*vms, Demand(0, 0)], elapsed_s) == found


@given(st.lists(st.floats(0, 1)))
def test_crowding_follows_the_share(shares: list[float]) -> None:
    state = CALM
    for share in shares:
        state = crowding(share, state)
        if share >= BAD_AT:
            assert state is BAD
        elif share >= WARNING_AT:
            assert state is not CALM
        elif share < WARNING_AT * 0.8:
            assert state is CALM
        assert crowding(share, state) is state


@pytest.mark.parametrize(
    ("shares", "states"),
    [
        ([0.04, 0.05, 0.045, 0.039], [CALM, WARNING, WARNING, CALM]),
        ([0.10, 0.09, 0.079, 0.09, 0.10], [BAD, BAD, WARNING, WARNING, BAD]),
        ([0.5, 0.0], [BAD, CALM]),
    ],
    ids=["warning", "bad", "at once"],
)
def test_a_level_at_the_border_does_not_flicker(
    shares: list[float], states: list[Crowding]
) -> None:
    state, seen = CALM, []
    for share in shares:
        state = crowding(share, state)
        seen.append(state)
    assert seen == states


def test_levels_that_are_crowded() -> None:
    assert crowded({}, {ONE: 0.0, TWO: 0.06, THREE: 0.2}) == {TWO: WARNING, THREE: BAD}
    # untold stays as it was, a level that ended is gone
    assert crowded({ONE: BAD, TWO: WARNING}, {TWO: None, THREE: None}) == {TWO: WARNING}


def test_a_sentence_for_each() -> None:
    told = crowding_sentence(TWO, WARNING), crowding_sentence(TWO, BAD)
    assert all("level 2.0" in each for each in told)
    assert "5%" in told[0]
    assert "10%" in told[1]
