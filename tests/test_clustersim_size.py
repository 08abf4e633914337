"""How many hosts: the search, the bound, and the files that prove it to whoever doubts."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustersim.bounds import volume_bound
from clustersim.engine import run
from clustersim.hosts import SimulatedHosts
from clustersim.placements import PLACEMENT_COLUMNS, placement_lines, trace_lines
from clustersim.size import FILLING, least_hosts
from clustersim.strategies import DEFAULT, REBALANCERS, parse_strategy
from clustersim.workload import HostSize, Workload
from schedulerglobal.core.policies import POLICIES
from tests.placementcheck import hosts_used, volume
from tests.simulations import HEADER, SMALL, WORKLOADS, done, workload

NAMES = ["dedicated", *POLICIES, *(f"first-fit+{kind}" for kind in REBALANCERS)]
DRAWN = ("--workload=ovhcloud2023", "--mix=50,0,50", "--vms=40", "--days=2")


def csv_of(demands: Workload) -> str:
    return "".join(trace_lines(demands))


@given(WORKLOADS, st.sampled_from(NAMES))
def test_it_is_the_least_number_and_the_placements_prove_it(demands: Workload, name: str) -> None:
    sized = least_hosts(demands, SMALL, name)
    lines = [",".join(PLACEMENT_COLUMNS) + "\n", *placement_lines(name, sized.events)]
    used = hosts_used("".join(lines), csv_of(demands), SMALL.cpus, SMALL.memory_mib)
    assert used.keys() == {name}
    assert used[name] <= sized.hosts
    assert {event.row for event in sized.events} <= set(range(sized.hosts))
    bound = volume(csv_of(demands), SMALL.cpus, SMALL.memory_mib)
    if name == "dedicated":
        assert sized.hosts >= bound
        return
    for hosts in range(ceil(bound), sized.hosts):
        assert run(demands, SimulatedHosts(SMALL, hosts), parse_strategy(name)).refused
    again = run(demands, SimulatedHosts(SMALL, sized.hosts), parse_strategy(name))
    assert (again.refused, again.events) == ((), sized.events)


@given(WORKLOADS)
def test_the_bound_is_the_worst_moment(demands: Workload) -> None:
    expected = volume(csv_of(demands), SMALL.cpus, SMALL.memory_mib)
    assert volume_bound(demands, SMALL) == float(expected)


@given(WORKLOADS)
def test_dedicated_is_first_fit_on_each_level(demands: Workload) -> None:
    levels = sorted({demand.shape.level for demand in demands})
    parts = [tuple(demand for demand in demands if demand.shape.level == level) for level in levels]
    hosts = [least_hosts(part, SMALL, "first-fit").hosts for part in parts]
    sized = least_hosts(demands, SMALL, "dedicated")
    assert sized.hosts == sum(hosts)
    for event in sized.events:
        cluster = levels.index(event.level)
        assert sum(hosts[:cluster]) <= event.row < sum(hosts[: cluster + 1])


def test_more_hosts_are_not_tried_for_who_fills_them() -> None:
    """Whoever is in the list saves most of the search; the tests above hold it to account."""
    assert {"first-fit", "best-fit"} <= FILLING <= POLICIES.keys()


TABLE: dict[str, tuple[Workload, float, dict[str, int]]] = {
    "shared levels share the hosts": (
        workload("0 - 4 8 1", "0 - 4 8 2", "0 - 4 8 2"),
        1.0,
        {"dedicated": 2, "first-fit": 1, "best-fit": 1},
    ),
    "one after the other": (
        workload(*(f"{time} {time + 1} 8 64 1" for time in range(9))),
        1.0,
        {"dedicated": 1, "first-fit": 1, "progress": 1},
    ),
    "holes too small": (
        workload("0 - 5 1 1", "0 - 5 1 1", "0 - 5 1 1"),
        15 / 8,
        {"first-fit": 3, "best-fit": 3, "n_by_hosts": 3},
    ),
    "two ways to choose": (
        # the last two fit together only on a host that nobody was put on before
        workload("0 - 3 1 1", "0 1 3 1 1", "0 - 3 1 1", "1 - 5 1 1", "1 - 5 1 1"),
        2.0,
        {"first-fit": 2, "n_by_hosts": 3},
    ),
}


@pytest.mark.parametrize(("demands", "bound", "hosts"), TABLE.values(), ids=TABLE.keys())
def test_table(demands: Workload, bound: float, hosts: dict[str, int], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(csv_of(demands))
    policies = f"--policy={','.join(hosts)}"
    host = f"--host={SMALL.cpus}x{SMALL.memory_mib / 1024}"
    answer = done("size", f"--trace={trace}", host, policies, "--json")
    assert json.loads(answer) == {"bound": bound, "hosts": hosts}
    assert answer == json.dumps({"bound": bound, "hosts": hosts}) + "\n"


def test_a_generated_workload_is_sized_the_same_from_its_trace(tmp_path: Path) -> None:
    trace, direct, again = tmp_path / "t.csv", tmp_path / "direct.csv", tmp_path / "again.csv"
    done("generate", *DRAWN, "--seed=5", f"--output={trace}")
    answer = done("size", *DRAWN, "--seed=5", "--json", f"--placements={direct}")
    assert done("size", f"--trace={trace}", "--json", f"--placements={again}") == answer
    assert direct.read_bytes() == again.read_bytes()
    hosts = json.loads(answer)["hosts"]
    assert tuple(hosts) == DEFAULT
    used = hosts_used(direct.read_text(), trace.read_text(), 32, 128 * 1024)
    assert used.keys() == hosts.keys()
    assert all(used[policy] <= hosts[policy] for policy in hosts)
    bound = json.loads(answer)["bound"]
    assert bound == float(volume(trace.read_text(), 32, 128 * 1024))
    assert min(hosts.values()) >= bound


def test_people_see_a_table() -> None:
    shown = done("size", *DRAWN, "--policy=dedicated,best-fit").splitlines()
    bound = json.loads(done("size", *DRAWN, "--policy=dedicated,best-fit", "--json"))
    assert f"{bound['bound']:.2f} hosts, that is {ceil(bound['bound'])}" in shown[1]
    for policy, hosts in bound["hosts"].items():
        row = next(line for line in shown if line.startswith(policy)).split()
        assert row[1] == str(hosts)
        assert float(row[2]) == pytest.approx((hosts / ceil(bound["bound"]) - 1) * 100, abs=0.06)


def test_levels_are_printed_as_elsewhere(tmp_path: Path) -> None:
    trace, placements = tmp_path / "t.csv", tmp_path / "new" / "p.csv"
    trace.write_text(HEADER + "0,,1,1,4/3\n0.25,1e1,1,1,1.50\n")
    done("size", f"--trace={trace}", "--policy=best-fit", f"--placements={placements}")
    assert placements.read_text() == (
        "policy,time_s,event,vm,host,level\n"
        "best-fit,0,place,0,0,4/3\n"
        "best-fit,0.25,place,1,0,1.5\n"
        "best-fit,10,remove,1,0,1.5\n"
    )


def test_run_tells_what_became_of_the_vms(tmp_path: Path) -> None:
    trace, placements = tmp_path / "t.csv", tmp_path / "p.csv"
    trace.write_text(HEADER + "0,,8,1024,1\n0,90,8,1024,1\n5,,8,1024,1\n")
    command = ("run", f"--trace={trace}", "--host=8x4", "--hosts=2", "--policy=first-fit")
    away = ("--outages=0@20-30", "--boot-delay=5", f"--placements={placements}")
    figures = json.loads(done(*command, *away, "--json"))
    assert figures["refused"] == [2]
    assert figures["lost"] == [0]
    assert (figures["peak_vms"], figures["peak_cpus"], figures["peak_memory_mib"]) == (2, 16, 2048)
    assert figures["mean_cpu_share"] == pytest.approx((20 + 90) / 2 / 90)
    rows = placements.read_text().splitlines()[1:]
    assert [",".join(row.split(",")[1:5]) for row in rows] == [
        *("0,place,0,0", "0,place,1,1", "20,remove,0,0", "90,remove,1,1")
    ]
    shown = done(*command, *away)
    for words in ("3 VMs, 1 refused, first VM 2 at 5 s", "1 lost", "16 of 16 CPUs (100.0 %)"):
        assert words in shown


def test_a_host_of_odd_size() -> None:
    assert json.loads(done("size", *DRAWN, "--host=24x192.5", "--policy=first-fit", "--json"))[
        "hosts"
    ]
    assert volume_bound(workload("0 - 1 1 1"), HostSize(3, 7)) == 1 / 3
