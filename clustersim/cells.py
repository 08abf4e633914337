"""What a sweep is made of: one workload, sized for one policy. The same cell gives the same row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from clustersim.bounds import volume_bound
from clustersim.columngeneration import column_bound
from clustersim.engine import REMOVE, Event
from clustersim.generator import RANK_CORRELATION, TURNOVER, Recipe, generate
from clustersim.peaks import Peak, daily_peaks, peak
from clustersim.published import Mix, percents
from clustersim.size import least_hosts
from clustersim.workload import HostSize, Workload, too_large
from schedulercommon.levels import Level
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.view import Shape

COLUMN_GENERATION = "column-generation"
"""Stands where a policy does for a row that holds a bound: what no policy can do without."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all cells of a sweep share."""

    host: HostSize
    vms: int
    days: float
    turnover: float = TURNOVER
    correlation: float = RANK_CORRELATION


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    workload: str
    mix: Mix
    seed: int
    policy: str

    def __str__(self) -> str:
        return f"{self.workload} {percents(self.mix)} seed {self.seed} {self.policy}"


@dataclass(frozen=True, slots=True)
class AtPeak:
    """The hosts when demand is largest."""

    free_cpus: int
    free_memory_mib: int
    hosts_by_percent: tuple[tuple[int, int], ...]
    """How full hosts are, in per cent rounded down of CPUs or memory, whichever is fuller, and how
    many hosts are so, ascending."""


@dataclass(frozen=True, slots=True)
class Row:
    """A finished cell."""

    cell: Cell
    setting: Setting
    hosts: int
    bound: float
    """The volume bound, not rounded."""
    moves: int = 0
    moved_mib: int = 0
    at_peak: AtPeak | None = None
    """None of a row that holds a bound."""


def run_cell(cell: Cell, setting: Setting) -> Row:
    """Raises ValueError with a sentence if no host takes one of the VMs drawn."""
    workload, bound = _drawn(cell.workload, cell.mix, cell.seed, setting)
    if cell.policy == COLUMN_GENERATION:
        proven = (
            _column_hosts(workload, each, setting) for each in daily_peaks(workload, setting.host)
        )
        return Row(cell, setting, max(proven, default=0), bound)
    sized = least_hosts(workload, setting.host, cell.policy, seed=cell.seed)
    found = peak(workload, setting.host)
    return Row(
        cell,
        setting,
        sized.hosts,
        bound,
        sized.moves,
        sized.moved_mib,
        _at_peak(workload, sized.events, sized.hosts, found, setting.host),
    )


def _column_hosts(workload: Workload, found: Peak, setting: Setting) -> int:
    return column_bound([workload[vm].shape for vm in found.vms], setting.host).whole_hosts


@lru_cache(maxsize=4)
def _drawn(provider: str, mix: Mix, seed: int, setting: Setting) -> tuple[Workload, float]:
    """Cells of one workload come one after another: it is drawn once for some of them."""
    recipe = Recipe(
        provider,
        mix,
        vms=setting.vms,
        days=setting.days,
        seed=seed,
        turnover=setting.turnover,
        correlation=setting.correlation,
    )
    workload = generate(recipe)
    vm = too_large(workload, setting.host)
    if vm is not None:
        shape = workload[vm].shape
        raise ValueError(
            f"VM {vm}, of {shape.vcpus} vCPUs and {shape.memory_mib} MiB, is larger than any host;"
            " make the hosts larger with --host"
        )
    return workload, volume_bound(workload, setting.host)


def _at_peak(
    workload: Workload, events: Sequence[Event], hosts: int, found: Peak, host: HostSize
) -> AtPeak:
    row_of: dict[int, int] = {}
    for event in events:
        if event.time_s > found.time_s:
            break
        if event.kind != REMOVE:
            row_of[event.vm] = event.row
    vms: list[list[Shape]] = [[] for _ in range(hosts)]
    for vm in found.vms:
        vms[row_of[vm]].append(workload[vm].shape)
    cpus = [_owned(shapes) for shapes in vms]
    memory_mib = [sum(shape.memory_mib for shape in shapes) for shapes in vms]
    fullest = Counter(
        max(100 * used // host.cpus, 100 * mib // host.memory_mib)
        for used, mib in zip(cpus, memory_mib, strict=True)
    )
    return AtPeak(
        free_cpus=hosts * host.cpus - sum(cpus),
        free_memory_mib=hosts * host.memory_mib - sum(memory_mib),
        hosts_by_percent=tuple(sorted(fullest.items())),
    )


def _owned(shapes: Iterable[Shape]) -> int:
    """CPUs that the levels of a host own together."""
    vcpus: dict[Level, list[int]] = {}
    for shape in shapes:
        vcpus.setdefault(shape.level, []).append(shape.vcpus)
    return sum(cpus_needed(sum(each), max(each), level) for level, each in vcpus.items())
