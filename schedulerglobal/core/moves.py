"""Which VMs move so that a request that no host has room for finds one.

Every host is tried: VMs move out one after another, each time the one that closes most of what is
missing, each to where it leaves least over. The host that needs fewest moves is taken. A plan is
an order in which no host is ever over-committed: a VM counts on both hosts while it moves, and
the request is placed once all have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from schedulerglobal.core.layout import Key, Layout, Standing, Vm, key_of
from schedulerglobal.core.policies import PRODUCT
from schedulerglobal.core.view import ClusterView, Shape

MOST_MOVES = 6


@dataclass(frozen=True, slots=True)
class Move(Generic[Vm]):
    """One VM from a host to another: rows of the view."""

    vm: Vm
    source: int
    destination: int


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
    layout = Layout(view, vms, PRODUCT.score)
    asked = key_of(shape)
    waiting: dict[int, list[int]] = {}
    for row in range(len(view)) if rows is None else sorted(rows):
        if view.is_open(row):
            waiting.setdefault(_least_moves(layout.standing(row), asked), []).append(row)
    if 0 in waiting:
        return Clearing(waiting[0][0], ())
    tries: list[_Try[Vm]] = []
    # all one move further at a time: the first that is cleared needs fewest
    for count in range(1, most_moves + 1):
        late = [_Try(row, layout.standing(row)) for row in waiting.get(count, ())]
        for _ in range(count - 1):
            late = [each for each in late if _move_one_out(each, layout, asked)]
        tries = [each for each in (*tries, *late) if _move_one_out(each, layout, asked)]
        cleared = [each for each in tries if each.changed[each.row].has_room(asked)]
        if cleared:
            best = min(cleared, key=lambda each: (each.memory_mib, each.row))
            return Clearing(best.row, tuple(best.moves))
        left = most_moves - count
        tries = [each for each in tries if _least_moves(each.changed[each.row], asked) <= left]
    return None


def _least_moves(on: Standing[Vm], asked: Key) -> int:
    """No fewer make room for *asked*, whichever VMs they take: a VM frees no more CPUs than it
    has vCPUs. More than there are VMs if none do."""
    cpus, memory_mib = on.gained(asked) - on.free_cpus, asked[1] - on.room_mib
    if cpus <= 0 and memory_mib <= 0:
        return 0
    keys = on.vms.values()
    return max(
        _fewest(cpus, [key[0] for key in keys]),
        _fewest(memory_mib, [key[1] + on.overhead_mib for key in keys]),
    )


def _fewest(needed: int, pieces: list[int]) -> int:
    """How many of *pieces* add up to what is *needed*; one more than there are if all do not."""
    if needed <= 0:
        return 0
    for count, piece in enumerate(sorted(pieces, reverse=True), start=1):
        needed -= piece
        if needed <= 0:
            return count
    return len(pieces) + 1


def _move_one_out(trial: _Try[Vm], layout: Layout[Vm], asked: Key) -> bool:
    """Move the VM that closes most; False if none can go anywhere."""
    source = trial.changed[trial.row]
    firsts: dict[Key, Vm] = {}
    for vm, key in source.vms.items():
        firsts.setdefault(key, vm)
    for _, _, key in sorted(_ways(source, firsts, asked)):
        destination = layout.destination(key, trial.row, trial.changed)
        if destination is None:
            continue
        vm = firsts[key]
        if destination not in trial.changed:
            trial.changed[destination] = layout.standing(destination).copy()
        trial.changed[destination].add(vm, key)
        source.discard(vm)
        trial.moves.append(Move(vm, trial.row, destination))
        trial.memory_mib += key[1]
        return True
    return False


def _ways(
    on: Standing[Vm], leaving: Iterable[Key], asked: Key
) -> Iterator[tuple[float, float, Key]]:
    """Once one VM like each of *leaving* has left: what *asked* still lacks, and what is free
    beyond it; shares of the host's CPUs and memory, added up."""
    lacking_cpus = on.gained(asked) - on.free_cpus
    lacking_mib = asked[1] - on.room_mib - on.overhead_mib
    for key in leaving:
        if key[2:] == asked[2:]:
            held = on.levels[asked[2:]]
            kept = held.without(key[0])
            shared = -(-(held.vcpus - key[0] + asked[0]) * asked[3] // asked[2])
            cpus = max(shared, asked[0], kept) - held.owned - on.free_cpus
        else:
            cpus = lacking_cpus - on.freed(key)
        memory_mib = lacking_mib - key[1]
        lacking = beyond = 0.0
        if cpus > 0:
            lacking = cpus / on.capacity_cpus
        else:
            beyond = -cpus / on.capacity_cpus
        if memory_mib > 0:
            lacking += memory_mib / on.capacity_mib
        else:
            beyond -= memory_mib / on.capacity_mib
        yield lacking, beyond, key
