"""A workload on a number of hosts: who goes where, who is refused, what moves.

Time is a heap of events. Of one timestamp, departures come first, then arrivals in the order of
the workload, then hosts that fail, hosts that are ready again, and moves that are due by the
clock. Nothing reads a clock; chance is drawn from the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import NamedTuple, Protocol

from clustersim.hosts import SimulatedHosts
from clustersim.workload import Workload
from schedulercommon.levels import Level
from schedulerglobal.core.policies import Policy
from schedulerglobal.core.ranking import Ranker, Turn
from schedulerglobal.core.view import Shape

PLACE, REMOVE, MOVE = "place", "remove", "move"

_WATCHED = 512  # arrivals
_DEPARTURE, _ARRIVAL, _FAILURE, _READY, _DUE = range(5)


class Move(Protocol):
    """One VM to another host."""

    @property
    def vm(self) -> int: ...
    @property
    def destination(self) -> int: ...


class Rebalancing(Protocol):
    """Which VMs move, and when. Plans are carried out in order, the room at a destination
    reserved before that at the source is given back; no step may over-commit a host."""

    every_s: float
    """How often :meth:`due` is asked; ``math.inf`` for never."""

    def on_refusal(self, shape: Shape) -> Sequence[Move]:
        """What makes room for *shape*, for which there is none; nothing if it cannot be done."""

    def due(self) -> Sequence[Move]: ...


Watch = Callable[[float], None]
"""Told now and then how far a run is, in seconds of the workload."""

Rebalancer = Callable[[SimulatedHosts, Ranker, Policy], Rebalancing]


@dataclass(frozen=True, slots=True)
class Strategy:
    """A policy of the global scheduler, and the moves that go with it."""

    name: str
    policy: Policy
    moves: Rebalancer | None = None


@dataclass(frozen=True, slots=True)
class Outage:
    """A host that fails and, unless *returns_s* is ``math.inf``, returns."""

    row: int
    fails_s: float
    returns_s: float = inf


class Event(NamedTuple):
    """What happened to a VM; of a move, *row* is the destination."""

    time_s: float
    kind: str
    vm: int
    row: int
    level: Level


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a workload."""

    hosts: int
    events: tuple[Event, ...]
    refused: tuple[int, ...]
    """VMs there was no room for when they arrived; they do not come again."""
    lost: tuple[int, ...]
    """VMs whose host failed and for which there was no room elsewhere."""
    restarted: int
    """VMs whose host failed, placed on another."""
    moves: int
    moved_mib: int
    peak_vms: int
    peak_cpus: int
    peak_memory_mib: int
    mean_cpus: float
    """Promised on all hosts together, over the time from the first event to the last."""
    mean_memory_mib: float


def run(
    workload: Workload,
    hosts: SimulatedHosts,
    strategy: Strategy,
    *,
    seed: int = 0,
    outages: Sequence[Outage] = (),
    boot_delay_s: float = 0.0,
    stop_at_refusal: bool = False,
    growing: bool = False,
    watch: Watch | None = None,
) -> Outcome:
    """What becomes of *workload* on *hosts*, which are empty to begin with.

    With *stop_at_refusal* nothing after the first is looked at; with *growing* there is none, but
    one more host instead. A host that returned takes VMs *boot_delay_s* later. The VMs of one
    that fails are placed anew at once, in order of their numbers; those there is no room for are
    lost, and do not come again when the host does.
    """
    return _Run(workload, hosts, strategy, seed, growing=growing).through(
        _timeline(workload, outages, boot_delay_s), watch, stop_at_refusal=stop_at_refusal
    )


_Timed = tuple[float, int, int]
"""When, what, and the VM or row."""


def _timeline(workload: Workload, outages: Sequence[Outage], boot_delay_s: float) -> list[_Timed]:
    timed = [(demand.arrival_s, _ARRIVAL, vm) for vm, demand in enumerate(workload)]
    again_s: dict[int, float] = {}
    for outage in sorted(outages, key=lambda outage: outage.fails_s, reverse=True):
        timed.append((outage.fails_s, _FAILURE, outage.row))
        ready_s = outage.returns_s + boot_delay_s
        # a host that fails again while it boots is not ready in between
        if ready_s < again_s.get(outage.row, inf):
            timed.append((ready_s, _READY, outage.row))
        again_s[outage.row] = outage.fails_s
    timed.sort()  # which makes it a heap
    return timed


class _Run:
    def __init__(
        self,
        workload: Workload,
        hosts: SimulatedHosts,
        strategy: Strategy,
        seed: int,
        *,
        growing: bool,
    ) -> None:
        self._workload = workload
        self._hosts = hosts
        self._policy = strategy.policy
        self._ranker = Ranker(hosts.view, Turn(Random(seed)))
        self._rebalancing = (
            strategy.moves(hosts, self._ranker, strategy.policy) if strategy.moves else None
        )
        self._growing = growing
        self._events: list[Event] = []
        self._refused: list[int] = []
        self._lost: list[int] = []
        self._restarted = 0
        self._moved = 0
        self._moved_mib = 0

    def through(self, heap: list[_Timed], watch: Watch | None, *, stop_at_refusal: bool) -> Outcome:
        workload, hosts, events = self._workload, self._hosts, self._events
        row_of = hosts.row_of
        first_s = before_s = heap[0][0] if heap else 0.0
        peak_vms = peak_cpus = peak_mib = 0
        cpu_s = mib_s = 0.0
        if self._rebalancing is not None and self._rebalancing.every_s < inf:
            heappush(heap, (first_s + self._rebalancing.every_s, _DUE, 0))
        while heap:
            now_s, what, number = heappop(heap)
            if now_s > before_s:
                elapsed_s = now_s - before_s
                cpu_s += hosts.cpus * elapsed_s
                mib_s += hosts.memory_mib * elapsed_s
                before_s = now_s
            if what == _DEPARTURE:
                if number in row_of:
                    row = hosts.remove(number)
                    level = workload[number].shape.level
                    events.append(Event(now_s, REMOVE, number, row, level))
                continue
            if what == _ARRIVAL:
                if watch is not None and number % _WATCHED == 0:
                    watch(now_s)
                demand = workload[number]
                self._ranker.arrived(demand.shape)
                if self._place(now_s, number, demand.shape):
                    if demand.departure_s < inf:
                        heappush(heap, (demand.departure_s, _DEPARTURE, number))
                    peak_vms = max(peak_vms, len(row_of))
                    peak_cpus = max(peak_cpus, hosts.cpus)
                    peak_mib = max(peak_mib, hosts.memory_mib)
                else:
                    self._refused.append(number)
                    if stop_at_refusal:
                        break
            elif what == _FAILURE:
                self._fail(now_s, number)
            elif what == _READY:
                hosts.return_(number)
            elif self._rebalancing is not None:
                self._move(now_s, self._rebalancing.due())
                if heap:
                    heappush(heap, (now_s + self._rebalancing.every_s, _DUE, 0))
        span_s = before_s - first_s
        return Outcome(
            hosts=len(hosts),
            events=tuple(events),
            refused=tuple(self._refused),
            lost=tuple(self._lost),
            restarted=self._restarted,
            moves=self._moved,
            moved_mib=self._moved_mib,
            peak_vms=peak_vms,
            peak_cpus=peak_cpus,
            peak_memory_mib=peak_mib,
            mean_cpus=cpu_s / span_s if span_s else float(hosts.cpus),
            mean_memory_mib=mib_s / span_s if span_s else float(hosts.memory_mib),
        )

    def _place(self, now_s: float, vm: int, shape: Shape) -> bool:
        row = self._ranker.best(shape, self._policy)
        if row is None and self._rebalancing is not None:
            moves = self._rebalancing.on_refusal(shape)
            if moves:
                self._move(now_s, moves)
                row = self._ranker.best(shape, self._policy)
        if row is None:
            if not self._growing:
                return False
            row = self._hosts.add()
        self._hosts.place(vm, shape, row)
        self._ranker.placed(self._policy, row)
        self._events.append(Event(now_s, PLACE, vm, row, shape.level))
        return True

    def _move(self, now_s: float, moves: Sequence[Move]) -> None:
        for move in moves:
            shape = self._workload[move.vm].shape
            self._hosts.move(move.vm, move.destination)
            self._moved += 1
            self._moved_mib += shape.memory_mib
            self._events.append(Event(now_s, MOVE, move.vm, move.destination, shape.level))

    def _fail(self, now_s: float, row: int) -> None:
        stopped = sorted(self._hosts.fail(row).items())
        self._events += [Event(now_s, REMOVE, vm, row, shape.level) for vm, shape in stopped]
        for vm, shape in stopped:
            if self._place(now_s, vm, shape):
                self._restarted += 1
            else:
                self._lost.append(vm)
