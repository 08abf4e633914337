"""The rules of a host's memory, and the progress and status that it tells, example by example."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from schedulercommon.balance import progress
from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.memory import choose_nodes
from schedulerlocal.core.planner import plan_deploy, plan_resize
from schedulerlocal.core.state import HostState
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.core.steps import Plan
from schedulerlocal.core.topology import Cpu, Cpus, Topology
from tests.examplehosts import ISOLATED, LAPTOP, SMALL, vm, with_vms

# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "cpus", "memory_mib", "nodes"),
    [
        ((100, 100, 100, 100), (0,), 100, [(0, 100)]),
        ((100, 100, 100, 100), (3,), 40, [(3, 40)]),
        ((100, 100, 100, 100), (0, 1, 1 + 4), 40, [(1, 40)]),
        ((100, 39, 100, 100), (0, 1, 1 + 4), 40, [(0, 40)]),
        ((50, 80, 100, 100), (0, 1), 100, [(0, 20), (1, 80)]),
        ((10, 80, 40, 500), (0, 1, 2), 100, [(1, 80), (2, 20)]),
        ((0, 100, 100, 100), (0,), 100, [(1, 100)]),
        ((-5, 100, 100, 100), (0,), 150, [(1, 100), (2, 50)]),
        ((0, 0, 60, 100), (0,), 100, [(2, 60), (3, 40)]),
        ((0, 0, 60, 100), (1, 3), 60, [(3, 60)]),
        ((30, 0, 60, 100), (0,), 50, [(0, 30), (2, 20)]),
        ((0, 0, 0, -9), (1,), 50, [(1, 50)]),
        ((0, 10, 0, -9), (0, 1), 50, [(1, 50)]),
    ],
    ids=[
        "its own node",
        "wherever that is",
        "where most of its CPUs are",
        "where there is room",
        "the fewest of its own",
        "not more than needed",
        "the nearest other",
        "the nearest others, never an overdrawn one",
        "the other socket last",
        "its own on both sides before others",
        "its own as far as that goes, then the nearest",
        "over-committed, on its own",
        "over-committed, where there was some",
    ],
)
def test_memory_is_near_its_level(
    free: tuple[int, ...], cpus: Cpus, memory_mib: int, nodes: list[tuple[int, int]]
) -> None:
    # 8 CPUs on 4 nodes, two a socket: CPU n is on node n modulo 4
    rows = {0: (10, 12, 32, 32), 1: (12, 10, 32, 32), 2: (32, 32, 10, 12), 3: (32, 32, 12, 10)}
    topology = Topology(tuple(Cpu(n, n % 4, (), (n,)) for n in range(8)), rows, 4_000, 4_000)
    chosen = choose_nodes(Host(topology), dict(enumerate(free)), cpus, memory_mib)
    assert sorted(chosen) == nodes


@pytest.mark.parametrize(
    ("by_node", "reserved_mib", "split"),
    [
        (None, 0, {0: 4_000, 1: 4_000}),
        (None, 1, {0: 3_999, 1: 4_000}),
        ({0: 2_000, 1: 6_000}, 0, {0: 2_000, 1: 6_000}),
        ({0: 2_000, 1: 6_000}, 800, {0: 1_800, 1: 5_400}),
        ({0: 7_000}, 0, {0: 8_000, 1: 0}),
        ({0: 0, 1: 0}, 0, {0: 4_000, 1: 4_000}),
    ],
)
def test_nodes_share_what_is_allowed(
    by_node: dict[int, int] | None, reserved_mib: int, split: dict[int, int]
) -> None:
    topology = replace(SMALL, node_memory_mib=by_node)
    assert Host(topology, Rules(reserved_memory_mib=reserved_mib)).node_memory_mib == split


def test_a_host_that_keeps_all_its_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="lower SCL_RESERVED_MEMORY_MIB"):
        Host(SMALL, Rules(reserved_memory_mib=8_000))


@pytest.mark.parametrize(
    ("memory_mib", "rules", "free"),
    [
        (8_000, Rules(), None),
        (8_001, Rules(), 8_000),
        (7_872, Rules(vm_overhead_mib=128), None),
        (7_873, Rules(vm_overhead_mib=128), 8_000),
        (7_000, Rules(reserved_memory_mib=1_000), None),
        (7_001, Rules(reserved_memory_mib=1_000), 7_000),
    ],
)
def test_memory_is_one_pool_never_oversubscribed(
    memory_mib: int, rules: Rules, free: int | None
) -> None:
    state = HostState(Host(SMALL, rules), {})
    outcome = plan_deploy(state, vm("a", 1, "64", memory_mib))
    if free is None:
        assert isinstance(outcome, Plan)
        assert outcome.after.free_memory_mib == 0
    else:
        asked = memory_mib + rules.vm_overhead_mib
        assert outcome == Rejection("memory_mib", asked=asked, free=free)
        assert outcome.sentence == (
            f"no room: it needs {asked} more MiB of memory and {free} are free"
        )


def test_a_vm_counts_with_its_boot_maximum() -> None:
    big = replace(vm("a", memory_mib=1_000), max_memory_mib=5_000)
    state = with_vms(Host(SMALL), big)
    assert state.free_memory_mib == 3_000
    less = plan_resize(state, "a", memory_mib=500)
    assert isinstance(less, Plan)
    assert less.after.free_memory_mib == 3_000
    more = plan_resize(state, "a", memory_mib=6_000)
    assert isinstance(more, Plan)
    assert more.after.free_memory_mib == 2_000
    assert more.after.vm("a").spec.max_memory_mib == 6_000
    assert plan_resize(state, "a", memory_mib=8_001) == Rejection("memory_mib", 3_001, 3_000)


def test_memory_stays_where_it_is_when_a_vm_grows() -> None:
    state = with_vms(Host(SMALL), vm("a", memory_mib=1_000))
    assert state.vm("a").memory_nodes == ((0, 1_000),)
    grown = plan_resize(state, "a", memory_mib=3_500)
    assert isinstance(grown, Plan)
    assert grown.after.vm("a").memory_nodes == ((0, 3_500),)
    over = plan_resize(state, "a", memory_mib=4_500)
    assert isinstance(over, Plan)
    assert over.after.vm("a").memory_nodes == ((0, 4_000), (1, 500))
    again = plan_resize(over.after, "a", memory_mib=4_600)
    assert isinstance(again, Plan)
    assert again.after.vm("a").memory_nodes == ((0, 4_000), (1, 600))
    moved = plan_resize(over.after, "a", vcpus=2)
    assert isinstance(moved, Plan)
    assert moved.after.vm("a").memory_nodes == ((0, 4_000), (1, 500))


# --- progress and status -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allocated", "asked", "expected"),
    [
        ((0, 0), (1, 100), 0.0),
        ((0, 0), (1, 150), -50.0),
        ((2, 100), (1, 200), 50.0),
        ((2, 100), (2, 100), 0.0),
        ((2, 200), (0, 100), -60.0),
        ((5, 600), (1, 0), 20.0),
        ((5, 500), (5, 0), -75.0),
        ((10, 1_000), (0, 100), -20.0),
    ],
    ids=[
        "an empty host is ideal, and stays so",
        "an empty host, worse, has no penalty",
        "towards the ideal",
        "no nearer",
        "away from it, times 1 + c/C",
        "too much memory is mended by a CPU",
        "half-full: one and a half times",
        "full: twice",
    ],
)
def test_progress_is_the_published_formula(
    allocated: tuple[int, int], asked: tuple[int, int], expected: float
) -> None:
    found = progress(
        capacity_cpus=10,
        capacity_memory_mib=1_000,
        allocated_cpus=allocated[0],
        allocated_memory_mib=allocated[1],
        gained_cpus=asked[0],
        vm_memory_mib=asked[1],
    )
    assert found == pytest.approx(expected, rel=1e-15)


def test_progress_of_nothing_on_nothing_is_none() -> None:
    nothing = {"allocated_cpus": 0, "allocated_memory_mib": 0, "gained_cpus": 0, "vm_memory_mib": 0}
    assert progress(capacity_cpus=2, capacity_memory_mib=9, **nothing) == 0


def test_progress_answers_for_a_vm_that_does_not_fit() -> None:
    state = with_vms(Host(SMALL), vm("a", 8, "1", 4_000))
    # ideal 1000; now 500; 9000 MiB on 12 CPUs would be 750
    assert deploy_progress(state, 4, 5_000, Fraction(2)) == 250.0
    isolated = with_vms(Host(LAPTOP, ISOLATED), vm("a", 8, "1", 15_888))
    assert deploy_progress(isolated, 4, 1, Fraction(1)) < 0


@pytest.mark.parametrize(
    ("rules", "specs", "status"),
    [
        (
            Rules(),
            [],
            {"cpu": {"avail": 8, "subset": {}}, "mem": {"avail": 31_776, "subset": {}}},
        ),
        (
            Rules(),
            [vm("a", 2, "2", 2_048)],
            {
                "cpu": {
                    "avail": 6,
                    "subset": {"2.0": {"pcap": 2, "palloc": 2, "vavail": 2.0, "vpotential": 12.0}},
                },
                "mem": {
                    "avail": 29_728,
                    "subset": {
                        "1": {"pcap": 2_048, "palloc": 2_048, "vavail": 0, "vpotential": 29_728}
                    },
                },
            },
        ),
        (
            Rules(vm_overhead_mib=128, reserved_memory_mib=1_000),
            [vm("b", 3, "4/3", 1_000), vm("a", 1, "1.1", 2_000)],
            {
                "cpu": {
                    "avail": 4,
                    "subset": {
                        "1.1": {"pcap": 1, "palloc": 1, "vavail": 0.1, "vpotential": 4.4},
                        "4/3": {"pcap": 3, "palloc": 3, "vavail": 1.0, "vpotential": 16 / 3},
                    },
                },
                "mem": {
                    "avail": 27_520,
                    "subset": {
                        "1": {"pcap": 3_256, "palloc": 3_256, "vavail": 0, "vpotential": 27_520}
                    },
                },
            },
        ),
    ],
    ids=["nothing runs", "as documented", "overhead, reserve, odd levels"],
)
def test_the_status_is_the_published_one(
    rules: Rules, specs: list[VmSpec], status: dict[str, object]
) -> None:
    state = with_vms(Host(LAPTOP, rules), *specs)
    assert published_status(state) == status
    assert list(published_status(state)["cpu"]["subset"]) == sorted(
        published_status(state)["cpu"]["subset"]
    )
