"""Which VMs move when no host has room for a request: first those that loosen the cluster.

Where hosts with CPUs to spare have no memory and hosts with memory have no CPUs, hardly any VM can
move, and clearing one host for each request (:mod:`moves`) uses up the little room that is left to
move in. So the moves of the largest gain in expected fit come first (:mod:`gains`): they bring
together what is free while it still can be, for this request and those after it, which near a peak
of demand come in bursts. Then, if there still is no room, a host is cleared. A cluster that can be
cleared only as it is, is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.gains import Rehearsal
from schedulerglobal.core.layout import Vm
from schedulerglobal.core.moves import MOST_MOVES, Clearing, plan_clearing
from schedulerglobal.core.view import ClusterView, Shape

MOST_GAINS = 10
"""Moves, before a host is cleared. From 4 to 10 the hosts that a week needs become fewer, from
then on hardly; the largest gains come first."""


def plan_room(
    view: ClusterView,
    vms: Sequence[Mapping[Vm, Shape]],
    arrivals: Arrivals,
    shape: Shape,
    *,
    rows: Collection[int] | None = None,
    most_gains: int = MOST_GAINS,
    most_moves: int = MOST_MOVES,
) -> Clearing[Vm] | None:
    """At most *most_gains* moves and then *most_moves*, after which one of *rows* (all, if None)
    has room for *shape*; None if they do not lead there. *vms* are those of each row, all of
    them."""
    if most_gains > 0 and arrivals.expected:
        rehearsal = Rehearsal(view, vms, arrivals)
        gains = rehearsal.make_best(most_gains)
        clearing = plan_clearing(
            rehearsal.view, rehearsal.vms, shape, rows=rows, most_moves=most_moves
        )
        if clearing is not None:
            return Clearing(clearing.row, (*gains, *clearing.moves))
    return plan_clearing(view, vms, shape, rows=rows, most_moves=most_moves)
