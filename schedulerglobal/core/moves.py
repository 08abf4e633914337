"""Which VMs move so that a request that no host has room for finds one.

Every host is tried: VMs move out one after another, each time the one that closes most of what is
missing, each to where it leaves least over. The host that needs fewest moves is taken. A plan is
an order in which no host is ever over-committed: a VM counts on both hosts while it moves, and
the request is placed once all have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from schedulerglobal.core.layout import Key, Layout, Move, Standing, Vm, key_of
from schedulerglobal.core.policies import POLICIES
from schedulerglobal.core.view import ClusterView, Shape

MOST_MOVES = 6


@dataclass(frozen=True, slots=True)
class Clearing(Generic[Vm]):
    """Moves, to be made in order, after which the host of *row* has room."""

    row: int
    moves: tuple[Move[Vm], ...]


class _Try(Generic[Vm]):
    """One host being cleared."""

    __slots__ = ("changed", "memory_mib", "moves", "row")

    def __init__(self, row: int, standing: Standing[Vm]) -> None:
        self.row = row
        self.changed: dict[int, Standing[Vm]] = {row: standing.copy()}
        self.moves: list[Move[Vm]] = []
        self.memory_mib = 0


def plan_clearing(
    view: ClusterView,
    vms: Sequence[Mapping[Vm, Shape]],
    shape: Shape,
    *,
    rows: Iterable[int] | None = None,
    most_moves: int = MOST_MOVES,
) -> Clearing[Vm] | None:
    """The fewest moves, of these the least memory, that make room for *shape*; None if no host
    of *rows* (all, if None) can be cleared with *most_moves*. *vms* are those of each row."""
    layout = Layout(view, vms, POLICIES["product"].score)
    asked = key_of(shape)
    able = range(len(view)) if rows is None else sorted(rows)
    tries = [
        _Try(row, layout.standing(row))
        for row in able
        if view.is_open(row) and _could_ever_fit(layout.standing(row), asked)
    ]
    # all one move further at a time: the first that is cleared needs fewest
    for _ in range(most_moves):
        tries = [each for each in tries if _move_one_out(each, layout, asked)]
        cleared = [each for each in tries if each.changed[each.row].has_room(asked)]
        if cleared:
            best = min(cleared, key=lambda each: (each.memory_mib, each.row))
            return Clearing(best.row, tuple(best.moves))
    return None


def _could_ever_fit(on: Standing[Vm], asked: Key) -> bool:
    alone = max(-(-asked[0] * asked[3] // asked[2]), asked[0])
    return alone <= on.capacity_cpus and asked[1] + on.overhead_mib <= on.capacity_mib


def _move_one_out(trial: _Try[Vm], layout: Layout[Vm], asked: Key) -> bool:
    """Move the VM that closes most; False if none that closes anything can go anywhere."""
    source = trial.changed[trial.row]
    ways = {key: (_missing(source, key, asked), vm) for vm, key in reversed(source.vms.items())}
    for key, (_, vm) in sorted(ways.items(), key=lambda way: way[1][0]):
        destination = layout.destination(key, trial.row, trial.changed)
        if destination is None:
            continue
        if destination not in trial.changed:
            trial.changed[destination] = layout.standing(destination).copy()
        trial.changed[destination].add(vm, key)
        source.discard(vm)
        trial.moves.append(Move(vm, trial.row, destination))
        trial.memory_mib += key[1]
        return True
    return False


def _missing(on: Standing[Vm], leaving: Key, asked: Key) -> tuple[float, float]:
    """Once one of its VMs has left, what *asked* still lacks, and what is free beyond it: shares
    of the host's CPUs and memory, added up."""
    held = on.levels[leaving[2:]]
    kept = held.without(leaving[0])
    if leaving[2:] == asked[2:]:
        shared = -(-(held.vcpus - leaving[0] + asked[0]) * asked[3] // asked[2])
        gained = max(shared, asked[0], kept) - kept
    else:
        gained = on.gained(asked)
    cpus = (gained - on.free_cpus - held.owned + kept) / on.capacity_cpus
    memory = (asked[1] - on.room_mib - leaving[1] - on.overhead_mib) / on.capacity_mib
    return max(cpus, 0.0) + max(memory, 0.0), max(-cpus, 0.0) + max(-memory, 0.0)
