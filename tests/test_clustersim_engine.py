"""Who goes where in a simulation, who is refused, and what failing hosts do to them."""

from __future__ import annotations

from itertools import chain
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustersim.engine import Outage, Outcome, run
from clustersim.hosts import SimulatedHosts
from clustersim.placements import PLACEMENT_COLUMNS, placement_lines, trace_lines
from clustersim.strategies import REBALANCERS, parse_strategy
from clustersim.workload import HostSize, Workload
from schedulercommon.levels import parse_level
from schedulerglobal.core.policies import POLICIES
from schedulerglobal.core.view import Shape
from tests.placementcheck import hosts_used
from tests.simulations import SMALL, WORKLOADS, workload

STRATEGIES = [*POLICIES, *(f"best-fit+{kind}" for kind in REBALANCERS)]

STORIES: dict[str, tuple[Workload, int, list[str], list[int]]] = {
    "departures come first": (
        workload("0 10 8 64 1", "10 20 8 64 1"),
        1,
        ["0 place 0 on 0", "10 remove 0 on 0", "10 place 1 on 0", "20 remove 1 on 0"],
        [],
    ),
    "arrivals of a time in the order of the trace": (
        workload("5 - 8 1 1", "0 5 8 1 1", "5 - 1 1 1"),
        1,
        ["0 place 1 on 0", "5 remove 1 on 0", "5 place 0 on 0"],
        [2],
    ),
    "a level is shared in whole CPUs": (
        workload(*["0 - 1 1 2"] * 17),
        1,
        [f"0 place {vm} on 0" for vm in range(16)],
        [16],
    ),
    "each level rounds up by itself": (
        workload("0 - 7 1 1", "0 - 1 1 2", "0 - 1 1 3", "0 - 1 1 2"),
        1,
        ["0 place 0 on 0", "0 place 1 on 0", "0 place 3 on 0"],
        [2],
    ),
    "no VM competes with itself": (
        workload("0 - 5 1 3", "0 - 4 1 3", "0 - 6 1 3", "0 - 3 1 1"),
        1,
        ["0 place 0 on 0", "0 place 1 on 0", "0 place 2 on 0"],
        [3],
    ),
    "a level shrinks to what is left of it": (
        workload("0 1 6 1 3", "0 - 4 1 3", "0 - 3 1 1", "1 - 4 1 1"),
        1,
        ["0 place 0 on 0", "0 place 1 on 0", "1 remove 0 on 0", "1 place 3 on 0"],
        [2],
    ),
    "a level that is no whole number": (
        workload("0 - 2 1 3/2", "0 - 1 1 3/2", "0 - 6 1 1", "0 - 1 1 1"),
        1,
        ["0 place 0 on 0", "0 place 1 on 0", "0 place 2 on 0"],
        [3],
    ),
    "memory is never shared": (
        workload("0 - 1 40 3", "0 - 1 40 3", "0 - 1 24 3", "0 - 1 25 3"),
        2,
        ["0 place 0 on 0", "0 place 1 on 1", "0 place 2 on 0"],
        [3],
    ),
}


def told(outcome: Outcome) -> list[str]:
    return [f"{time_s:g} {kind} {vm} on {row}" for time_s, kind, vm, row, _ in outcome.events]


@pytest.mark.parametrize(
    ("demands", "hosts", "events", "refused"), STORIES.values(), ids=STORIES.keys()
)
def test_story(demands: Workload, hosts: int, events: list[str], refused: list[int]) -> None:
    outcome = run(demands, SimulatedHosts(SMALL, hosts), parse_strategy("first-fit"))
    assert told(outcome) == events
    assert list(outcome.refused) == refused


def test_the_first_refusal_can_end_it() -> None:
    demands = workload("0 - 8 1 1", "1 - 8 1 1", "2 - 8 1 1", "3 4 1 1 2")
    outcome = run(
        demands, SimulatedHosts(SMALL, 1), parse_strategy("first-fit"), stop_at_refusal=True
    )
    assert outcome.refused == (1,)
    assert told(outcome) == ["0 place 0 on 0"]


def test_figures_are_weighed_by_time() -> None:
    demands = workload("0 30 4 64 1", "10 40 8 32 2")
    outcome = run(demands, SimulatedHosts(SMALL, 2), parse_strategy("first-fit"))
    assert (outcome.peak_vms, outcome.peak_cpus, outcome.peak_memory_mib) == (2, 12, 96)
    assert outcome.mean_cpus == pytest.approx((4 * 10 + 12 * 20 + 8 * 10) / 40)
    assert outcome.mean_memory_mib == pytest.approx((64 * 10 + 96 * 20 + 32 * 10) / 40)


OUTAGES: dict[str, tuple[Workload, tuple[Outage, ...], float, list[str], str]] = {
    "its VMs go elsewhere, in order": (
        workload("0 - 2 1 1", "0 9 2 1 1"),
        (Outage(0, 5.0),),
        0,
        [
            *("0 place 0 on 0", "0 place 1 on 0", "5 remove 0 on 0", "5 remove 1 on 0"),
            *("5 place 0 on 1", "5 place 1 on 1", "9 remove 1 on 1"),
        ],
        "2 restarted",
    ),
    "without room they are lost": (
        workload("0 9 8 1 1", "0 9 5 1 1"),
        (Outage(0, 5.0),),
        0,
        ["0 place 0 on 0", "0 place 1 on 1", "5 remove 0 on 0", "9 remove 1 on 1"],
        "lost 0",
    ),
    "one that is away takes none": (
        workload("6 - 2 1 1", "8 - 2 1 1"),
        (Outage(0, 5.0, 8.0),),
        0,
        ["6 place 0 on 1", "8 place 1 on 1"],  # arrivals come before hosts that are ready
        "",
    ),
    "one that is back does": (
        workload("6 - 2 1 1", "9 - 2 1 1"),
        (Outage(0, 5.0, 8.0),),
        0,
        ["6 place 0 on 1", "9 place 1 on 0"],
        "",
    ),
    "but not before it has booted": (
        workload("9 - 2 1 1", "19 - 2 1 1"),
        (Outage(0, 5.0, 8.0),),
        10,
        ["9 place 0 on 1", "19 place 1 on 0"],
        "",
    ),
    "nor if it fails again meanwhile": (
        workload("19 - 2 1 1", "41 - 2 1 1"),
        (Outage(0, 5.0, 8.0), Outage(0, 9.0, 30.0)),
        10,
        ["19 place 0 on 1", "41 place 1 on 0"],
        "",
    ),
    "departures and arrivals come before failures": (
        workload("0 5 8 1 1", "5 7 8 1 1"),
        (Outage(0, 5.0),),
        0,
        [
            *("0 place 0 on 0", "5 remove 0 on 0", "5 place 1 on 0", "5 remove 1 on 0"),
            *("5 place 1 on 1", "7 remove 1 on 1"),
        ],
        "1 restarted",
    ),
}


@pytest.mark.parametrize(
    ("demands", "outages", "delay_s", "events", "what"), OUTAGES.values(), ids=OUTAGES.keys()
)
def test_outages(
    demands: Workload, outages: tuple[Outage, ...], delay_s: float, events: list[str], what: str
) -> None:
    outcome = run(
        demands,
        SimulatedHosts(SMALL, 2),
        parse_strategy("first-fit"),
        outages=outages,
        boot_delay_s=delay_s,
    )
    assert told(outcome) == events
    restarted = f"{outcome.restarted} restarted" if outcome.restarted else ""
    assert restarted + "".join(f"lost {vm}" for vm in outcome.lost) == what
    assert not outcome.refused


def test_hosts_refuse_to_be_over_committed() -> None:
    hosts = SimulatedHosts(SMALL, 2)
    one, two = parse_level("1"), parse_level("2")
    hosts.place(0, Shape(4, 60, two), 0)
    before = hosts.view.free(0)
    for shape in (Shape(1, 5, one), Shape(9, 1, two), Shape(5, 1, one)):
        with pytest.raises(ValueError, match="does not fit on host 0"):
            hosts.place(1, shape, 0)
    assert (hosts.view.free(0), hosts.cpus, hosts.memory_mib) == (before, 4, 60)
    hosts.place(1, Shape(8, 5, one), 1)
    with pytest.raises(ValueError, match="does not fit on host 1"):
        hosts.move(0, 1)
    assert hosts.row_of == {0: 0, 1: 1}
    with pytest.raises(ValueError, match="it runs"):
        hosts.place(1, Shape(1, 1, one), 0)
    hosts.fail(0)
    with pytest.raises(ValueError, match="the host is down"):
        hosts.place(2, Shape(1, 1, one), 0)
    assert (hosts.vms, hosts.cpus) == ([{}, {1: Shape(8, 5, one)}], 8)


def written(name: str, demands: Workload, outcome: Outcome) -> tuple[str, str]:
    """The placements and the trace as files would have them."""
    header = ",".join(PLACEMENT_COLUMNS) + "\n"
    return (
        "".join(chain((header,), placement_lines(name, outcome.events))),
        "".join(trace_lines(demands)),
    )


@given(WORKLOADS, st.integers(1, 5), st.sampled_from(STRATEGIES), st.integers(0, 3))
def test_no_host_is_over_committed_and_nothing_is_lost(
    demands: Workload, hosts: int, name: str, seed: int
) -> None:
    outcome = run(demands, SimulatedHosts(SMALL, hosts), parse_strategy(name), seed=seed)
    files = written(name, demands, outcome)
    used = hosts_used(*files, SMALL.cpus, SMALL.memory_mib, refused=outcome.refused)
    assert used.get(name, 0) <= hosts
    assert len(outcome.refused) == len(demands) or name in used


@st.composite
def outages(draw: st.DrawFn) -> tuple[Outage, ...]:
    """Of each host, one after another."""
    drawn = []
    for row in range(3):
        times = sorted(draw(st.sets(st.integers(0, 20), max_size=5)))
        for fails_s, returns_s in zip(times[::2], [*times[1::2], inf], strict=False):
            drawn.append(Outage(row, float(fails_s), float(returns_s)))
    return tuple(drawn)


@given(WORKLOADS, outages(), st.integers(0, 4), st.sampled_from(STRATEGIES))
def test_every_vm_is_accounted_for_when_hosts_fail(
    demands: Workload, away: tuple[Outage, ...], delay_s: int, name: str
) -> None:
    hosts = SimulatedHosts(SMALL, 3)
    outcome = run(demands, hosts, parse_strategy(name), outages=away, boot_delay_s=float(delay_s))
    files = written(name, demands, outcome)
    hosts_used(*files, SMALL.cpus, SMALL.memory_mib, refused=outcome.refused, failures=True)
    for event in outcome.events:
        if event.kind != "remove":
            assert not any(
                outage.row == event.row
                and outage.fails_s < event.time_s < outage.returns_s + delay_s
                for outage in away
            )
    gone = {
        event.vm
        for event in outcome.events
        if event.kind == "remove" and event.time_s == demands[event.vm].departure_s
    }
    ends = [set(outcome.refused), set(outcome.lost), gone, set(hosts.row_of)]
    assert sorted(chain.from_iterable(ends)) == list(range(len(demands)))


@given(WORKLOADS, st.sampled_from(STRATEGIES))
def test_empty_hosts_are_as_they_were(demands: Workload, name: str) -> None:
    hosts = SimulatedHosts(SMALL, 4)
    leaving = tuple(demand for demand in demands if not demand.stays)
    run(leaving, hosts, parse_strategy(name))
    assert (hosts.cpus, hosts.memory_mib, hosts.row_of) == (0, 0, {})
    assert [hosts.view.free(row) for row in range(4)] == [(8, 64)] * 4
    assert not any(hosts.view.levels_of(row) for row in range(4))


def test_size_of_a_host_is_used() -> None:
    demands = workload("0 - 9 65 1")
    assert run(demands, SimulatedHosts(SMALL, 3), parse_strategy("best-fit")).refused == (0,)
    assert not run(demands, SimulatedHosts(HostSize(9, 65), 1), parse_strategy("best-fit")).refused
