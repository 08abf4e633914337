"""``python -m schedulerlocal.report``: what a host did over time, as figures and totals.

Reads the monitoring CSV of a replay, of a live scheduler or of a recording, and the
``rejections.csv`` beside it if there is one. Means are over the samples. Peaks of different
quantities need not fall together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from schedulercommon.levels import format_level
from schedulerlocal.report_series import (
    LevelSeries,
    Monitoring,
    Rejections,
    Series,
    read_monitoring,
    read_rejections,
)
from schedulerprocess.options import Options, exit_code

_SUMMARY = "Draw a monitoring CSV as report.png and report.svg, and print its totals."


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the samples where it was measured; None if it never was."""

    peak: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class LevelTotals:
    vms: Spread
    vcpus: Spread
    """Sold."""
    cpus: Spread
    """Owned."""
    used_cpus: Spread
    used_ratio: float | None
    """CPU time used of that owned, where usage was measured."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The numbers of ``--json``; their names are part of the interface."""

    duration_s: float
    """From the first sample to the last."""
    samples: int
    vms_seen: int
    capacity_cpus: int
    allocated_cpus: Spread
    free_cpus: Spread
    lent_cpus: Spread
    capacity_memory_mib: int
    allocated_memory_mib: Spread
    used_memory_mib: Spread
    levels: Mapping[str, LevelTotals]
    rejections: Mapping[str, Mapping[str, int]] | None
    """By level and resource; None where no rejections.csv tells."""


def totals(monitoring: Monitoring, rejections: Rejections | None) -> Totals:
    free = monitoring.free
    refused: dict[str, dict[str, int]] | None = None
    if rejections is not None:
        refused = {}
        for (level, resource), times_s in rejections.items():
            refused.setdefault(format_level(level), {})[resource] = len(times_s)
    return Totals(
        duration_s=float(monitoring.times_s[-1] - monitoring.times_s[0]),
        samples=len(monitoring.times_s),
        vms_seen=monitoring.vms_seen,
        capacity_cpus=monitoring.capacity_cpus,
        allocated_cpus=_spread(monitoring.capacity_cpus - free),
        free_cpus=_spread(free),
        lent_cpus=_spread(monitoring.lent),
        capacity_memory_mib=monitoring.capacity_memory_mib,
        allocated_memory_mib=_spread(monitoring.memory_allocated_mib),
        used_memory_mib=_spread(monitoring.memory_used_mib),
        levels={
            format_level(level): _level_totals(series)
            for level, series in monitoring.levels.items()
        },
        rejections=refused,
    )


def _level_totals(series: LevelSeries) -> LevelTotals:
    measured = ~np.isnan(series.usage)
    owned = float(series.cpus[measured].sum())
    return LevelTotals(
        vms=_spread(series.vms),
        vcpus=_spread(series.vcpus),
        cpus=_spread(series.cpus),
        used_cpus=_spread(series.usage),
        used_ratio=round(float(series.usage[measured].sum()) / owned, 4) if owned else None,
    )


def _spread(series: Series) -> Spread:
    measured = series[~np.isnan(series)]
    if not len(measured):
        return Spread(None, None)
    return Spread(round(float(measured.max()), 3), round(float(measured.mean()), 3))


Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]
"""Column names and rows; the first column is text, the others numbers."""


def level_table(found: Totals) -> Table:
    """Per level, peak and mean of everything that has both."""
    rows = [
        (
            label,
            *map(_both, (each.vms, each.vcpus, each.cpus, each.used_cpus)),
            "–" if each.used_ratio is None else f"{each.used_ratio:.0%}",
        )
        for label, each in found.levels.items()
    ]
    return ("level", "VMs", "vCPUs sold", "CPUs owned", "CPUs used", "used/owned"), rows


def sentences(found: Totals) -> list[str]:
    """What is true of the whole host."""
    memory = found.allocated_memory_mib.peak or 0
    lines = [
        f"{_duration(found.duration_s)}, {found.samples} samples, {found.vms_seen} VMs seen",
        f"CPUs: at most {_short(found.allocated_cpus.peak)} of {found.capacity_cpus} allocated;"
        f" {_short(found.free_cpus.mean)} free on average"
        + (
            "" if found.lent_cpus.mean is None else f", {_short(found.lent_cpus.mean)} of them lent"
        ),
        f"memory: at most {memory:.0f} of {found.capacity_memory_mib} MiB allocated",
    ]
    if found.rejections is not None:
        total = sum(sum(each.values()) for each in found.rejections.values())
        parts = [
            f"{count} for want of {'CPUs' if resource == 'cpus' else 'memory'} at level {label}"
            for label, counts in found.rejections.items()
            for resource, count in counts.items()
        ]
        lines.append(f"rejections: {total}" + (f" ({', '.join(parts)})" if parts else ""))
    return lines


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:g} s"


def _both(spread: Spread) -> str:
    return "–" if spread.peak is None else f"{_short(spread.peak)} / {_short(spread.mean)}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}".removesuffix(".0")


def _print_table(table: Table) -> None:
    """Framed on a terminal; plain aligned text into a file or pipe."""
    names, rows = table
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table as Framed

        framed = Framed(caption="peak / mean over the samples", caption_justify="left")
        for place, name in enumerate(names):
            framed.add_column(name, justify="right" if place else "left")
        for row in rows:
            framed.add_row(*row)
        Console(highlight=False).print(framed)
        return
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for first, *others in (names, *rows):
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join(cells))
    print("(peak / mean over the samples)")


def main(arguments: Sequence[str]) -> None:
    options = Options(
        prog="python -m schedulerlocal.report", description=_SUMMARY, allow_abbrev=False
    )
    options.add_argument(
        "monitoring",
        metavar="MONITORING.csv",
        type=Path,
        help="a monitoring CSV; rejections.csv beside it is read too",
    )
    options.add_argument(
        "--output", metavar="DIR", type=Path, help="where the figures go (beside the CSV)"
    )
    options.add_argument("--json", action="store_true", help="print the totals as JSON")
    chosen = options.parse_args(arguments)
    monitoring = read_monitoring(chosen.monitoring)
    rejections = read_rejections(chosen.monitoring.with_name("rejections.csv"))
    found = totals(monitoring, rejections)
    # Drawing is the slow part, and so is loading what draws: after everything that can fail.
    from schedulerlocal.report_figure import draw

    folder = chosen.monitoring.parent if chosen.output is None else chosen.output
    title = f"{chosen.monitoring.name}: {found.vms_seen} VMs on {found.capacity_cpus} CPUs"
    figures = draw(monitoring, rejections, title, folder)
    if chosen.json:
        print(json.dumps({**asdict(found), "figures": [str(each) for each in figures]}, indent=2))
        return
    _print_table(level_table(found))
    print("\n".join(sentences(found)))
    print("written: " + ", ".join(map(str, figures)))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
