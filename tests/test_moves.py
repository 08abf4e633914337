"""Plans of moves: replayed step by step by a cluster that counts for itself, no host is ever
over-committed, and they achieve what they are for."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.gains import plan_gains
from schedulerglobal.core.moves import Clearing, Move, plan_clearing
from schedulerglobal.core.tight import ExpectedFit
from schedulerglobal.core.view import Shape
from schedulerglobal.core.worth import SCALE
from tests.machines import (
    ARRIVALS,
    Machine,
    Machines,
    closed,
    clusters,
    machine,
    refusals,
    replay,
    shape,
    view_of,
)


def cleared(machines: Machines, asked: Shape, most_moves: int = 6) -> Clearing[str] | None:
    vms = [machine.vms for machine in machines]
    return plan_clearing(view_of(machines), vms, asked, most_moves=most_moves)


def gained(machines: Machines, arrivals: Arrivals, most_moves: int) -> tuple[Move[str], ...]:
    return plan_gains(view_of(machines), [each.vms for each in machines], arrivals, most_moves)


def by_the_rule(machines: Machines, asked: Shape, most_moves: int) -> list[Move[str]] | None:
    """One host after the other, one move after the other, everything counted anew."""
    found: list[tuple[int, int, int, list[Move[str]]]] = []
    for row, each in enumerate(machines):
        now, moves, moved_mib = deepcopy(machines), list[Move[str]](), 0
        if not each.is_open:
            continue
        while len(moves) < most_moves and not now[row].holds(asked):
            move = _next_by_the_rule(now, row, asked)
            if move is None:
                break
            vm = now[row].vms.pop(move.vm)
            now[move.destination].vms[move.vm] = vm
            moves.append(move)
            moved_mib += vm.memory_mib
        if now[row].holds(asked):
            found.append((len(moves), moved_mib, row, moves))
    return min(found)[3] if found else None


def _next_by_the_rule(now: Machines, row: int, asked: Shape) -> Move[str] | None:
    source = now[row]

    def rank(name: str) -> tuple[object, ...]:
        vm = source.vms[name]
        size = vm.vcpus, vm.memory_mib, vm.level.numerator, vm.level.denominator
        return *source.missing(name, asked), size

    for name in sorted(source.vms, key=rank):
        vm = source.vms[name]
        able = [
            (-each.score(vm), place)
            for place, each in enumerate(now)
            if place != row and each.is_open and each.holds(vm)
        ]
        if able:
            return Move(name, row, min(able)[1])
    return None


@given(refusals(), st.integers(1, 6))
def test_what_is_asked_for_fits_after_the_moves(
    refusal: tuple[Machines, Shape], most_moves: int
) -> None:
    machines, asked = refusal
    clearing = cleared(machines, asked, most_moves)
    if clearing is not None:
        assert len(clearing.moves) <= most_moves
        after = replay(machines, clearing.moves)
        assert after[clearing.row].is_open
        assert after[clearing.row].holds(asked)


@given(refusals(), st.integers(1, 6))
def test_a_clearing_is_the_one_of_the_rule(
    refusal: tuple[Machines, Shape], most_moves: int
) -> None:
    machines, asked = refusal
    expected = by_the_rule(machines, asked, most_moves)
    clearing = cleared(machines, asked, most_moves)
    assert (list(clearing.moves) if clearing else None) == expected


@pytest.mark.parametrize(
    ("machines", "asked", "expected"),
    [
        ([machine(4, 8)], "4 8 1", (0, [])),
        ([machine(4, 8, a="1 1 1")], "5 1 1", None),
        ([machine(4, 8, a="3 4 1"), machine(4, 8, b="3 4 1")], "2 2 1", None),
        (
            [machine(4, 8, a="2 4 1", b="1 2 1"), machine(4, 8, c="3 5 1")],
            "2 2 1",
            (0, ["b 0>1"]),
        ),
        # neither of the two that share a CPU gives it back alone
        (
            [machine(4, 9, a="3 3 1", x="1 1 2", y="1 1 2"), machine(4, 4, b="2 2 1")],
            "1 4 1",
            (0, ["x 0>1", "y 0>1"]),
        ),
        # either host needs one move: the one that moves less memory
        (
            [
                machine(4, 9, a="2 4 1", b="1 4 1"),
                machine(4, 9, c="2 4 1", d="1 3 1"),
                machine(1, 4),
            ],
            "2 3 1",
            (1, ["d 1>2"]),
        ),
        # of equals the first host, and to where least is left over
        (
            [machine(4, 9, a="3 4 1"), machine(4, 9, b="3 4 1"), machine(3, 4), machine(3, 5)],
            "4 5 1",
            (0, ["a 0>2"]),
        ),
        (
            [
                closed(machine(4, 9, a="3 4 1")),
                machine(4, 9, b="3 4 1"),
                closed(machine(3, 4)),
                machine(3, 5),
            ],
            "4 5 1",
            (1, ["b 1>3"]),
        ),
        # the largest VM's level keeps a CPU for each of its vCPUs
        (
            [machine(4, 8, a="4 2 3", b="4 2 3"), machine(2, 8, c="1 1 1")],
            "1 1 1",
            (1, []),
        ),
        ([machine(4, 8, a="4 2 3", b="4 2 3"), machine(3, 8)], "4 1 1", None),
    ],
    ids="""nothing-to-move larger-than-any-host no-room-to-move-to one rounding least-memory
    first-host closed-hosts room-already never-against-itself""".split(),
)
def test_clearings(machines: Machines, asked: str, expected: tuple[int, list[str]] | None) -> None:
    clearing = cleared(machines, shape(asked))
    told = clearing and [f"{each.vm} {each.source}>{each.destination}" for each in clearing.moves]
    assert (clearing and (clearing.row, told)) == expected


def test_only_so_many_moves_and_only_on_the_rows_asked_for() -> None:
    machines = [machine(4, 9, a="3 3 1", x="1 1 2", y="1 1 2"), machine(4, 4, b="2 2 1")]
    asked = shape("1 4 1")
    vms = [each.vms for each in machines]
    assert cleared(machines, asked, most_moves=2) is not None
    assert cleared(machines, asked, most_moves=1) is None
    assert plan_clearing(view_of(machines), vms, asked, rows=[0]) == cleared(machines, asked)
    assert plan_clearing(view_of(machines), vms, asked, rows=[1]) is None


def worth(machine: Machine, arrivals: Arrivals) -> list[int]:
    """``n(25 + 2 n)`` for each shape, n being how many can be placed one after another."""
    found = []
    for each in arrivals.expected:
        copies = 0
        while machine.holds(*[each] * (copies + 1)):
            copies += 1
        found.append(copies * (int(SCALE) + 2 * copies))
    return found


def best_gain(machines: Machines, arrivals: Arrivals) -> dict[Move[str], float]:
    """What each move that can be made gains."""
    _, prices = ExpectedFit(view_of(machines), arrivals).prices()
    gains = {}
    for row, source in enumerate(machines):
        for name, vm in source.vms.items():
            for place, destination in enumerate(machines):
                if place == row or not (source.is_open and destination.is_open):
                    continue
                if not destination.holds(vm):
                    continue
                move = Move(name, row, place)
                after = deepcopy(machines)
                after[place].vms[name] = after[row].vms.pop(name)
                gains[move] = sum(
                    price * (new - old)
                    for at in (row, place)
                    for price, new, old in zip(
                        prices / (SCALE * prices.sum()),
                        worth(after[at], arrivals),
                        worth(machines[at], arrivals),
                        strict=True,
                    )
                )
    return gains


@given(clusters(), ARRIVALS, st.integers(0, 4))
def test_each_move_by_the_clock_gains_most(
    machines: Machines, arrivals: Arrivals, most_moves: int
) -> None:
    assume(any(each.is_open for each in machines))
    moves = gained(machines, arrivals, most_moves)
    assert len(moves) <= most_moves
    replay(machines, moves)
    for move in moves:
        gains = best_gain(machines, arrivals)
        assert gains[move] > 0
        assert gains[move] == pytest.approx(max(gains.values()))
        machines = replay(machines, [move])
    if len(moves) < most_moves:
        assert max(best_gain(machines, arrivals).values(), default=0) < 1e-9


def test_nothing_moves_by_the_clock_while_nothing_is_expected() -> None:
    machines = [machine(4, 8, a="2 4 1"), machine(4, 8, b="2 4 1")]
    expecting = Arrivals(((shape("4 8 1"), 100),))
    assert gained(machines, Arrivals(), 5) == ()
    assert gained(machines, expecting, 5) == (Move("a", 0, 1),)
    assert gained(machines, expecting, 0) == ()
    assert gained([machine(4, 8, a="2 4 1")], expecting, 5) == ()
