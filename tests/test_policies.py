"""Each policy puts VMs where its name says."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulerglobal.core.policies import POLICIES, Choice, Trial, parse_policy
from schedulerglobal.core.ranking import Ranker, Turn
from schedulerglobal.core.view import ClusterView, Shape, gained_cpus
from tests.clusters import Host, hosts, shapes

SCORES = {policy.score: name for name, policy in POLICIES.items()}


def cluster(*sizes: tuple[int, int], seed: int = 0) -> tuple[ClusterView, Ranker]:
    """Empty hosts of so many CPUs and MiB, h1 first."""
    view = ClusterView()
    for number, (cpus, memory_mib) in enumerate(sizes, 1):
        view.set_status(view.add(f"h{number}"), Host(cpus, memory_mib, seen=True).status)
    return view, Ranker(view, Turn(Random(seed)))


def place(view: ClusterView, ranker: Ranker, shape: Shape, policy: str) -> str | None:
    row = ranker.best(shape, POLICIES[policy])
    if row is None:
        return None
    view.reserve(row, shape)
    ranker.placed(POLICIES[policy], row)
    return view.names[row]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_known_by_its_name(name: str) -> None:
    assert parse_policy(name).name == {"distributed": "round-robin"}.get(name, name)


@pytest.mark.parametrize("text", ["", "bestfit", "Progress", "x" * 10_000])
def test_an_unknown_policy_is_told_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no policy '.{0,40}'; choose one of prog") as e:
        parse_policy(text)
    assert all(name in str(e.value) for name in POLICIES)
    assert len(str(e.value)) < 300


@given(hosts(), shapes)
def test_progress_is_the_published_one(host: Host, shape: Shape) -> None:
    view = ClusterView()
    view.set_status(view.add("h"), host.status)
    gained = gained_cpus(view.level_cells(shape.level), 0, shape, max)
    trial = Trial(view.cells, 0, shape.memory_mib, gained, min)
    scale = host.capacity_mib / host.capacity_cpus  # a difference of such numbers
    expected = host.progress(shape)
    assert POLICIES["progress"].score(trial) == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)


@given(st.lists(hosts(), min_size=1, max_size=20), shapes)
def test_a_row_by_itself_scores_as_among_all(drawn: list[Host], shape: Shape) -> None:
    view = ClusterView()
    for number, host in enumerate(drawn):
        view.set_status(view.add(f"h{number}"), host.status)
    at = slice(len(view))
    gained = gained_cpus(view.level_columns(shape.level), at, shape, np.maximum)
    alone = [
        gained_cpus(view.level_cells(shape.level), row, shape, max) for row in range(len(view))
    ]
    for score, policy in SCORES.items():  # to draw hosts takes longer than to score them
        of_all = score(Trial(view.columns, at, shape.memory_mib, gained, np.minimum))
        assert not any(of_all is getattr(view.columns, name) for name in view.columns.__slots__)
        for row in range(len(view)):
            one = score(Trial(view.cells, row, shape.memory_mib, alone[row], min))
            assert one == of_all[row], policy
            assert np.isfinite(one), policy


# Hosts of 8 CPUs and 16 000 MB, then twice 4 and 8 000; six VMs of one vCPU at 3:1.
@pytest.mark.parametrize("memory_mib", [2_000, 4_000])
@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("round-robin", "h1 h2 h3 h1 h2 h3"),
        ("distributed", "h1 h2 h3 h1 h2 h3"),
        ("n_by_hosts", "h1 h2 h3 h1 h2 h3"),
        ("concentrated", {2_000: "h1 h1 h1 h1 h1 h1", 4_000: "h1 h1 h1 h1 h2 h2"}),
        ("first-fit", {2_000: "h1 h1 h1 h1 h1 h1", 4_000: "h1 h1 h1 h1 h2 h2"}),
    ],
)
def test_six_vms_on_three_hosts(policy: str, order: str | dict[int, str], memory_mib: int) -> None:
    view, ranker = cluster((8, 16_000), (4, 8_000), (4, 8_000))
    shape = Shape(1, memory_mib, Fraction(3))
    expected = order if isinstance(order, str) else order[memory_mib]
    assert [place(view, ranker, shape, policy) for _ in range(6)] == expected.split()


@pytest.mark.parametrize(
    ("policy", "sizes", "host"),
    [
        ("best-fit", [(8, 8_192), (8, 4_096), (4, 8_192)], "h2"),
        # half of both used, or an eighth and three quarters
        ("best-fit", [(2, 2_048), (8, 1_365)], "h1"),
        ("product", [(2, 2_048), (8, 1_365)], "h2"),
        ("product", [(2, 2_048), (1, 2_048), (8, 1_365)], "h2"),
        ("best-fit-ram-first", [(2, 8_192), (8, 4_096), (4, 4_096), (4, 4_096)], "h3"),
        ("best-fit-cores-first", [(8, 2_048), (4, 8_192), (4, 4_096), (4, 4_096)], "h3"),
        ("best-fit-ram-first", [(1 << 20, 1 << 30), (1, (1 << 30) + 1)], "h1"),
        ("best-fit-cores-first", [(1 << 19, 1 << 30), ((1 << 19) + 1, 4_096)], "h1"),
        ("best-fit-ram-first", [(1 << 20, 1 << 30), ((1 << 20) - 1, 1 << 30)], "h2"),
        ("best-fit-cores-first", [(1 << 20, 1 << 30), (1 << 20, (1 << 30) - 1)], "h2"),
        ("progress", [(4, 65_536), (4, 1_024), (4, 4_096)], "h3"),
        ("first-fit", [(1, 65_536), (4, 1_024), (2, 65_536)], "h2"),
    ],
)
def test_the_best_of_empty_hosts(policy: str, sizes: list[tuple[int, int]], host: str) -> None:
    view, ranker = cluster(*sizes)
    cpus = 2 if policy == "first-fit" else 1
    assert place(view, ranker, Shape(cpus, 1_024, Fraction(1)), policy) == host


def test_concentrated_prefers_hosts_that_have_vms() -> None:
    view, ranker = cluster((8, 8_192), (8, 8_192), (8, 8_192))
    shape = Shape(1, 1_024, Fraction(1))
    for row in (1, 2, 2):
        view.reserve(row, shape)
    assert place(view, ranker, shape, "concentrated") == "h3"
    view.set_open(2, False)
    assert place(view, ranker, shape, "concentrated") == "h2"


def test_a_full_host_leaves_the_ring_until_it_has_room() -> None:
    view, ranker = cluster((4, 4_096), (1, 4_096), (4, 4_096))
    shape = Shape(1, 512, Fraction(1))
    assert [place(view, ranker, shape, "round-robin") for _ in range(5)] == "h1 h2 h3 h1 h3".split()
    view.set_status(1, Host(1, 4_096, seen=True).status)
    assert [place(view, ranker, shape, "round-robin") for _ in range(3)] == "h1 h2 h3".split()
    big = Shape(64, 512, Fraction(1))
    assert place(view, ranker, big, "round-robin") is None


def test_other_policies_leave_the_ring_alone() -> None:
    view, ranker = cluster((8, 8_192), (8, 8_192), (8, 8_192))
    shape = Shape(1, 512, Fraction(1))
    assert place(view, ranker, shape, "round-robin") == "h1"
    assert place(view, ranker, shape, "n_by_hosts") == "h2"
    assert place(view, ranker, shape, "round-robin") == "h2"


def test_lots_are_fair_and_can_be_drawn_again() -> None:
    def drawn(seed: int) -> list[str | None]:
        view, ranker = cluster((4, 512), *[(4, 65_536)] * 4, seed=seed)
        shape = Shape(1, 1_024, Fraction(1))
        return [view.names[ranker.best(shape, POLICIES["random"]) or 0] for _ in range(4_000)]

    assert drawn(1) == drawn(1) != drawn(2)
    counts = Counter(drawn(1))
    assert set(counts) == {"h2", "h3", "h4", "h5"}
    assert min(counts.values()) > 850


def test_only_policies_that_say_so_choose_otherwise() -> None:
    choices = {name: policy.choice for name, policy in POLICIES.items()}
    assert choices.pop("random") is Choice.ANY
    assert choices.pop("round-robin") is choices.pop("distributed") is Choice.NEXT
    assert choices.pop("tight") is Choice.LEAST_LOSS
    assert set(choices.values()) == {Choice.LARGEST}
