"""How many VMs a policy places a second in a cluster that VMs keep leaving, in process.

Equal hosts, most of them full of VMs of some hundred shapes at three levels; from then on one VM
leaves, drawn by lot, for each that is placed: a round is a placement and a departure. Figures are
of processor time, that of all threads together, so that they hold for one core; of three batches
the quickest.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from fractions import Fraction
from random import Random
from time import process_time_ns

from benchmarks import Figure, Progress
from schedulercommon.model import HostStatus
from schedulerglobal.core.policies import POLICIES, Policy
from schedulerglobal.core.ranking import Ranker, Turn
from schedulerglobal.core.view import ClusterView, Shape

BATCHES = 3
CPUS, MEMORY_MIB = 32, 131_072
SPARE = 0.1
LEVELS = (Fraction(1), Fraction(2), Fraction(3))
VCPUS = {1: 0.10, 2: 0.48, 4: 0.34, 8: 0.05, 16: 0.03}
MEMORY_GB = {2: 0.10, 4: 0.21, 7: 0.27, 8: 0.14, 15: 0.20, 30: 0.05, 60: 0.03}
"""Shares of the VMs of a public provider."""
FEW = 65
"""Hosts of a simulated cluster."""

PER_SECOND = {
    ("best-fit", 10_000): 5_000.0,
    ("best-fit", 100_000): 2_000.0,
    ("tight", 10_000): 1_000.0,
}
FEW_US = {name: 200.0 if name == "tight" else 100.0 for name in ("best-fit", "product", "tight")}
MOST_MIB = 1_024.0
ROUNDS = 2_000


class Cluster:
    """Hosts and their VMs."""

    def __init__(self, hosts: int, seed: int = 7) -> None:
        self.view, self._rng = ClusterView(), Random(seed)
        for number in range(hosts):
            name = f"host{number}"
            status = HostStatus(name, 1, CPUS, MEMORY_MIB, 0, ())
            self.view.set_status(self.view.add(name), status)
        self.shapes = _shapes(self._rng)
        self.ranker = Ranker(self.view, Turn(Random(1)))
        self._vms: list[tuple[int, Shape]] = []
        self._levels: list[dict[Fraction, list[int]]] = [{} for _ in range(hosts)]
        self._fill(hosts)

    def _fill(self, hosts: int) -> None:
        """One host after another, until the first VM that is too much for it."""
        for row in range(hosts):
            while self.view.free(row)[0] > 0:
                shape = next(self.shapes)
                free_cpus, free_mib = self.view.free(row)
                if shape.vcpus > free_cpus - SPARE * CPUS or shape.memory_mib > free_mib:
                    break
                self.ranker.arrived(shape)
                self._put(row, shape)

    def place(self, policy: Policy, shape: Shape) -> bool:
        row = self.ranker.best(shape, policy)
        if row is not None:
            self._put(row, shape)
        return row is not None

    def _put(self, row: int, shape: Shape) -> None:
        self.view.reserve(row, shape)
        self._vms.append((row, shape))
        self._levels[row].setdefault(shape.level, []).append(shape.vcpus)

    def remove_any(self) -> None:
        place = self._rng.randrange(len(self._vms))
        row, shape = self._vms[place]
        self._vms[place] = self._vms[-1]
        self._vms.pop()
        left = self._levels[row][shape.level]
        left.remove(shape.vcpus)
        self.view.release(row, shape, max(left, default=0))

    def round(self, policy: Policy) -> None:
        shape = next(self.shapes)
        self.ranker.arrived(shape)
        if self.place(policy, shape):
            self.remove_any()


def run(progress: Progress) -> list[Figure]:
    figures = []
    for hosts in (FEW, 10_000, 100_000):
        progress(f"filling {hosts} hosts")
        cluster = Cluster(hosts)
        for name in ("best-fit", "product", "tight"):
            if name == "tight" and hosts > 10_000:
                continue
            progress(f"{name} on {hosts} hosts")
            rate = _fastest(cluster, POLICIES[name])
            if hosts == FEW:
                figures.append(
                    Figure(f"{hosts} hosts, {name}: a round", 1e6 / rate, "µs", FEW_US[name])
                )
            else:
                bound = PER_SECOND.get((name, hosts))
                figures.append(Figure(f"{hosts} hosts, {name}", rate, "/s", bound, at_least=True))
    most_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    figures.append(Figure("memory of the process, at most", most_mib, "MiB", MOST_MIB))
    return figures


def _shapes(rng: Random) -> Iterator[Shape]:
    """vCPUs and memory grow together, loosely."""
    vcpus, memory_gb = (sorted(_stretched(of)) for of in (VCPUS, MEMORY_GB))
    while True:
        at = rng.random()
        near = min(max(at + rng.gauss(0, 0.2), 0.0), 0.999)
        yield Shape(
            vcpus[int(at * len(vcpus))],
            memory_gb[int(near * len(memory_gb))] * 1_024,
            rng.choice(LEVELS),
        )


def _stretched(shares: dict[int, float]) -> list[int]:
    return [value for value, share in shares.items() for _ in range(round(100 * share))]


def _fastest(cluster: Cluster, policy: Policy) -> float:
    """Rounds a second."""
    for _ in range(ROUNDS):
        cluster.round(policy)
    return max(_rate(cluster, policy) for _ in range(BATCHES))


def _rate(cluster: Cluster, policy: Policy) -> float:
    began = process_time_ns()
    for _ in range(ROUNDS):
        cluster.round(policy)
    return ROUNDS * 1e9 / (process_time_ns() - began)
