"""The least number of equal hosts on which nothing is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clustersim.bounds import volume_bound, whole_hosts
from clustersim.engine import MOVE, PLACE, REMOVE, Event, Outcome, Strategy, run
from clustersim.hosts import SimulatedHosts
from clustersim.workload import Demand, HostSize, Workload
from schedulerglobal.core.policies import POLICIES
from schedulerglobal.core.view import Shape

DEDICATED = "dedicated"
"""One cluster for each level, first-fit."""
FIRST_FIT = "first-fit"

FILLING = frozenset(
    {"first-fit", "best-fit", "product", "concentrated"}
    | {"best-fit-ram-first", "best-fit-cores-first"}
)
"""Policies that take an empty host only when no other has room, and of those the first. More hosts
change nothing before the first refusal, so instead of anew, a run goes on with one host more."""

Tried = Callable[[str, int], None]
"""Told of a policy and a number of hosts about to be tried."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A workload on the least number of hosts that a policy needs for it."""

    policy: str
    hosts: int
    events: tuple[Event, ...]
    """In order of time; a timestamp's departures first, then arrivals in the workload's order,
    the moves that make room for one before it."""
    moves: int
    moved_mib: int

    @property
    def moved_gb(self) -> float:
        return self.moved_mib / 1024


def least_hosts(
    workload: Workload,
    host: HostSize,
    policy_name: str,
    seed: int = 0,
    tried: Tried = lambda *_: None,
) -> Sized:
    """Raises ValueError with a sentence for an unknown policy. No VM may be larger than *host*.

    More hosts are not always enough for a policy, so every number from the bound upward is tried.
    """
    name, _, moves = policy_name.partition("+")
    if name == DEDICATED:
        part = FIRST_FIT + policy_name.removeprefix(DEDICATED)
        return _dedicated(workload, host, parse_strategy(part), policy_name, seed, tried)
    strategy = parse_strategy(policy_name)
    outcome = _least(workload, host, strategy, policy_name, seed, tried)
    return Sized(policy_name, outcome.hosts, outcome.events, outcome.moves, outcome.moved_mib)


def parse_strategy(text: str) -> Strategy:
    raise NotImplementedError


def _least(*_: object) -> Outcome:
    raise NotImplementedError


def _dedicated(*_: object) -> Sized:
    raise NotImplementedError
