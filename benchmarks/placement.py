"""How long it takes to choose a host, in process, and to count the VM there.

Hosts differ in size and are 30 to 100 % full of VMs at three levels. A request's shape is either
new each time, so that every host is scored, or one asked for over and over, whose kept scores
follow the hosts that changed. Each figure is the median of a batch, of three batches the quietest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import count, islice, repeat
from random import Random
from statistics import median
from time import perf_counter_ns

from benchmarks import Figure, Progress
from schedulercommon.model import HostStatus, LevelStatus
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.arrivals import ENOUGH, Arrivals
from schedulerglobal.core.policies import POLICIES, Policy
from schedulerglobal.core.ranking import Ranker, Turn, Wishes
from schedulerglobal.core.view import ClusterView, Shape

BATCHES = 3
ROUNDS = {10_000: 600, 100_000: 200}
WARM_UP = 20

DISTINCT_US = {10_000: 100, 100_000: 1_500}
REPEATED_US = {10_000: None, 100_000: 25}

SIZES = (
    (16, 4_096),
    (32, 4_096),
    (32, 8_192),
    (64, 4_096),
    (96, 2_730),
    (128, 8_192),
    (256, 4_030),
)
"""CPUs, and MiB of memory for each."""
LEVELS = (Fraction(1), Fraction(2), Fraction(3))
VCPUS = (1, 1, 1, 2, 2, 4, 4, 8, 16)
MIB_PER_VCPU = (1_024, 2_048, 4_096)
OVERHEAD_MIB = 128
COMMON = Shape(2, 4_096, Fraction(2))


def run(progress: Progress) -> list[Figure]:
    figures = []
    for hosts, rounds in ROUNDS.items():
        progress(f"filling {hosts} hosts")
        view = cluster(hosts)
        fresh = _distinct(Random(5))
        progress(f"new shapes on {hosts} hosts")
        each_us = _quietest_us(view, POLICIES["progress"], fresh, rounds)
        figures += _both(f"{hosts} hosts, a new shape each time", each_us, DISTINCT_US[hosts])
        progress(f"the same shape on {hosts} hosts")
        each_us = _quietest_us(view, POLICIES["progress"], repeat(COMMON), 5 * rounds)
        figures += _both(f"{hosts} hosts, the same shape again", each_us, REPEATED_US[hosts])
    view = cluster(10_000)
    fresh = _distinct(Random(6))
    for name, policy in POLICIES.items():
        if name == policy.name != "progress":
            progress(name)
            each_us = _quietest_us(view, policy, fresh, 200)
            figures.append(Figure(f"10000 hosts, a new shape each time, {name}", each_us, "µs"))
    progress("wishes")
    wishes = Wishes(refused=dict.fromkeys(range(0, 10_000, 200), "it has one of these already"))
    each_us = _quietest_us(view, POLICIES["progress"], repeat(COMMON), 200, wishes)
    figures.append(Figure("10000 hosts, the same shape away from 50 hosts", each_us, "µs"))
    return figures


def cluster(hosts: int, seed: int = 4) -> ClusterView:
    """Hosts of several sizes, 30 to 100 % full."""
    rng, view = Random(seed), ClusterView()
    for number in range(hosts):
        cpus, mib_per_cpu = rng.choice(SIZES)
        name = f"host{number}"
        view.set_status(view.add(name), _filled(rng, name, cpus, cpus * mib_per_cpu))
    return view


def _filled(rng: Random, name: str, cpus: int, memory_mib: int) -> HostStatus:
    """A host that VMs were placed on until the first did not fit within its share of load."""
    load = rng.uniform(0.3, 1.0)
    levels: dict[Fraction, LevelStatus] = {}
    allocated_mib = vms = 0
    while True:
        level, vcpus = rng.choice(LEVELS), rng.choice(VCPUS)
        before = levels.get(level, LevelStatus(level, 0, 0, 0))
        largest = max(before.largest_vcpus, vcpus)
        owned = cpus_needed(before.vcpus + vcpus, largest, level)
        others = sum(each.cpus for each in levels.values()) - before.cpus
        added_mib = vcpus * rng.choice(MIB_PER_VCPU) + OVERHEAD_MIB
        if others + owned > load * cpus or allocated_mib + added_mib > load * memory_mib:
            break
        levels[level] = LevelStatus(level, owned, before.vcpus + vcpus, largest)
        allocated_mib += added_mib
        vms += 1
    return HostStatus(
        name, 1, cpus, memory_mib, allocated_mib, tuple(levels.values()), OVERHEAD_MIB, vms
    )


def _distinct(rng: Random) -> Iterator[Shape]:
    """Shapes of which no two are the same."""
    for number in count():
        vcpus = rng.choice(VCPUS)
        yield Shape(vcpus, vcpus * rng.choice(MIB_PER_VCPU) - number % 1_000, rng.choice(LEVELS))


def _quietest_us(
    view: ClusterView,
    policy: Policy,
    shapes: Iterable[Shape],
    rounds: int,
    wishes: Wishes | None = None,
) -> float:
    # what is asked for is known, without which "tight" is another policy
    known = islice(_distinct(Random(7)), 2 * ENOUGH)
    learnt = Arrivals(tuple([(shape, 1) for shape in known]))
    ranker = Ranker(view, Turn(Random(1)), learnt)
    return min(_batch_us(view, ranker, policy, shapes, rounds, wishes) for _ in range(BATCHES))


def _batch_us(
    view: ClusterView,
    ranker: Ranker,
    policy: Policy,
    shapes: Iterable[Shape],
    rounds: int,
    wishes: Wishes | None,
) -> float:
    took = []
    for shape in islice(shapes, rounds):
        began = perf_counter_ns()
        ranker.arrived(shape)
        row = ranker.best(shape, policy, wishes)
        if row is None:
            raise ValueError(f"the cluster is too full for {shape}")
        view.reserve(row, shape)
        ranker.placed(policy, row)
        took.append(perf_counter_ns() - began)
    return median(took[WARM_UP:]) / 1_000


def _both(name: str, each_us: float, bound_us: float | None) -> list[Figure]:
    return [
        Figure(name, each_us, "µs", bound_us),
        Figure(f"{name}: decisions", 1e6 / each_us, "/s"),
    ]
