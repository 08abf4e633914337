"""How long a host takes to decide, to answer for its status and to start.

Decisions are measured on a half-full EPYC-7662. A state keeps what it has derived, and a decision
right after another finds little of that; so the figures with a bound are of states of which
nothing is derived yet, levels included, and the others say what a second look costs. Each is the
median of a batch, of three batches the quietest.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter_ns

from benchmarks import Figure, Progress
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.core.host import Host
from schedulerlocal.core.planner import plan_deploy, plan_remove
from schedulerlocal.core.state import HostState, Subset
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.core.steps import Plan

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGY = ROOT / "debug" / "topology_EPYC-7662.json"
VMS = 64
FREE_CPUS = 128
BATCHES = 3
ROUNDS = 400
WARM_UP = 50

PLAN_US = 150
STATUS_US = 50
DISTANCES_MS = 50
START_S = 0.3

DEPLOYS = {
    "1 vCPU at 1:1": (1, "1"),
    "4 vCPUs at 2:1": (4, "2"),
    "16 vCPUs at 2:1": (16, "2"),
    "4 vCPUs at a new level": (4, "4"),
}


def run(progress: Progress) -> list[Figure]:
    progress("building a half-full host")
    state = half_full()
    figures = []
    for name, (vcpus, level) in DEPLOYS.items():
        progress(f"deploying {name}")
        figures += _both(f"deploy {name}", state, _deploying(vcpus, Fraction(level)), PLAN_US)
    progress("removing")
    figures += _both("remove", state, lambda s: plan_remove(s, "vm5"))
    progress("answering")
    figures += _both("status", state, published_status, STATUS_US)
    figures += _both("progress", state, lambda s: deploy_progress(s, 4, 4_096, Fraction(2)))
    progress("distances")
    figures.append(Figure("distances of 256 CPUs", _distances_ms(), "ms", DISTANCES_MS))
    progress("starting")
    figures.append(Figure("schedulerlocal --help", _start_s(), "s of CPU", START_S))
    return figures


def _deploying(vcpus: int, level: Fraction) -> Callable[[HostState], object]:
    spec = VmSpec(name="new", vcpus=vcpus, memory_mib=4_096, level=level)
    return lambda state: plan_deploy(state, spec)


def half_full(seed: int = 6) -> HostState:
    """64 VMs at three levels that leave 128 of 256 CPUs free."""
    rng = Random(seed)
    state = HostState(Host(read_topology(TOPOLOGY)), {})
    for number in range(VMS - 1):
        state = _with(state, f"vm{number}", rng.choice((1, 2, 4, 6)), Fraction(1 + number % 3))
    # the last VM, at 1:1, makes the number of CPUs exact
    return _with(state, f"vm{VMS - 1}", len(state.free_cpus) - FREE_CPUS, Fraction(1))


def _with(state: HostState, name: str, vcpus: int, level: Fraction) -> HostState:
    spec = VmSpec(name=name, vcpus=vcpus, memory_mib=2_048 * vcpus, level=level)
    plan = plan_deploy(state, spec)
    if not isinstance(plan, Plan):
        raise TypeError(f"{name} does not fit: {plan.sentence}")
    return plan.after


def _both(
    name: str,
    state: HostState,
    decide: Callable[[HostState], object],
    bound_us: float | None = None,
) -> list[Figure]:
    fresh_us = min(
        _median_us(decide, [_fresh(state) for _ in range(ROUNDS)]) for _ in range(BATCHES)
    )
    seen_us = min(_median_us(decide, [state] * ROUNDS) for _ in range(BATCHES))
    return [
        Figure(name, fresh_us, "µs", bound_us),
        Figure(f"{name}, seen before", seen_us, "µs"),
    ]


def _fresh(state: HostState) -> HostState:
    """*state* with nothing derived yet."""
    subsets = {level: Subset(each.cpus, each.vms) for level, each in state.subsets.items()}
    return replace(state, subsets=subsets)


def _median_us(decide: Callable[[HostState], object], states: list[HostState]) -> float:
    took = []
    for state in states:
        began = perf_counter_ns()
        decide(state)
        took.append(perf_counter_ns() - began)
    return median(took[WARM_UP:]) / 1_000


def _distances_ms() -> float:
    topology = read_topology(TOPOLOGY)
    took = []
    for _ in range(9):
        unseen = replace(topology)
        began = perf_counter_ns()
        _ = unseen.distances
        took.append(perf_counter_ns() - began)
    return median(took) / 1e6


def _start_s() -> float:
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "schedulerlocal", "--help"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(took)
