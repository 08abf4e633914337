"""The host chosen is the best there is, whatever happened since its scores were kept."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulerglobal.core.policies import POLICIES, Choice, Policy
from schedulerglobal.core.ranking import Ranker, Turn, Wishes
from schedulerglobal.core.view import ClusterView, Shape
from tests.clusters import Host, hosts, shapes, view_of

SMALL = Shape(1, 1_024, Fraction(1))
FIRST_FIT = POLICIES["first-fit"]
NAMES = sorted(POLICIES)
ROWS = 5


def ranker_of(*hosts: Host) -> tuple[ClusterView, Ranker]:
    view = view_of(hosts)
    return view, Ranker(view, Turn(Random(1)))


def empty(count: int, cpus: int = 8, memory_mib: int = 8_192) -> tuple[ClusterView, Ranker]:
    return ranker_of(*[Host(cpus, memory_mib, seen=True)] * count)


def candidates(
    known: list[Host], shape: Shape, wishes: Wishes | None, excluding: Collection[int]
) -> list[int]:
    """The rows a policy chooses among."""
    wishes = wishes or Wishes()
    able = [
        row
        for row, host in enumerate(known)
        if host.is_open
        and host.has_room(shape)
        and (wishes.only is None or row in wishes.only)
        and row not in wishes.refused
        and row not in excluding
        and (wishes.tiers is None or row in wishes.tiers)
    ]
    able = [row for row in able if known[row].preferred] or able
    if wishes.tiers is None or not able:
        return able
    lowest = min(wishes.tiers[row] for row in able)
    return [row for row in able if wishes.tiers[row] == lowest]


def check_choice(
    row: int | None, able: list[int], known: list[Host], shape: Shape, policy: Policy, last: int
) -> None:
    """*row* is what *policy* chooses of the rows *able* to take it."""
    if not able:
        assert row is None
        return
    assert row in able
    if policy.choice is Choice.ANY:
        return
    if policy.choice is Choice.NEXT:
        assert row == min(able, key=lambda each: (each <= last, each))
        return
    scores = {each: known[each].score(shape, policy.name) for each in able}
    best = max(scores.values())
    if policy.name in (
        "progress",
        "best-fit",
        "product",
        "tight",
    ):  # floats: of near-equal ones, either
        assert float(scores[row]) == pytest.approx(float(best), rel=1e-9, abs=1e-6)  # type: ignore[arg-type]
    else:
        assert row == min(each for each in able if scores[each] == best)


def check_reason(why: str, known: list[Host], wishes: Wishes | None) -> None:
    """*why* accounts for every host."""
    hosts = len(known) if wishes is None or wishes.only is None else len(wishes.only)
    assert "it has room" not in why
    if hosts > 1:
        beginning, _, counts = why.partition(": ")
        assert beginning == f"none of {hosts} hosts has room"
        assert sum(int(each.split()[0]) for each in counts.split(", ")) == hosts


rows = st.integers(0, ROWS - 1)
wishes = st.builds(
    Wishes,
    only=st.none() | st.frozensets(rows),
    refused=st.dictionaries(rows, st.just("it is refused")),
    tiers=st.none() | st.dictionaries(rows, st.integers(0, 2)),
)
events = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from(NAMES)),
    st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from(NAMES)),
    st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from(NAMES), wishes, st.sets(rows)),
    st.tuples(st.just("status"), rows, hosts()),
    st.tuples(st.just("reserve"), rows, shapes),
    st.tuples(st.just("open"), rows, st.booleans()),
    st.tuples(st.just("prefer"), rows, st.booleans()),
    st.tuples(st.just("burst"), st.integers(2, 30)),
)


@settings(max_examples=200)
@given(
    st.lists(hosts(), min_size=ROWS, max_size=ROWS),
    st.lists(shapes, min_size=3, max_size=3),
    st.lists(events, max_size=40),
)
def test_the_choice_is_right_whatever_happened_before(
    known: list[Host], asked: list[Shape], events: list[tuple[object, ...]]
) -> None:
    known[-1] = Host()  # not seen yet
    view, ranker = ranker_of(*known)
    for event in events:
        match event:
            case ("ask", int(number), str(name), *rest):
                shape, policy = asked[number], POLICIES[name]
                wished, excluding = rest or (None, set())
                able = candidates(known, shape, wished, excluding)  # type: ignore[arg-type]
                last = ranker.turn.last
                row = ranker.best(shape, policy, wished, excluding)  # type: ignore[arg-type]
                check_choice(row, able, known, shape, policy, last)
                if row is None:
                    why = ranker.why_none(shape, wished, {}, excluding)  # type: ignore[arg-type]
                    check_reason(why, known, wished)  # type: ignore[arg-type]
                    continue
                view.reserve(row, shape)
                ranker.placed(policy, row)
                known[row].place(shape)
                # what was chosen had room, so that no promise exceeds what there is
                assert known[row].allocated_mib <= known[row].capacity_mib
            case ("status", int(row), Host() as host):
                host = deepcopy(host)
                host.is_open, host.preferred = known[row].is_open, known[row].preferred
                known[row] = host
                view.set_status(row, host.status)
            case ("reserve", int(row), Shape() as shape) if known[row].seen:
                view.reserve(row, shape)
                known[row].place(shape)
            case ("open", int(row), bool(on)):
                view.set_open(row, on)
                known[row].is_open = on
            case ("prefer", int(row), bool(on)):
                view.set_preferred(row, on)
                known[row].preferred = on
            case ("burst", int(times)):
                for time in range(times):
                    row = time % (ROWS - 1)
                    view.set_status(row, known[row].status)


@pytest.mark.parametrize("name", NAMES)
def test_kept_scores_are_those_of_a_fresh_look(name: str) -> None:
    """Over several blocks of rows, with few changes, many, and hosts that join."""
    rng, policy = Random(name), POLICIES[name]
    view = ClusterView()
    kept = Ranker(view, Turn(Random(1)))
    asked = [Shape(2, 2_048, Fraction(2)), Shape(1, 1_024, Fraction(1)), Shape(9, 512, Fraction(3))]

    def join(count: int) -> None:
        for _ in range(count):
            row = view.add(f"h{len(view)}")
            host = Host(rng.choice([8, 16]), rng.choice([8_192, 16_384, 65_536]), seen=True)
            view.set_status(row, host.status, [asked[1]] * rng.randrange(8))

    join(3_000)
    chosen = set()
    for step in range(120):
        fresh = Ranker(view, Turn(Random(step), kept.turn.last))
        kept.turn.rng = Random(step)
        shape = rng.choice(asked)
        row = kept.best(shape, policy)
        assert row == fresh.best(shape, policy)
        assert row is not None
        chosen.add(row)
        view.reserve(row, shape)
        kept.placed(policy, row)
        for _ in range(rng.choice([0, 0, 3, 60, 1_000])):
            other = rng.randrange(len(view))
            if rng.random() < 0.3:
                view.set_open(other, rng.random() < 0.5)
            else:
                view.reserve(other, asked[1])
        if step % 40 == 20:
            join(700)
    assert len(chosen) > 5


def test_more_shapes_than_are_kept() -> None:
    known = [Host(8, 1_000 * number, seen=True) for number in range(1, 301)]
    view, ranker = ranker_of(*known)
    asked = [Shape(1, 1_000 * number, Fraction(1)) for number in range(1, 301)]
    for _ in range(3):
        assert [ranker.best(shape, FIRST_FIT) for shape in asked] == list(range(300))
    view.set_open(0, False)
    assert [ranker.best(shape, FIRST_FIT) for shape in asked] == [1, *range(1, 300)]


def test_a_cluster_without_hosts_has_no_room() -> None:
    ranker = Ranker(ClusterView(), Turn(Random(1)))
    for policy in POLICIES.values():
        assert ranker.best(SMALL, policy) is None
        assert ranker.best(SMALL, policy, Wishes()) is None
        assert ranker.explain(SMALL, policy) == []
    assert ranker.why_none(SMALL) == "there is no host"


@pytest.mark.parametrize(
    ("wishes", "excluding", "row"),
    [
        (None, [], 0),
        (None, [0, 1], 2),
        (Wishes(), [0], 1),
        (Wishes(only=frozenset({3, 2})), [], 2),
        (Wishes(only=frozenset({3, 2})), [2], 3),
        (Wishes(only=frozenset()), [], None),
        (Wishes(refused={0: "it is to be avoided", 1: "it is too"}), [], 2),
        (Wishes(only=frozenset({1}), refused={1: "it is to be avoided"}), [], None),
        (Wishes(tiers={0: 2, 1: 1, 2: 1}), [], 1),
        (Wishes(tiers={0: 2, 1: 1, 2: 1}), [1, 2], 0),
        (Wishes(tiers={0: 2, 1: 1, 2: 1}, only=frozenset({0, 3})), [], 0),
        (Wishes(tiers={}), [], None),
        (None, [0, 1, 2, 3], None),
    ],
)
def test_wishes_narrow_the_choice(
    wishes: Wishes | None, excluding: list[int], row: int | None
) -> None:
    _, ranker = empty(4)
    assert ranker.best(SMALL, FIRST_FIT, wishes, excluding) == row


def test_a_lower_tier_without_room_does_not_count() -> None:
    view, ranker = empty(3, cpus=1)
    view.reserve(1, SMALL)
    tiers = Wishes(tiers={0: 5, 1: 0, 2: 3})
    assert ranker.best(SMALL, FIRST_FIT, tiers) == 2


def test_an_unpreferred_host_is_taken_if_no_other_has_room() -> None:
    view, ranker = empty(3, cpus=1)
    view.set_preferred(0, False)
    taken = []
    for _ in range(4):
        row = ranker.best(SMALL, FIRST_FIT)
        taken.append(row)
        if row is not None:
            view.reserve(row, SMALL)
    assert taken == [1, 2, 0, None]


def test_an_unpreferred_host_obeys_wishes_too() -> None:
    view, ranker = empty(3)
    for row in range(3):
        view.set_preferred(row, False)
    assert ranker.best(SMALL, FIRST_FIT, Wishes(refused={0: "it is out"}), [1]) == 2
    assert ranker.best(SMALL, FIRST_FIT, Wishes(only=frozenset({1}))) == 1
    assert ranker.best(SMALL, FIRST_FIT, Wishes(tiers={1: 2, 2: 1})) == 2
    view.set_open(2, False)
    assert ranker.best(SMALL, FIRST_FIT, Wishes(tiers={1: 2, 2: 1})) == 1


@given(
    st.lists(hosts(), min_size=ROWS, max_size=ROWS),
    shapes,
    st.sampled_from([name for name in NAMES if name != "random"]),
    st.none() | wishes,
    st.sets(rows),
    st.sets(rows),
    st.integers(-1, ROWS - 1),
)
def test_the_explanation_is_what_happens(
    known: list[Host],
    shape: Shape,
    name: str,
    wishes: Wishes | None,
    closed: set[int],
    unpreferred: set[int],
    last: int,
) -> None:
    for row, host in enumerate(known):
        host.is_open, host.preferred = row not in closed, row not in unpreferred
    _, ranker = ranker_of(*known)
    ranker.turn.last = last
    verdicts = ranker.explain(shape, POLICIES[name], wishes)
    assert [verdict.host for verdict in verdicts] == [f"h{row}" for row in range(ROWS)]
    assert all((verdict.score is None) == bool(verdict.reason) for verdict in verdicts)
    scores = {row: each.score for row, each in enumerate(verdicts) if each.score is not None}
    assert sorted(scores) == candidates(known, shape, wishes, ())
    best = max(scores, key=lambda row: (scores[row], -row), default=None)
    assert ranker.best(shape, POLICIES[name], wishes) == best


def test_everyone_left_out_is_told_the_first_reason() -> None:
    sizes = [(8, 8_192), (1, 8_192), (8, 512), (8, 8_192), (8, 8_192), (8, 8_192), (8, 8_192)]
    known = [Host(cpus, memory_mib, 128, seen=True) for cpus, memory_mib in sizes]
    view, ranker = ranker_of(*known)
    view.set_open(3, False)
    view.set_open(4, False)
    view.set_preferred(6, False)
    wishes = Wishes(refused={5: "it is to be avoided", 3: "it is to be avoided"})
    shape = Shape(2, 1_024, Fraction(1))
    found = ranker.explain(shape, FIRST_FIT, wishes, {3: "it is draining"})
    assert [verdict.score for verdict in found] == [0.0] + [None] * 6
    assert [verdict.reason for verdict in found] == [
        None,
        "no room: it needs 2 more CPUs and 1 are free",
        "no room: it needs 1152 more MiB of memory and 512 are free",
        "it is draining",
        "it is closed to new VMs",
        "it is to be avoided",
        "it is used only if no other has room",
    ]
    tiers = Wishes(only=frozenset({0, 1, 5, 6}), tiers={0: 1, 1: 0, 2: 0, 5: 2})
    reasons = [verdict.reason for verdict in ranker.explain(shape, FIRST_FIT, tiers)]
    assert reasons[4:] == [
        "it is closed to new VMs",
        "it has more of these VMs around it than another with room",
        "it has no place in the spread",
    ]
    assert reasons[2] == "it is not among the hosts asked for"


@pytest.mark.parametrize(
    ("wishes", "excluding", "sentence"),
    [
        (
            None,
            (),
            (
                "none of 12 hosts has room: 7 have too few CPUs, 4 have too little memory,"
                " 1 is draining"
            ),
        ),
        (
            Wishes(refused={0: "it has web1, to keep away from", 1: "it is old", 2: "it is old"}),
            (3,),
            (
                "none of 12 hosts has room: 4 have too little memory, 3 have too few CPUs,"
                " 2 are old, 1 has web1, to keep away from, 1 is draining, 1 was asked and refused"
            ),
        ),
        (Wishes(only=frozenset({11})), (), "host h11 cannot take it: it is draining"),
        (Wishes(only=frozenset({8})), (), "host h8 cannot take it: it has too little memory"),
        (
            Wishes(only=frozenset({0, 8})),
            (),
            "none of 2 hosts has room: 1 has too few CPUs, 1 has too little memory",
        ),
        (Wishes(only=frozenset()), (), "no host is as asked for"),
        (
            Wishes(refused={row: f"reason {row}" for row in range(11)}),
            (),
            (
                "none of 12 hosts has room: 1: reason 0, 1: reason 1, 1: reason 2, 1: reason 3,"
                " 1: reason 4, 1: reason 5, 6 are out for other reasons"
            ),
        ),
    ],
)
def test_a_refusal_says_why_in_one_clause(
    wishes: Wishes | None, excluding: tuple[int, ...], sentence: str
) -> None:
    known = [Host(1, 8_192, seen=True)] * 7 + [Host(8, 512, seen=True)] * 4
    view, ranker = ranker_of(*known, Host(8, 8_192, seen=True))
    view.set_open(11, False)
    shape = Shape(2, 1_024, Fraction(1))
    assert ranker.best(shape, FIRST_FIT, wishes, excluding) is None
    found = ranker.why_none(shape, wishes, {11: "it is draining"}, excluding)
    assert found == sentence


def test_a_refusal_of_many_hosts_is_as_short() -> None:
    _, ranker = empty(30_000, cpus=1)
    shape = Shape(2, 1_024, Fraction(1))
    assert ranker.best(shape, POLICIES["progress"]) is None
    assert ranker.why_none(shape) == "none of 30000 hosts has room: 30000 have too few CPUs"
