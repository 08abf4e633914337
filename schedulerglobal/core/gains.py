"""Which VMs move so that more of what is expected fits, while nobody waits for it.

A move is worth what the shapes to come gain by it, at their prices (:mod:`tight`): what its source
is worth more without the VM, less what its destination loses with it. The move of the largest
gain is taken, then that of what is left, until the moves are used up or none gains anything. A VM
counts on both hosts while it moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic

import numpy as np

from schedulercommon.levels import Level
from schedulercommon.model import HostStatus, LevelStatus
from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.layout import Key, Standing, Vm, key_of, read_standing
from schedulerglobal.core.moves import Move
from schedulerglobal.core.tight import ExpectedFit
from schedulerglobal.core.view import ClusterView, Shape
from schedulerglobal.core.worth import SCALE

_NO_GAIN = 1e-12
"""In the units of the policy's scores: less is a rounding error."""


def plan_gains(
    view: ClusterView,
    vms: Sequence[Mapping[Vm, Shape]],
    arrivals: Arrivals,
    most_moves: int,
) -> tuple[Move[Vm], ...]:
    """At most so many moves, to be made in order; none while nothing is expected. *vms* are those
    of each row, all of them."""
    if most_moves < 1 or not arrivals.expected:
        return ()
    return Rehearsal(view, vms, arrivals).make_best(most_moves)


class Rehearsal(Generic[Vm]):
    """A cluster like the one of the view, on which moves are made as they are planned."""

    def __init__(
        self, view: ClusterView, vms: Sequence[Mapping[Vm, Shape]], arrivals: Arrivals
    ) -> None:
        self._hosts = [read_standing(view, row, vms[row]) for row in range(len(view))]
        self._shapes = {key_of(shape): shape for each in vms for shape in each.values()}
        self.view = _copy(view, self._hosts)
        self._fit = ExpectedFit(self.view, arrivals)

    @property
    def vms(self) -> list[dict[Vm, Shape]]:
        """Those of each row, as the moves have left them."""
        shapes = self._shapes
        return [{vm: shapes[key] for vm, key in host.vms.items()} for host in self._hosts]

    def make_best(self, most_moves: int) -> tuple[Move[Vm], ...]:
        """At most so many, each the best once those before it are made."""
        moves: list[Move[Vm]] = []
        while len(moves) < most_moves and (move := self.best()) is not None:
            self.make(move)
            moves.append(move)
        return tuple(moves)

    def best(self) -> Move[Vm] | None:
        """The move with the largest gain; None if none gains anything."""
        found, most = None, _NO_GAIN
        expected, prices = self._fit.prices()
        prices = prices / (SCALE * prices.sum())
        rows = slice(len(self.view))
        rooms = expected.rooms(self.view, rows)
        worth = prices @ expected.worth(rooms)
        if len(self._hosts) < 2:
            return None
        for key, vms in self._running().items():
            shape, of = self._shapes[key], [self._hosts[row] for row in vms]
            sources = np.array(list(vms), np.intp)
            freed = np.array([host.freed(key) for host in of])
            after = expected.without_one(rooms[:, sources], shape, freed)
            gains = prices @ expected.worth(after) - worth[sources]
            losses = -self._fit.scores(shape)
            # the two hosts that lose least, for one of them may be the source
            first, second = np.argsort(losses, kind="stable")[:2].tolist()
            gains -= np.where(sources == first, losses[second], losses[first])
            place = int(gains.argmax())
            if gains[place] > most:
                most, row = float(gains[place]), int(sources[place])
                found = Move(vms[row], row, second if row == first else first)
        return found

    def make(self, move: Move[Vm]) -> None:
        source, destination = self._hosts[move.source], self._hosts[move.destination]
        key = source.vms[move.vm]
        destination.add(move.vm, key)
        source.discard(move.vm)
        self.view.reserve(move.destination, self._shapes[key])
        left = source.levels.get(key[2:])
        self.view.release(move.source, self._shapes[key], left.sizes[-1] if left else 0)

    def _running(self) -> dict[Key, dict[int, Vm]]:
        """For each shape the hosts that have any of it, and its first VM on each. Room on a host
        where new VMs may not go gains nothing."""
        found: dict[Key, dict[int, Vm]] = {}
        for row, host in enumerate(self._hosts):
            if self.view.is_open(row):
                for vm, key in host.vms.items():
                    found.setdefault(key, {}).setdefault(row, vm)
        return found


def _copy(view: ClusterView, hosts: Sequence[Standing[Vm]]) -> ClusterView:
    new = ClusterView()
    for row, host in enumerate(hosts):
        levels = [
            LevelStatus(Level(*key), held.owned, held.vcpus, held.sizes[-1])
            for key, held in host.levels.items()
        ]
        new.set_status(
            new.add(view.names[row]),
            HostStatus(
                name=view.names[row],
                generation=0,
                capacity_cpus=host.capacity_cpus,
                capacity_memory_mib=host.capacity_mib,
                allocated_memory_mib=host.capacity_mib - host.room_mib - host.overhead_mib,
                levels=tuple(levels),
                vm_overhead_mib=host.overhead_mib,
                vms=len(host.vms),
            ),
        )
        new.set_open(row, view.is_open(row))
        new.set_preferred(row, view.is_preferred(row))
    return new
