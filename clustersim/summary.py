"""What the cells of a sweep amount to: by mix beside the published figures, and by policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from clustersim.cells import COLUMN_GENERATION, Row, Setting
from clustersim.published import BY_MIX, Mix, PublishedRow
from clustersim.strategies import DEDICATED
from schedulercommon.levels import MIB_PER_GB

ORDER = (
    *(DEDICATED, "progress", "first-fit", "best-fit", "product", "tight"),
    *("product+on-refusal", "tight+clearing", "tight+on-refusal"),
)
"""In which policies are shown; others follow by name."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the seeds of a mix."""

    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class MixSummary:
    """One line of the table; policies of which no cell is finished are missing."""

    workload: str
    mix: Mix
    seeds: int
    bound: Spread
    """The volume bound, not rounded."""
    whole_bound: Spread
    """Each rounded up to whole hosts."""
    column_bound: Spread | None
    """Whole hosts, by column generation; None where it was not asked for."""
    hosts: Mapping[str, Spread]
    saving: Mapping[str, Spread]
    """The share of the hosts of one cluster per level that sharing does without."""
    published: PublishedRow | None


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """Means over all mixes and seeds; of the hosts when demand is largest."""

    cells: int
    above_bound: float
    """Hosts beyond the volume bound in whole hosts, as a share of it."""
    above_column_bound: float | None
    saving: float | None
    moves: float
    moved_gb: float
    free_cpus: float
    """The share of all CPUs that no level owns."""
    free_memory: float
    cdf: tuple[float, ...]
    """The share of hosts that are at most 0, 1, … 100 per cent full, rounded down."""


@dataclass(frozen=True, slots=True)
class Summary:
    setting: Setting
    seeds: tuple[int, ...]
    mixes: tuple[MixSummary, ...]
    """Workload by workload, in the published order of mixes, others behind."""
    policies: Mapping[str, PolicySummary]


_Workload = tuple[str, Mix, int]


def summarise(rows: Sequence[Row]) -> Summary:
    """Of one row or more, all of one setting."""
    by_policy: dict[str, dict[_Workload, Row]] = {}
    for row in rows:
        of = row.cell.workload, row.cell.mix, row.cell.seed
        by_policy.setdefault(row.cell.policy, {})[of] = row
    columns = by_policy.pop(COLUMN_GENERATION, {})
    ordered = {name: by_policy[name] for name in sorted(by_policy, key=_shown)}
    mixes: dict[tuple[str, Mix], list[Row]] = {}
    for row in rows:
        mixes.setdefault((row.cell.workload, row.cell.mix), []).append(row)
    published = list(BY_MIX)
    places = {key: place for place, key in enumerate(published)}
    in_order = sorted(mixes, key=lambda key: (places.get(key, len(places)), key))
    apart = ordered.get(DEDICATED, {})
    return Summary(
        rows[0].setting,
        tuple(sorted({row.cell.seed for row in rows})),
        tuple(_mix(key, mixes[key]) for key in in_order),
        {name: _policy(cells, apart, columns) for name, cells in ordered.items()},
    )


def of_workload(rows: Iterable[Row], workload: str) -> list[Row]:
    return [row for row in rows if row.cell.workload == workload]


def _shown(policy: str) -> tuple[int, str]:
    return (ORDER.index(policy) if policy in ORDER else len(ORDER)), policy


def _mix(key: tuple[str, Mix], rows: Sequence[Row]) -> MixSummary:
    bounds = {row.cell.seed: row.bound for row in rows}
    hosts: dict[str, dict[int, int]] = {}
    for row in sorted(rows, key=lambda row: _shown(row.cell.policy)):
        hosts.setdefault(row.cell.policy, {})[row.cell.seed] = row.hosts
    columns = hosts.pop(COLUMN_GENERATION, None)
    apart = hosts.get(DEDICATED, {})
    saving = {
        policy: [1 - count / apart[seed] for seed, count in counts.items() if apart.get(seed)]
        for policy, counts in hosts.items()
        if policy != DEDICATED
    }
    return MixSummary(
        *key,
        seeds=len(bounds),
        bound=_spread(bounds.values()),
        whole_bound=_spread(map(ceil, bounds.values())),
        column_bound=None if columns is None else _spread(columns.values()),
        hosts={policy: _spread(counts.values()) for policy, counts in hosts.items()},
        saving={policy: _spread(shares) for policy, shares in saving.items() if shares},
        published=BY_MIX.get(key),
    )


def _spread(values: Iterable[float]) -> Spread:
    found = list(values)
    return Spread(fmean(found), min(found), max(found))


def _policy(
    cells: Mapping[_Workload, Row],
    apart: Mapping[_Workload, Row],
    columns: Mapping[_Workload, Row],
) -> PolicySummary:
    rows = list(cells.values())
    cpus = sum(row.hosts * row.setting.host.cpus for row in rows)
    memory_mib = sum(row.hosts * row.setting.host.memory_mib for row in rows)
    there = [row.at_peak for row in rows if row.at_peak is not None]
    savings = [1 - row.hosts / apart[of].hosts for of, row in cells.items() if of in apart]
    return PolicySummary(
        cells=len(rows),
        above_bound=fmean(row.hosts / max(ceil(row.bound), 1) - 1 for row in rows),
        above_column_bound=fmean(
            row.hosts / max(columns[of].hosts, 1) - 1 for of, row in cells.items()
        )
        if cells.keys() <= columns.keys()
        else None,
        saving=fmean(savings) if savings else None,
        moves=fmean(row.moves for row in rows),
        moved_gb=fmean(row.moved_mib for row in rows) / MIB_PER_GB,
        free_cpus=sum(each.free_cpus for each in there) / max(cpus, 1),
        free_memory=sum(each.free_memory_mib for each in there) / max(memory_mib, 1),
        cdf=cdf(rows),
    )


def cdf(rows: Iterable[Row]) -> tuple[float, ...]:
    """The share of hosts that are at most 0, 1, … 100 per cent full, rounded down."""
    hosts = [0] * 101
    for row in rows:
        for percent, count in () if row.at_peak is None else row.at_peak.hosts_by_percent:
            hosts[percent] += count
    total = max(sum(hosts), 1)
    return tuple(sum(hosts[: percent + 1]) / total for percent in range(101))
