"""Generated workloads: the published statistics, and one seed, one file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from clustersim.distributions import PROVIDERS
from clustersim.generator import DAY_S, Recipe, generate
from clustersim.tracefile import read_trace
from clustersim.workload import Workload
from tests.simulations import done

MIX = (Fraction(1, 2), Fraction(1, 10), Fraction(2, 5))


def drawn(provider: str = "ovhcloud2023", **settings: float) -> Workload:
    return generate(Recipe(provider, MIX, **{"vms": 4_000, "days": 2.0, **settings}))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_sizes_and_levels_are_as_frequent_as_published(provider: str) -> None:
    demands = drawn(provider)
    published = PROVIDERS[provider]
    for table, sizes in (
        (published.vcpus, Counter(demand.shape.vcpus for demand in demands)),
        (published.memory_mib, Counter(demand.shape.memory_mib for demand in demands)),
    ):
        total = sum(probability for _, probability in table)
        assert sizes.keys() == {value for value, _ in table}
        for value, probability in table:
            assert sizes[value] / len(demands) == pytest.approx(probability / total, abs=0.025)
    levels = Counter(demand.shape.level for demand in demands)
    for level, share in zip((1, 2, 3), MIX, strict=True):
        assert levels[Fraction(level)] / len(demands) == pytest.approx(float(share), abs=0.025)


def ranks(values: list[int]) -> list[float]:
    """Mean ranks, since sizes repeat."""
    places: dict[int, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]


def correlation(demands: Workload) -> float:
    one = ranks([demand.shape.vcpus for demand in demands])
    other = ranks([demand.shape.memory_mib for demand in demands])
    middle = (len(demands) - 1) / 2
    both = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    spread = [sum((each - middle) ** 2 for each in values) for values in (one, other)]
    return float(both / (spread[0] * spread[1]) ** 0.5)


def test_vcpus_and_memory_grow_together_as_wished() -> None:
    found = [correlation(drawn(correlation=wished)) for wished in (-1.0, -0.5, 0.0, 0.5, 0.8, 1.0)]
    assert found == sorted(found)
    assert found[2] == pytest.approx(0, abs=0.04)
    # sizes on offer are few, which takes a little off
    for value, wished in zip((found[0], found[3], found[4]), (-1.0, 0.5, 0.8), strict=True):
        assert value == pytest.approx(wished, abs=0.14)


def test_as_many_come_as_go() -> None:
    demands = drawn(days=5.0)
    first = [demand for demand in demands if demand.arrival_s == 0]
    assert len(first) == 4_000
    assert (len(demands) - 4_000) / (4_000 * 5) == pytest.approx(0.4, rel=0.05)
    gone = sum(not demand.stays for demand in demands)
    assert gone / (4_000 * 5) == pytest.approx(0.4, rel=0.05)
    for day in range(1, 6):
        alive = sum(demand.arrival_s <= day * DAY_S < demand.departure_s for demand in demands)
        assert alive == pytest.approx(4_000, rel=0.06)
    quick = sum(not demand.stays for demand in drawn(turnover=2.0))
    assert quick / (4_000 * 2) == pytest.approx(2.0, rel=0.05)
    assert all(demand.stays and not demand.arrival_s for demand in drawn(turnover=0.0))


def test_times_are_in_order_and_within_the_days() -> None:
    demands = drawn()
    times = [demand.arrival_s for demand in demands]
    assert times == sorted(times)
    assert times[-1] < 2 * DAY_S
    for demand in demands:
        assert demand.stays or demand.arrival_s < demand.departure_s <= 2 * DAY_S


def test_mixes_draw_by_themselves() -> None:
    """Or a mean over mixes would know a seed's few peaks only."""
    mixes = (MIX, (Fraction(1), Fraction(0), Fraction(0)))
    one, other = (generate(Recipe("azure2017", mix, vms=100)) for mix in mixes)
    assert [demand.arrival_s for demand in one] != [demand.arrival_s for demand in other]
    assert {demand.shape.level for demand in other} == {1}


COMMAND = (sys.executable, "-m", "clustersim")
WHAT: dict[str, Callable[[Path], list[str]]] = {
    "generate": lambda file: ["generate", f"--output={file}"],
    "size": lambda file: ["size", "--policy=dedicated,random,tight", f"--placements={file}"],
}


@pytest.mark.parametrize("command", WHAT)
def test_one_seed_one_file(command: str, tmp_path: Path) -> None:
    """To the byte, whatever Python's hashes are."""
    options = ["--workload=chameleon2020", "--mix=33.3,33.3,33.4", "--vms=60", "--days=3"]
    files = []
    for hashes, seed in (("1", "7"), ("2", "7"), ("3", "8")):
        files.append(tmp_path / f"{hashes}.csv")
        subprocess.run(
            [*COMMAND, *WHAT[command](files[-1]), *options, f"--seed={seed}"],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            check=True,
            capture_output=True,
        )
    first, second, other = (file.read_bytes() for file in files)
    assert first == second
    assert first != other
    assert len(first) > 2_000


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    trace = tmp_path / "made" / "t.csv"
    options = ("--workload=azure2017", "--mix=20,30,50", "--vms=50", "--seed=2")
    done("generate", *options, f"--output={trace}")
    mix = (Fraction(1, 5), Fraction(3, 10), Fraction(1, 2))
    assert read_trace(trace).workload == generate(Recipe("azure2017", mix, vms=50, seed=2))
    assert done("generate", *options) == trace.read_text()
    assert trace.read_text().startswith("arrival_s,departure_s,vcpus,memory_mib,level\n0,")
