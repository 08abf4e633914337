"""Moves in simulated clusters: when they are made, how many, and what they are good for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from clustersim.engine import MOVE, PLACE, Outcome, run
from clustersim.generator import Recipe, generate
from clustersim.hosts import SimulatedHosts
from clustersim.options import parse_mix
from clustersim.strategies import parse_strategy
from clustersim.workload import HostSize, Workload
from tests.placementcheck import hosts_used
from tests.simulations import HEADER, SMALL, done, workload

_DAY_S, _HOUR_S = 86_400.0, 3_600.0
HOST = HostSize(32, 131_072)
# first-fit fills the first host with 0 and 1, then 2 has a host to itself; once 0 has left, 3
# finds no room until 2 makes it
SPLIT = "0 2 4 1 1,0 - 3 1 1,1 - 3 1 1,3 - 8 1 1"


def split() -> Workload:
    return workload(*SPLIT.split(","))


def on(demands: Workload, size: HostSize, hosts: int, policy: str) -> Outcome:
    return run(demands, SimulatedHosts(size, hosts), parse_strategy(policy))


def test_a_request_waits_for_the_moves_that_make_room_for_it() -> None:
    assert on(split(), SMALL, 2, "first-fit").refused == (3,)
    outcome = on(split(), SMALL, 2, "first-fit+on-refusal")
    assert (outcome.refused, outcome.moves, outcome.moved_mib) == ((), 1, 1)
    told = [(event.time_s, event.kind, event.vm, event.row) for event in outcome.events]
    assert told[-2:] == [(3, MOVE, 1, 1), (3, PLACE, 3, 0)]


def test_what_cannot_be_made_room_for_is_refused_and_nothing_moves() -> None:
    demands = (*split(), *workload("4 - 8 1 1"))
    outcome = on(demands, SMALL, 2, "first-fit+on-refusal")
    assert (outcome.refused, outcome.moves) == ((4,), 1)


def test_moves_that_loosen_the_cluster_save_hosts() -> None:
    demands = generate(Recipe("azure2017", parse_mix("25,75,0"), seed=1))
    alone = on(demands, HOST, 22, "tight+clearing")
    outcome = on(demands, HOST, 22, "tight+on-refusal")
    assert alone.refused
    assert not outcome.refused
    times = Counter(event.time_s for event in outcome.events if event.kind == MOVE)
    assert outcome.moves == sum(times.values()) > 0
    assert max(times.values()) <= 10 + 6
    arrivals = {event.time_s for event in outcome.events if event.kind == PLACE}
    assert set(times) <= arrivals


def test_size_tells_the_moves_and_its_placements_hold(tmp_path: Path) -> None:
    trace, placements = tmp_path / "trace.csv", tmp_path / "placements.csv"
    rows = [row.replace(" 1 1", " 1024 1").replace(" - ", "  ") for row in SPLIT.split(",")]
    trace.write_text(HEADER + "\n".join(row.replace(" ", ",") for row in rows) + "\n")
    policies = "first-fit,first-fit+on-refusal"
    told = done(
        *("size", "--host=8x64", f"--trace={trace}", f"--policy={policies}", "--json"),
        f"--placements={placements}",
    )
    assert json.loads(told)["hosts"] == {"first-fit": 3, "first-fit+on-refusal": 2}
    used = hosts_used(placements.read_text(), trace.read_text(), 8, 65_536)
    assert used == {"first-fit": 3, "first-fit+on-refusal": 2}
    assert Counter(line.split(",")[2] for line in placements.read_text().splitlines())["move"] == 1


@pytest.mark.parametrize(
    ("policy", "every_s", "most_at_once"),
    [("product+hourly", _HOUR_S, 1), ("product+daily", _DAY_S, 5)],
)
def test_moves_by_the_clock_keep_to_their_credit(
    policy: str, every_s: float, most_at_once: int
) -> None:
    """5 % of some hundred VMs a day; an hour's share saved up is soon one whole move."""
    demands = generate(Recipe("ovhcloud2023", parse_mix("50,0,50"), vms=100, days=3, seed=1))
    outcome = on(demands, HOST, 14, policy)
    times = Counter(event.time_s for event in outcome.events if event.kind == MOVE)
    assert outcome.moves == sum(times.values()) > 0
    assert all(time_s % every_s == 0 for time_s in times)
    assert max(times.values()) <= most_at_once + 1
    days = Counter(time_s // _DAY_S for time_s in times.elements())
    assert max(days.values()) <= 2 * 7
    assert outcome.moved_mib == sum(
        demands[event.vm].shape.memory_mib for event in outcome.events if event.kind == MOVE
    )
    assert outcome.events == on(demands, HOST, 14, policy).events
