"""The least number of equal hosts on which nothing is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from clustersim.bounds import volume_bound, whole_hosts
from clustersim.engine import MOVE, REMOVE, Event, Outcome, Strategy, run
from clustersim.hosts import SimulatedHosts
from clustersim.strategies import parse_strategy, strategy_of_a_level
from clustersim.workload import HostSize, Workload
from schedulercommon.levels import MIB_PER_GB, Level

FILLING = frozenset(
    {"first-fit", "best-fit", "product", "concentrated"}
    | {"best-fit-ram-first", "best-fit-cores-first"}
)
"""Policies that prefer any host to an empty one, and of equals the first. More hosts change nothing
before the first refusal, so that a run need not begin anew but goes on with one host more."""

Tried = Callable[[str, int, float], None]
"""Told now and then of a policy, the number of hosts it is tried on, and the seconds of the
workload it got through."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A workload on the least number of hosts that a policy needs for it."""

    policy: str
    hosts: int
    events: tuple[Event, ...]
    """In order of time; a timestamp's departures first, then arrivals in the workload's order,
    the moves that make room for one before it. VMs are rows of the workload, hosts are numbered
    from 0, of one cluster after another."""
    moves: int
    moved_mib: int

    @property
    def moved_gb(self) -> float:
        return self.moved_mib / MIB_PER_GB


def least_hosts(
    workload: Workload,
    host: HostSize,
    policy_name: str,
    seed: int = 0,
    tried: Tried = lambda *_: None,
) -> Sized:
    """Raises ValueError with a sentence for an unknown policy, or if a VM is larger than *host*.

    More hosts are not always enough for a policy, so every number from the bound upward counts.
    """
    of_a_level = strategy_of_a_level(policy_name)
    if of_a_level is None:
        strategy = parse_strategy(policy_name)
        outcome = _least(workload, host, strategy, seed, partial(tried, policy_name))
        return Sized(policy_name, outcome.hosts, outcome.events, outcome.moves, outcome.moved_mib)
    return _dedicated(workload, host, of_a_level, policy_name, seed, tried)


def _dedicated(
    workload: Workload,
    host: HostSize,
    strategy: Strategy,
    policy_name: str,
    seed: int,
    tried: Tried,
) -> Sized:
    vms_of: dict[Level, list[int]] = {}
    for vm, demand in enumerate(workload):
        vms_of.setdefault(demand.shape.level, []).append(vm)
    clusters: list[tuple[Outcome, list[int]]] = []
    hosts = 0

    def tried_too(more: int, now_s: float) -> None:
        tried(policy_name, hosts + more, now_s)

    for level in sorted(vms_of):
        vms = vms_of[level]
        outcome = _least(tuple(workload[vm] for vm in vms), host, strategy, seed, tried_too)
        clusters.append((outcome, vms))
        hosts += outcome.hosts
    return Sized(
        policy_name,
        hosts,
        _joined(clusters),
        sum(outcome.moves for outcome, _ in clusters),
        sum(outcome.moved_mib for outcome, _ in clusters),
    )


def _least(
    workload: Workload,
    host: HostSize,
    strategy: Strategy,
    seed: int,
    tried: Callable[[int, float], None],
) -> Outcome:
    hosts = whole_hosts(volume_bound(workload, host))
    if strategy.moves is None and strategy.policy.name in FILLING:
        filled = SimulatedHosts(host, hosts)
        return run(
            workload,
            filled,
            strategy,
            seed=seed,
            growing=True,
            watch=lambda now_s: tried(len(filled), now_s),
        )
    while True:
        outcome = run(
            workload,
            SimulatedHosts(host, hosts),
            strategy,
            seed=seed,
            stop_at_refusal=True,
            watch=partial(tried, hosts),
        )
        if not outcome.refused:
            return outcome
        if hosts >= len(workload):  # an empty host is left for everyone
            raise ValueError("a VM is larger than any host; make the hosts larger")
        hosts += 1


def _joined(clusters: Iterable[tuple[Outcome, Sequence[int]]]) -> tuple[Event, ...]:
    """What happened in all *clusters*, hosts numbered on, VMs by their rows in the whole."""
    keyed: list[tuple[tuple[float, int, float], Event]] = []
    first_row = 0
    for cluster, vms in clusters:
        whole = [
            event._replace(vm=vms[event.vm], row=first_row + event.row) for event in cluster.events
        ]
        keyed += reversed(list(_with_keys(reversed(whole))))
        first_row += cluster.hosts
    keyed.sort(key=lambda pair: pair[0])  # stable: what has the same key stays in its order
    return tuple(event for _, event in keyed)


def _with_keys(backwards: Iterable[Event]) -> Iterator[tuple[tuple[float, int, float], Event]]:
    """Where each belongs: moves go with the arrival they make room for, or after all arrivals."""
    following: tuple[float, int, float] = (inf, 0, 0.0)
    for event in backwards:
        if event.kind != MOVE:
            following = (event.time_s, int(event.kind != REMOVE), event.vm)
        elif following[0] != event.time_s:
            following = (event.time_s, 1, inf)
        yield following, event
