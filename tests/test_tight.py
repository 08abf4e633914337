"""Tight fit chooses as its formula says, however it came to know the hosts."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction
from math import isclose
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulercommon.levels import Level
from schedulerglobal.core.arrivals import COMMONEST, ENOUGH, Arrivals, Shares
from schedulerglobal.core.capacity import fits
from schedulerglobal.core.policies import POLICIES
from schedulerglobal.core.ranking import Ranker, Turn
from schedulerglobal.core.scores import NO_ROOM
from schedulerglobal.core.tight import ExpectedFit, least
from schedulerglobal.core.view import ClusterView, Shape
from schedulerglobal.core.wishes import Wishes
from schedulerglobal.core.worth import SCALE, Expected
from tests.clusters import Host, hosts, shapes, view_of

TIGHT = POLICIES["tight"]
ROWS = 5
SMALL, LARGE = Shape(1, 1_024, Fraction(1)), Shape(8, 8_192, Fraction(1))


# --- the formula, worked out slowly ---


def worth(host: Host, shape: Shape) -> float:
    host, copies = deepcopy(host), 0
    while host.is_open and host.has_room(shape):
        host.place(shape)
        copies += 1
    return copies * (1 + 0.08 * copies)


def prices(known: list[Host], shares: dict[Shape, int]) -> dict[Shape, float]:
    there = [host for host in known if host.is_open and host.seen]
    found = {}
    for shape, count in shares.items():
        cpus = sum(host.capacity_cpus for host in there) / len(there)
        memory_mib = sum(host.capacity_mib for host in there) / len(there)
        x, y = shape.vcpus / (cpus * float(shape.level)), shape.memory_mib / memory_mib
        size = (x + y) / 2 + max(x, y) / 2
        room = sum(worth(host, shape) for host in known)
        found[shape] = count / sum(shares.values()) * size**0.3 / (room + 1) ** 1.8
    return found


def loss(host: Host, shape: Shape, priced: dict[Shape, float]) -> float:
    after = deepcopy(host)
    after.place(shape)
    return sum(price * (worth(host, each) - worth(after, each)) for each, price in priced.items())


def choice(known: list[Host], able: list[int], shape: Shape, shares: dict[Shape, int]) -> set[int]:
    """The rows that may be chosen: more than one where rounding decides what is a tie."""
    priced = prices(known, shares)
    losses = {row: loss(known[row], shape, priced) for row in able}
    least, most = min(losses.values()), max(losses.values())
    near = [row for row in able if losses[row] <= least + 2e-9 * most]
    sure = [row for row in near if losses[row] <= least + 0.5e-9 * most]
    return {row for row in near if row <= sure[0]}


few_shapes = st.builds(
    Shape,
    vcpus=st.integers(1, 12),
    memory_mib=st.integers(1, 12).map(lambda gb: gb * 1_024 + 500),
    level=st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(3)]),
)
events = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.integers(0, 50)),
    st.tuples(st.just("status"), st.integers(0, ROWS - 1), hosts()),
    st.tuples(st.just("open"), st.integers(0, ROWS - 1), st.booleans()),
    st.tuples(st.just("prefer"), st.integers(0, ROWS - 1), st.booleans()),
)


@settings(max_examples=60)
@given(
    st.lists(hosts(), min_size=ROWS, max_size=ROWS),
    st.lists(few_shapes, min_size=4, max_size=4, unique=True),
    st.lists(st.integers(1, 400), min_size=4, max_size=4),
    st.lists(events, max_size=25),
)
def test_the_choice_is_that_of_the_formula(
    known: list[Host],
    asked: list[Shape],
    counts: list[int],
    happens: list[tuple[object, ...]],
) -> None:
    known[-1] = Host()  # not seen yet
    counts[0] += ENOUGH
    shares = dict(zip(asked, counts, strict=True))
    view = view_of(known)
    ranker = Ranker(view, Turn(Random(1)), Arrivals(tuple(shares.items())))
    vms: list[tuple[int, Shape]] = []
    for event in happens:
        match event:
            case ("ask", int(number)):
                shape = asked[number]
                ranker.arrived(shape)
                shares[shape] += 1
                able = [
                    row for row in range(ROWS) if known[row].is_open and known[row].has_room(shape)
                ]
                able = [row for row in able if known[row].preferred] or able
                row = ranker.best(shape, TIGHT)
                if not able:
                    assert row is None
                    continue
                assert row in choice(known, able, shape, shares)
                assert row == Ranker(view, Turn(Random(2)), ranker.arrivals).best(shape, TIGHT)
                view.reserve(row, shape)
                known[row].place(shape)
                vms.append((row, shape))
            case ("remove", int(number)) if vms:
                row, shape = vms.pop(number % len(vms))
                host = known[row]
                _, vcpus, largest = host.levels[shape.level]
                # those a host was drawn with stay, and so does the largest
                if vcpus - shape.vcpus < largest:
                    vms.append((row, shape))
                    continue
                view.release(row, shape, largest)
                kept = max(-(-(vcpus - shape.vcpus) // shape.level), largest)
                host.levels[shape.level] = (int(kept), vcpus - shape.vcpus, largest)
                host.allocated_mib -= shape.memory_mib + host.overhead_mib
                host.vms -= 1
            case ("status", int(row), Host() as host):
                host = deepcopy(host)
                host.is_open, host.preferred = known[row].is_open, known[row].preferred
                known[row] = host
                view.set_status(row, host.status)
                vms = [each for each in vms if each[0] != row]
            case ("open", int(row), bool(on)):
                view.set_open(row, on)
                known[row].is_open = on
            case ("prefer", int(row), bool(on)):
                view.set_preferred(row, on)
                known[row].preferred = on


@given(
    st.lists(hosts(), min_size=1, max_size=ROWS),
    st.dictionaries(few_shapes, st.integers(ENOUGH, 400), min_size=1, max_size=4),
    few_shapes,
)
def test_prices_and_scores_are_those_of_the_formula(
    known: list[Host], shares: dict[Shape, int], shape: Shape
) -> None:
    view, arrivals = view_of(known), Arrivals(tuple(shares.items()))
    priced = prices(known, shares)
    expected, found = ExpectedFit(view, arrivals).prices()
    assert dict(zip(expected.shapes, found, strict=True)) == pytest.approx(priced, rel=1e-9)
    told = Ranker(view, Turn(Random(1)), arrivals).explain(shape, TIGHT)
    for host, verdict in zip(known, told, strict=True):
        assert (verdict.score is not None) == host.has_room(shape)
        if verdict.score is not None:
            lost = loss(host, shape, priced) / sum(priced.values())
            assert -verdict.score == pytest.approx(lost, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "place"),
    [
        ([NO_ROOM, -1.0, -1.0 + 5e-10], 1),
        ([NO_ROOM, -1.0, -1.0 + 5e-9], 2),
        ([-1e-3, -1e-3 + 5e-10, -1.0], 0),
        ([-1e-12, 0.0, NO_ROOM], 1),
    ],
    ids=["a tie", "no tie", "a tie beside the largest loss", "largest is small itself"],
)
def test_what_is_a_tie(scores: list[float], place: int) -> None:
    enough = least(np.array(scores))
    assert enough is not None
    assert [score >= enough for score in scores].index(True) == place


@given(st.lists(hosts(), min_size=1, max_size=4), st.lists(shapes, min_size=1, max_size=6), shapes)
def test_worth_counts_the_copies_that_fit(
    known: list[Host], asked: list[Shape], shape: Shape
) -> None:
    view, expected = view_of(known), Expected(tuple(asked))
    at = slice(len(known))
    rooms = expected.rooms(view, at)
    found = expected.worth(rooms)
    for each, row in zip(asked, found, strict=True):
        copies = fits(view, each)
        assert row.tolist() == (copies * (SCALE + 2 * copies)).tolist()
    able = [row for row, host in enumerate(known) if host.has_room(shape)]
    gained = np.array([host.gained(shape) for host in known])
    with_one = expected.with_one(rooms, shape, gained)
    for row in able:
        view.reserve(row, shape)
    assert with_one[:, able].tolist() == expected.rooms(view, at)[:, able].tolist()
    back = expected.without_one(with_one, shape, gained)
    assert expected.worth(back)[:, able].tolist() == found[:, able].tolist()


def test_what_was_kept_does_not_matter() -> None:
    """Over many rows and events, chosen anew each time and by one that followed them all."""
    rng, view = Random(3), ClusterView()
    arrivals = Arrivals()
    asked = [
        Shape(vcpus, vcpus * mib, level)
        for vcpus in (1, 2, 4, 8)
        for mib in (1_024, 2_048, 4_096)
        for level in (Fraction(1), Fraction(2), Fraction(4, 3))
    ]

    def join(count: int) -> None:
        for _ in range(count):
            row = view.add(f"h{len(view)}")
            host = Host(rng.choice([8, 16]), rng.choice([16_384, 65_536]), 128, seen=True)
            view.set_status(row, host.status, rng.choices(asked, k=rng.randrange(4)))

    join(900)
    followed, chosen = Ranker(view, Turn(Random(1)), arrivals), set()
    kept = ExpectedFit(view, arrivals)
    for step in range(400):
        shape = rng.choice(asked)
        followed.arrived(shape)
        row = followed.best(shape, TIGHT)
        assert row is not None
        if step % 10 == 0 and step > ENOUGH:
            assert row == Ranker(view, Turn(Random(1)), arrivals).best(shape, TIGHT)
            fresh = ExpectedFit(view, arrivals).scores(shape)
            assert kept.scores(shape) == pytest.approx(fresh, rel=1e-12)
        chosen.add(row)
        view.reserve(row, shape)
        if step == 250:
            join(300)
        for _ in range(rng.choice([0, 0, 2, 40, 700]) if step % 5 == 0 else 1):
            view.set_open(rng.randrange(len(view)), rng.random() < 0.8)
    assert len(chosen) > 20


def test_more_shapes_than_are_kept() -> None:
    view = view_of([Host(16, 65_536, seen=True), Host(9, 16_384, seen=True)])
    arrivals = Arrivals(tuple((Shape(vcpus, 1_024, Fraction(2)), 30) for vcpus in range(1, 9)))
    fit = ExpectedFit(view, arrivals, kept_bytes=1 << 18)  # of some
    for step, shape in enumerate([*arrivals.expected] * 3):
        fresh = ExpectedFit(view, arrivals).scores(shape)
        assert fit.scores(shape) == pytest.approx(fresh, rel=1e-12)
        view.reserve(step % 2, SMALL)


def test_product_stands_in_until_enough_has_come() -> None:
    # of two that leave as much over, product takes the first; tight spares room for the large
    known = [Host(16, 65_536, seen=True), Host(9, 16_384, seen=True)]
    view = view_of(known)
    ranker = Ranker(view, Turn(Random(1)))
    for _ in range(ENOUGH - 1):
        ranker.arrived(LARGE)
        assert ranker.best(SMALL, TIGHT) == ranker.best(SMALL, POLICIES["product"])
    assert ranker.explain(SMALL, TIGHT) == ranker.explain(SMALL, POLICIES["product"])
    ranker.arrived(LARGE)
    assert ranker.explain(SMALL, TIGHT) != ranker.explain(SMALL, POLICIES["product"])


@pytest.mark.parametrize(
    ("expected", "row"), [(LARGE, 1), (Shape(2, 1_024, Fraction(3)), 0)], ids=["large", "small"]
)
def test_room_for_what_is_expected_is_spared(expected: Shape, row: int) -> None:
    """One host has room for one large VM and no more, the other for CPUs' worth of small ones."""
    view = view_of([Host(8, 8_192, seen=True), Host(7, 65_536, seen=True)])
    ranker = Ranker(view, Turn(Random(1)), Arrivals(((expected, ENOUGH),)))
    assert ranker.best(Shape(1, 1, Fraction(1)), TIGHT) == row


def test_scores_say_how_much_room_is_lost() -> None:
    view = view_of([Host(8, 8_192, seen=True), Host(7, 8_192, seen=True), Host(0, 1, seen=True)])
    ranker = Ranker(view, Turn(Random(1)), Arrivals(((LARGE, ENOUGH),)))
    first, second, third = ranker.explain(SMALL, TIGHT)
    assert first.score is not None
    assert isclose(first.score, -1.08)  # the only large one that fitted
    assert second.score == 0
    assert third.score is None
    assert third.reason == "no room: it needs 1 more CPUs and 0 are free"


def test_ties_go_to_the_first_host() -> None:
    view = view_of([Host(4, 4_096, seen=True)] * 4)
    ranker = Ranker(view, Turn(Random(1)), Arrivals(((SMALL, ENOUGH),)))
    assert ranker.best(SMALL, TIGHT) == 0
    assert ranker.best(SMALL, TIGHT, Wishes(refused={0: "it is out"})) == 1
    assert ranker.best(SMALL, TIGHT, Wishes(only=frozenset({2, 3}))) == 2
    assert ranker.best(SMALL, TIGHT, None, [0, 1, 2, 3]) is None
    for row in range(4):
        view.set_preferred(row, False)
    assert ranker.best(SMALL, TIGHT) == 0


# --- what is learnt ---


def numbered(number: int, level: Level = Fraction(1)) -> Shape:
    return Shape(number, 1_024, level)


def test_nothing_is_expected_before_enough_has_come() -> None:
    arrivals = Arrivals()
    for number in range(ENOUGH - 1):
        arrivals.count(numbered(1 + number % 3))
    before = arrivals.expected
    assert before == ()
    arrivals.count(numbered(2))
    assert arrivals.expected == (numbered(2), numbered(1), numbered(3))
    assert arrivals.counts.tolist() == [34, 33, 33]
    assert arrivals.total == ENOUGH


def test_the_commonest_of_each_level_are_expected() -> None:
    common = [
        (numbered(number, level), 50 - number)
        for level in (Fraction(1), Fraction(2))
        for number in range(1, 30)
    ]
    arrivals = Arrivals(tuple(common))
    assert len(arrivals.expected) == 2 * COMMONEST
    assert {each.vcpus for each in arrivals.expected} == set(range(1, COMMONEST + 1))


def test_a_stream_of_new_levels_stays_cheap() -> None:
    arrivals = Arrivals()
    for number in range(2_000):
        arrivals.count(numbered(1 + number % 20, Fraction(1_000 + number % 300, 1_000)))
    assert len(arrivals.expected) <= 8 * COMMONEST


def test_what_became_common_is_expected_in_time() -> None:
    arrivals = Arrivals()
    for _ in range(ENOUGH):
        arrivals.count(numbered(1))
    for _ in range(ENOUGH):
        assert arrivals.expected == (numbered(1),)
        arrivals.count(numbered(2))
    assert set(arrivals.expected) == {numbered(1), numbered(2)}


def test_old_requests_fade() -> None:
    arrivals = Arrivals(((numbered(1), 30_000), (numbered(3), 1)))
    assert arrivals.total == arrivals.of(numbered(1)) == 15_000
    arrivals.count(numbered(3))
    for _ in range(60_000):
        arrivals.count(numbered(2))
    assert arrivals.of(numbered(1)) < 0.05 * arrivals.of(numbered(2))
    assert arrivals.of(numbered(3)) == 0
    assert arrivals.total < 20_000
    assert arrivals.total == sum(count for _, count in arrivals.shares)


@given(st.lists(st.tuples(few_shapes, st.integers(1, 300)), max_size=40), st.lists(few_shapes))
def test_what_was_learnt_can_be_kept(learnt: Shares, later: list[Shape]) -> None:
    before = Arrivals(learnt)
    after = Arrivals(before.shares)
    for shape in later:
        before.count(shape)
        after.count(shape)
    assert after.shares == before.shares
    assert after.total == before.total
    assert list(after.shares) == sorted(after.shares, key=lambda each: -each[1])


def test_of_many_shapes_the_commonest_are_kept() -> None:
    arrivals = Arrivals(tuple((Shape(1, mib, Fraction(1)), 1 + mib % 2) for mib in range(1, 4_001)))
    assert len(arrivals.shares) == 1_024
    assert {count for _, count in arrivals.shares} == {2}
