"""When VMs move in a simulation: to make room for a request that would be refused, or by the
clock, on a credit of moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

from clustersim.engine import Rebalancer
from clustersim.hosts import SimulatedHosts
from schedulerglobal.core.moves import Move, plan_clearing
from schedulerglobal.core.policies import Policy
from schedulerglobal.core.ranking import Ranker
from schedulerglobal.core.view import Shape


@dataclass(slots=True)
class _OnRefusal:
    hosts: SimulatedHosts
    every_s: float = inf

    def on_refusal(self, shape: Shape) -> Sequence[Move[int]]:
        clearing = plan_clearing(self.hosts.view, self.hosts.vms, shape)
        return clearing.moves if clearing else ()

    def due(self) -> Sequence[Move[int]]:
        return ()


def _on_refusal(hosts: SimulatedHosts, _ranker: Ranker, _policy: Policy) -> _OnRefusal:
    return _OnRefusal(hosts)


REBALANCERS: Mapping[str, Rebalancer] = MappingProxyType({"on-refusal": _on_refusal})
