"""When VMs move in a simulation: to make room for a request that would be refused, with moves that
loosen the cluster or without, or by the clock, on a credit of moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from types import MappingProxyType

from clustersim.engine import Rebalancer
from clustersim.hosts import SimulatedHosts
from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.gains import plan_gains
from schedulerglobal.core.moves import Move
from schedulerglobal.core.policies import Policy
from schedulerglobal.core.ranking import Ranker
from schedulerglobal.core.room import MOST_GAINS, plan_room
from schedulerglobal.core.view import Shape

_DAY_S, _HOUR_S = 86_400.0, 3_600.0
_DAILY_SHARE = Fraction(1, 20)
"""Of the VMs, that may move in a day by the clock."""


@dataclass(slots=True)
class _OnRefusal:
    hosts: SimulatedHosts
    arrivals: Arrivals
    most_gains: int
    every_s: float = inf

    def on_refusal(self, shape: Shape) -> Sequence[Move[int]]:
        view, vms = self.hosts.view, self.hosts.vms
        clearing = plan_room(view, vms, self.arrivals, shape, most_gains=self.most_gains)
        return clearing.moves if clearing else ()

    def due(self) -> Sequence[Move[int]]:
        return ()


@dataclass(slots=True)
class _ByTheClock:
    hosts: SimulatedHosts
    arrivals: Arrivals
    every_s: float
    credit: Fraction = Fraction(0)
    """Moves saved up, never more than those of a day."""

    def on_refusal(self, shape: Shape) -> Sequence[Move[int]]:  # noqa: ARG002
        return ()

    def due(self) -> Sequence[Move[int]]:
        of_a_day = len(self.hosts.row_of) * _DAILY_SHARE
        earned = of_a_day * Fraction(self.every_s) / Fraction(_DAY_S)
        self.credit = min(self.credit + earned, of_a_day)
        moves = plan_gains(self.hosts.view, self.hosts.vms, self.arrivals, int(self.credit))
        self.credit -= len(moves)
        return moves


def _on_refusal(hosts: SimulatedHosts, ranker: Ranker, _policy: Policy) -> _OnRefusal:
    return _OnRefusal(hosts, ranker.arrivals, MOST_GAINS)


def _clearing(hosts: SimulatedHosts, ranker: Ranker, _policy: Policy) -> _OnRefusal:
    return _OnRefusal(hosts, ranker.arrivals, most_gains=0)


def _hourly(hosts: SimulatedHosts, ranker: Ranker, _policy: Policy) -> _ByTheClock:
    return _ByTheClock(hosts, ranker.arrivals, _HOUR_S)


def _daily(hosts: SimulatedHosts, ranker: Ranker, _policy: Policy) -> _ByTheClock:
    return _ByTheClock(hosts, ranker.arrivals, _DAY_S)


REBALANCERS: Mapping[str, Rebalancer] = MappingProxyType(
    {"on-refusal": _on_refusal, "clearing": _clearing, "hourly": _hourly, "daily": _daily}
)
