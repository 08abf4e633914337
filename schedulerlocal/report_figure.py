"""Draws a host over time: small multiples on one time axis, as PNG and SVG.

From the top: who owns the host's CPUs; per level the CPUs owned, used and sold; memory;
rejections. Colours are Okabe and Ito's, which colour-blind readers can tell apart. The same
numbers give the same SVG bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, MaxNLocator, MultipleLocator
from matplotlib.transforms import Bbox

from schedulercommon.errors import OutputError
from schedulercommon.levels import Level, format_level
from schedulerlocal.report_series import LevelSeries, Monitoring, Rejections, Series

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#F0E442", "#000000")
MEMORY = "#CC79A7"
INK = "#333333"
MUTED = "#8A8A8A"
GRID = "#E4E4E4"
MOST_POINTS = 1200
MOST_LEVELS = len(PALETTE)
REJECTION_BINS = 48
TIME_UNITS = (("hours", 3600.0, 10_800.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))
"""Name, length in s, and the shortest duration in s it suits."""
WIDTH_INCHES = 10.0
STYLE: Mapping[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "savefig.dpi": 150,
    "svg.hashsalt": "vmstack",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


def draw(
    monitoring: Monitoring, rejections: Rejections | None, title: str, folder: Path
) -> tuple[Path, Path]:
    """Write ``report.png`` and ``report.svg`` into *folder*; raises OutputError."""
    png, svg = folder / "report.png", folder / "report.svg"
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(STYLE)
        figure = _figure(monitoring, rejections, title)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(png)
            figure.savefig(svg, metadata={"Date": None})
        except OSError as problem:
            raise OutputError(
                f"cannot write the figures into {folder}: {problem.strerror};"
                " choose another folder with --output"
            ) from problem
    return png, svg


def _figure(monitoring: Monitoring, rejections: Rejections | None, title: str) -> Figure:
    time = _Time(monitoring.times_s)
    by_size = sorted(monitoring.levels, key=lambda level: -monitoring.levels[level].cpus.max())
    shown = {level: monitoring.levels[level] for level in sorted(by_size[:MOST_LEVELS])}
    coloured = (*shown, *sorted({level for level, _ in rejections or ()} - shown.keys()))
    colours = dict(zip(coloured, cycle(PALETTE), strict=False))
    heights = [2.1, *(1.2 for _ in shown), 1.5]
    if rejections is not None:
        heights.append(0.8)
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + 1.2 * sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    host, *rest = panels[:, 0]
    _draw_host(host, monitoring, shown, colours, time)
    for ax, (level, series) in zip(rest, shown.items(), strict=False):
        _draw_level(ax, level, series, colours[level], time)
    _draw_memory(rest[len(shown)], monitoring, time)
    if rejections is not None:
        _draw_rejections(rest[-1], rejections, colours, time)
    for ax in (host, *rest):
        ax.set_ylim(bottom=0)
        ax.grid(axis="y", color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(length=2.5)
    bottom = panels[-1, 0]
    bottom.set_xlim(0, time.points[-1])
    bottom.xaxis.set_major_locator(time.locator)
    bottom.set_xlabel(f"time ({time.unit})")
    figure.align_ylabels()
    notes = [title]
    if time.samples_per_point > 1:
        notes.append(f"each point the mean of {time.samples_per_point} samples")
    if len(shown) < len(by_size):
        notes.append(f"the {len(shown)} largest of {len(by_size)} levels")
    figure.suptitle(" · ".join(notes), x=0.008, ha="left", fontsize=11.5, fontweight="bold")
    _settle(figure)
    return figure


def _settle(figure: Figure) -> None:
    """Fix the layout, rounded: its solver's last digits differ from one drawing to the next."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position(Bbox(ax.get_position().get_points().round(4)))


class _Time:
    """The time axis, and series on it: no more points than can be told apart.

    The last sample is held for one interval, so that it has a width like the others.
    """

    def __init__(self, times_s: Series) -> None:
        self.samples_per_point = -(-len(times_s) // MOST_POINTS)
        self.start_s = float(times_s[0])
        interval_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
        end_s = float(times_s[-1]) - self.start_s + interval_s
        self.unit, unit_s = next(
            (unit, size_s) for unit, size_s, least_s in TIME_UNITS if end_s >= least_s
        )
        self._unit_s = unit_s
        starts = self.of(times_s[:: self.samples_per_point])
        self.points: Series = np.append(starts, end_s / unit_s)

    def of(self, times_s: Series) -> Series:
        return (times_s - self.start_s) / self._unit_s

    @property
    def locator(self) -> Locator:
        """Ticks at hours people read off a clock."""
        if self.unit != "hours":
            return MaxNLocator(nbins=12, steps=[1, 2, 5, 10])
        last = self.points[-1]
        return MultipleLocator(next((each for each in (1, 3, 6, 24) if last / each <= 16), 168))

    def __call__(self, series: Series) -> Series:
        """Mean of what was measured per point, NaN where nothing was."""
        if self.samples_per_point > 1:
            edges = np.arange(0, len(series), self.samples_per_point)
            measured = ~np.isnan(series)
            counts = np.add.reduceat(measured.astype(np.float64), edges)
            sums = np.add.reduceat(np.where(measured, series, 0.0), edges)
            series = np.divide(sums, counts, out=np.full(len(edges), np.nan), where=counts > 0)
        return np.append(series, series[-1])


def _draw_host(
    ax: Axes,
    monitoring: Monitoring,
    shown: Mapping[Level, LevelSeries],
    colours: Mapping[Level, str],
    time: _Time,
) -> None:
    base: Series = np.zeros(len(time.points))
    layers: list[Artist] = []
    for level, series in shown.items():
        top = base + time(series.cpus)
        label = f"level {format_level(level)}"
        layers.append(_area(ax, time, base, top, label, colours[level], alpha=0.75))
        base = top
    owned = monitoring.capacity_cpus - time(monitoring.free)
    if len(shown) < len(monitoring.levels):
        layers.append(_area(ax, time, base, owned, "other levels", "#BBBBBB"))
    lent, idle = time(monitoring.lent), "free"
    top = owned
    if not np.isnan(lent).all():
        idle = "free, not lent" if np.nanmax(lent) > 0 else "free (none lent)"
        top = owned + np.nan_to_num(lent)
    if idle == "free, not lent":
        layers.append(
            _area(ax, time, owned, top, "free, lent", "white", edgecolor=MUTED, hatch="////")
        )
    capacity = np.full_like(base, monitoring.capacity_cpus)
    layers.append(_area(ax, time, top, capacity, idle, "#F1F1F1"))
    line = ax.axhline(
        monitoring.capacity_cpus, color=INK, label=f"capacity, {monitoring.capacity_cpus}"
    )
    ax.set_title("CPUs of the host, by owner")
    ax.set_ylabel("CPUs")
    _legend(ax, [line, *reversed(layers)])


def _draw_level(ax: Axes, level: Level, series: LevelSeries, colour: str, time: _Time) -> None:
    cpus, vcpus = time(series.cpus), time(series.vcpus)
    zero = np.zeros_like(cpus)
    owned = _area(ax, time, zero, cpus, "CPUs owned", colour, alpha=0.25)
    used = _area(ax, time, zero, time(series.usage), "CPUs used", colour, alpha=0.9)
    (sold,) = ax.step(
        time.points, vcpus, where="post", color=INK, linewidth=1.1, label="vCPUs sold"
    )
    if level == 1:  # sold and owned are the same number
        sold.set_linestyle((0, (4, 2)))
    ax.set_title(f"Level {format_level(level)}")
    ax.set_ylabel("CPUs, vCPUs")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    _legend(ax, [sold, owned, used])


def _draw_memory(ax: Axes, monitoring: Monitoring, time: _Time) -> None:
    gib = 1024
    allocated = time(monitoring.memory_allocated_mib) / gib
    zero = np.zeros_like(allocated)
    promised = _area(ax, time, zero, allocated, "allocated", MEMORY, alpha=0.25)
    used = _area(ax, time, zero, time(monitoring.memory_used_mib) / gib, "used", MEMORY, alpha=0.9)
    capacity_gib = monitoring.capacity_memory_mib / gib
    line = ax.axhline(capacity_gib, color=INK, label=f"capacity, {capacity_gib:.0f}")
    ax.set_title("Memory of the host")
    ax.set_ylabel("GiB")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    _legend(ax, [line, promised, used])


def _draw_rejections(
    ax: Axes, rejections: Rejections, colours: Mapping[Level, str], time: _Time
) -> None:
    ax.set_title("Rejections")
    ax.set_ylabel("VMs")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, min_n_ticks=1))
    if not rejections:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", va="center", color=MUTED)
        return
    edges = np.linspace(0, time.points[-1], REJECTION_BINS + 1)
    base = np.zeros(REJECTION_BINS)
    bars: list[Artist] = []
    for (level, resource), times_s in rejections.items():
        counts, _ = np.histogram(time.of(times_s), edges)
        short = "CPUs" if resource == "cpus" else "memory"
        drawn = ax.bar(
            edges[:-1],
            counts,
            width=edges[1],
            align="edge",
            bottom=base,
            color=colours[level],
            edgecolor="white",
            linewidth=0.5,
            hatch=None if resource == "cpus" else "////",
        )
        drawn[0].set_label(f"level {format_level(level)}, {short}")
        bars.append(drawn[0])
        base = base + counts
    _legend(ax, bars)


def _area(
    ax: Axes, time: _Time, low: Series, high: Series, label: str, colour: str, **style: Any
) -> Artist:
    return ax.fill_between(
        time.points,
        low,
        high,
        step="post",
        facecolor=colour,
        linewidth=0,
        label=label,
        **style,
    )


def _legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """Beside the panel, in the order the eye meets things from the top down."""
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.005, 1.06),
        handlelength=1.5,
        labelspacing=0.35,
    )
