"""Room for a request that no host has: moves that loosen the cluster, then a host cleared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.gains import plan_gains
from schedulerglobal.core.moves import Clearing, Move, plan_clearing
from schedulerglobal.core.room import plan_room
from schedulerglobal.core.view import Shape
from tests.machines import ARRIVALS, Machines, machine, refusals, replay, shape, view_of


def room_in(
    machines: Machines,
    arrivals: Arrivals,
    asked: Shape,
    most_gains: int,
    rows: list[int] | None = None,
) -> Clearing[str] | None:
    vms = [each.vms for each in machines]
    return plan_room(view_of(machines), vms, arrivals, asked, rows=rows, most_gains=most_gains)


def cleared(machines: Machines, asked: Shape) -> Clearing[str] | None:
    return plan_clearing(view_of(machines), [each.vms for each in machines], asked)


def gained(machines: Machines, arrivals: Arrivals, most_moves: int) -> tuple[Move[str], ...]:
    return plan_gains(view_of(machines), [each.vms for each in machines], arrivals, most_moves)


@given(refusals(), ARRIVALS, st.integers(0, 4))
def test_it_loosens_then_clears_and_ends_with_room(
    refusal: tuple[Machines, Shape], arrivals: Arrivals, most_gains: int
) -> None:
    machines, asked = refusal
    found = room_in(machines, arrivals, asked, most_gains)
    alone = cleared(machines, asked)
    gains = gained(machines, arrivals, most_gains)
    loosened = replay(machines, gains)
    if found is None:
        assert alone is None
        assert cleared(loosened, asked) is None
        return
    after = replay(machines, found.moves)
    assert after[found.row].is_open
    assert after[found.row].holds(asked)
    after_gains = cleared(loosened, asked)
    if after_gains is None:
        assert found == alone
    else:
        assert found == Clearing(after_gains.row, (*gains, *after_gains.moves))


def gridlock() -> Machines:
    """VM a could make room if it had somewhere to go, which it has once b has left."""
    return [
        machine(4, 8, c="2 4 1"),
        machine(4, 8, a="3 1 1"),
        machine(4, 8, b="2 2 1", d="1 4 1"),
    ]


def test_what_no_clearing_makes_room_for_fits_once_the_cluster_is_looser() -> None:
    asked = shape("3 6 1")
    expecting = Arrivals(((shape("3 3 1"), 100), (asked, 100)))
    assert cleared(gridlock(), asked) is None
    moves = (Move("b", 2, 0), Move("a", 1, 2))
    assert room_in(gridlock(), expecting, asked, 10) == Clearing(1, moves)
    for row in range(3):
        found = room_in(gridlock(), expecting, asked, 10, rows=[row])
        assert found is not None
        assert found.row == row
    assert room_in(gridlock(), expecting, asked, 0) is None
    assert room_in(gridlock(), Arrivals(), asked, 10) is None


def test_a_cluster_that_can_be_cleared_only_as_it_is_is() -> None:
    machines = [
        machine(4, 8, a="1 2 1", c="1 3 1", d="2 1 1"),
        machine(4, 8, e="3 1 1"),
        machine(4, 8, b="2 4 1"),
    ]
    asked = shape("3 1 1")
    expecting = Arrivals(((shape("1 5 1"), 100), (asked, 100)))
    gains = gained(machines, expecting, 3)
    assert gains
    assert cleared(replay(machines, gains), asked) is None
    moves = (Move("d", 0, 2), Move("a", 0, 1))
    assert room_in(machines, expecting, asked, 3) == Clearing(0, moves)
