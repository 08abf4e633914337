"""Holds a placements CSV against the trace it is for, knowing nothing of who wrote it.

Only the two texts are read, with rules of its own: every host is counted anew after every event.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass
class _Vm:
    arrival: float
    departure: float | None
    vcpus: int
    memory_mib: int
    level: Fraction
    host: int | None = None
    placed: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)


def hosts_used(
    placements: str,
    trace: str,
    cpus: int,
    memory_mib: int,
    *,
    refused: Iterable[int] = (),
    failures: bool = False,
) -> dict[str, int]:
    """How many hosts each policy put VMs on, once nothing was found wrong: hosts hold what is on
    them at all times; every VM but those *refused* is placed when it arrives and removed when it
    departs; a timestamp's departures come first, its arrivals in the order of the trace. With
    *failures*, VMs may also be removed in between, and placed again at the same time or never."""
    by_policy: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader(placements.splitlines()):
        by_policy[row["policy"]].append(row)
    return {
        policy: _checked(rows, trace, cpus, memory_mib, set(refused), failures)
        for policy, rows in by_policy.items()
    }


def _checked(
    rows: list[dict[str, str]],
    trace: str,
    cpus: int,
    memory_mib: int,
    refused: set[int],
    failures: bool,
) -> int:
    vms = [_vm(row) for row in csv.DictReader(trace.splitlines())]
    on: dict[int, set[int]] = defaultdict(set)
    now = float("-inf")
    arrived = -1
    departing = True
    for row in rows:
        time, number, host = float(row["time_s"]), int(row["vm"]), int(row["host"])
        vm = vms[number]
        assert time >= now, row
        assert host >= 0, row
        if time > now:
            now, arrived, departing = time, -1, True
        assert Fraction(row["level"]) == vm.level, row
        if row["event"] == "remove":
            assert vm.host == host, row
            assert departing or failures, row
            assert failures or time == vm.departure, row
            vm.removed.append(time)
            vm.host = None
            on[host].remove(number)
            continue
        departing = False
        if row["event"] == "place":
            assert vm.host is None, row
            if not vm.placed:
                assert time == vm.arrival, row
                assert number > arrived, row
                arrived = number
            else:
                assert failures, row
                assert vm.removed[-1] == time, row
            vm.placed.append(time)
        else:
            assert row["event"] == "move", row
            assert vm.host not in (None, host), row
            assert vm.host is not None
            on[vm.host].remove(number)
        vm.host = host
        on[host].add(number)
        there = [vms[each] for each in on[host]]
        assert sum(each.memory_mib for each in there) <= memory_mib, row
        assert _cpus(there) <= cpus, row
    for number, vm in enumerate(vms):
        assert bool(vm.placed) != (number in refused), number
        if vm.placed and not failures:
            assert vm.placed == [vm.arrival], number
            assert vm.removed == ([] if vm.departure is None else [vm.departure]), number
        elif vm.placed and vm.departure is not None:
            assert vm.host is None, number
    return len(on)


def _cpus(vms: list[_Vm]) -> int:
    """Whole CPUs of every level, no fewer than its largest VM has vCPUs."""
    total = 0
    for level in {vm.level for vm in vms}:
        sizes = [vm.vcpus for vm in vms if vm.level == level]
        enough = 0
        while enough * level < sum(sizes) or enough < max(sizes):
            enough += 1
        total += enough
    return total


def volume(trace: str, cpus: int, memory_mib: int) -> Fraction:
    """Hosts that what runs would fill to the brim, at the worst moment."""
    vms = [_vm(row) for row in csv.DictReader(trace.splitlines())]
    most = Fraction(0)
    for moment in {vm.arrival for vm in vms}:
        there = [
            vm
            for vm in vms
            if vm.arrival <= moment and (vm.departure is None or moment < vm.departure)
        ]
        needed = sum((Fraction(vm.vcpus) / vm.level for vm in there), Fraction(0))
        memory = sum(vm.memory_mib for vm in there)
        most = max(most, needed / cpus, Fraction(memory, memory_mib))
    return most


def _vm(row: dict[str, str]) -> _Vm:
    return _Vm(
        float(row["arrival_s"]),
        float(row["departure_s"]) if row["departure_s"] else None,
        int(row["vcpus"]),
        int(row["memory_mib"]),
        Fraction(row["level"]),
    )
