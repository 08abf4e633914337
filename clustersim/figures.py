"""Draws a sweep: hosts, what is free of them, and how full they are, as PNG and SVG.

The same numbers give the same SVG bytes. A policy has the same colour everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from clustersim.cells import Row
from clustersim.published import percents
from clustersim.summary import ORDER, MixSummary, Summary, cdf, of_workload
from schedulercommon.errors import OutputError
from schedulerlocal.report_figure import GRID, INK, MEMORY, MUTED, STYLE, WIDTH_INCHES

_COLOURS = dict(
    zip(
        ORDER,
        (
            *(MUTED, "#D55E00", "#E69F00", "#56B4E9", "#009E73", "#0072B2"),
            *(MEMORY, "#7A4B1E", "#000000"),
        ),
        strict=True,
    )
)
_OTHERS = ("#882255", "#999933", "#44AA99", "#332288", "#AA4499", "#661100")
_SPREAD = 0.72  # of the distance of two mixes: the width that its policies share
_TOP_INCHES, _BOTTOM_INCHES, _PANEL_INCHES, _GAP_INCHES = 0.8, 0.6, 2.7, 0.95
_LEFT, _RIGHT = 0.07, 0.985


def draw(summary: Summary, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write hosts, free and fullness, each as .png and .svg, into *folder*; raises OutputError."""
    drawings: Mapping[str, Callable[[], Figure]] = {
        "hosts": lambda: _hosts(summary),
        "free": lambda: _free(summary, rows),
        "fullness": lambda: _fullness(summary, rows),
    }
    written = []
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(STYLE)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, drawing in drawings.items():
                figure = drawing()
                png, svg = folder / f"{name}.png", folder / f"{name}.svg"
                figure.savefig(png)
                figure.savefig(svg, metadata={"Date": None})
                written += [png, svg]
        except OSError as problem:
            raise OutputError(
                f"cannot write the figures into {folder}: {problem.strerror};"
                " choose another folder with --output"
            ) from problem
    return written


def _colours(summary: Summary) -> Mapping[str, str]:
    others = [name for name in summary.policies if name not in _COLOURS]
    return {**_COLOURS, **dict(zip(others, cycle(_OTHERS), strict=False))}


def _by_workload(summary: Summary) -> Mapping[str, list[MixSummary]]:
    found: dict[str, list[MixSummary]] = {}
    for each in summary.mixes:
        found.setdefault(each.workload, []).append(each)
    return found


def _panels(rows: int, columns: int, title: str) -> tuple[Figure, list[list[Axes]]]:
    """Placed by hand, for the bytes of a figure must not depend on what a solver settles on."""
    height = _TOP_INCHES + _BOTTOM_INCHES + rows * _PANEL_INCHES + (rows - 1) * _GAP_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height))
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=_LEFT,
        right=_RIGHT,
        top=1 - _TOP_INCHES / height,
        bottom=_BOTTOM_INCHES / height,
        hspace=_GAP_INCHES / _PANEL_INCHES,
        wspace=0.18,
    )
    figure.suptitle(title, x=0.008, y=1 - 0.1 / height, ha="left", va="top", fontweight="bold")
    return figure, [list(line) for line in axes]


def _legend(figure: Figure, ax: Axes) -> None:
    """Of *ax*, for all: above the panels, under the title."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.25 / figure.get_size_inches()[1]),
        ncols=len(labels),
        handlelength=1.2,
        columnspacing=1.1,
    )


def _of_mixes(ax: Axes, mixes: Sequence[MixSummary]) -> None:
    labels = [percents(each.mix).replace(",", "\n") for each in mixes]
    ax.set_xticks(range(len(mixes)), labels, fontsize=7.5, linespacing=0.95)
    ax.set_xlim(-0.6, len(mixes) - 0.4)
    ax.tick_params(length=2.5)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)


def _offsets(count: int) -> list[float]:
    if count == 1:
        return [0.0]
    return [float(each) for each in np.linspace(-_SPREAD / 2, _SPREAD / 2, count)]


def _hosts(summary: Summary) -> Figure:
    panels = _by_workload(summary)
    colours, offsets = _colours(summary), _offsets(len(summary.policies))
    figure, axes = _panels(len(panels), 1, "Hosts needed, by per cent of VMs at levels 1, 2 and 3")
    for (ax,), (workload, mixes) in zip(axes, panels.items(), strict=True):
        for place, each in enumerate(mixes):
            ax.hlines(
                each.whole_bound.mean,
                place - 0.45,
                place + 0.45,
                color=INK,
                linewidth=1.4,
                label="" if place else "bound",
            )
        for policy, offset in zip(summary.policies, offsets, strict=True):
            at = [place for place, each in enumerate(mixes) if policy in each.hosts]
            places = [place + offset for place in at]
            spreads = [mixes[place].hosts[policy] for place in at]
            ax.vlines(
                places,
                [spread.least for spread in spreads],
                [spread.most for spread in spreads],
                color=colours[policy],
                linewidth=0.9,
                alpha=0.55,
            )
            ax.plot(
                places,
                [spread.mean for spread in spreads],
                linestyle="none",
                marker="o",
                markersize=3.4,
                color=colours[policy],
                label=policy,
            )
        ax.set_title(f"{workload}: mean of the seeds, and from the least to the most of any")
        ax.set_ylabel("hosts")
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _of_mixes(ax, mixes)
    _legend(figure, axes[0][0])
    return figure


def _free(summary: Summary, rows: Sequence[Row]) -> Figure:
    panels = _by_workload(summary)
    colours, offsets = _colours(summary), _offsets(len(summary.policies))
    figure, axes = _panels(2 * len(panels), 1, "Unallocated when demand is largest")
    shown = [
        (workload, mixes, what) for workload, mixes in panels.items() for what in ("CPUs", "memory")
    ]
    for (ax,), (workload, mixes, what) in zip(axes, shown, strict=True):
        places = {each.mix: place for place, each in enumerate(mixes)}
        for policy, offset in zip(summary.policies, offsets, strict=True):
            shares: dict[int, list[float]] = {}
            for row in of_workload(rows, workload):
                if row.cell.policy == policy:
                    shares.setdefault(places[row.cell.mix], []).append(_free_share(row, what))
            ax.bar(
                [place + offset for place in sorted(shares)],
                [float(np.mean(shares[place])) for place in sorted(shares)],
                width=_SPREAD / len(summary.policies),
                color=colours[policy],
                label=policy,
            )
        ax.set_title(f"{workload}: {what} that no VM was promised")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _of_mixes(ax, mixes)
    _legend(figure, axes[0][0])
    return figure


def _free_share(row: Row, what: str) -> float:
    there, host = row.at_peak, row.setting.host
    if there is None or not row.hosts:
        return 0.0
    if what == "CPUs":
        return there.free_cpus / (row.hosts * host.cpus)
    return there.free_memory_mib / (row.hosts * host.memory_mib)


def _fullness(summary: Summary, rows: Sequence[Row]) -> Figure:
    panels = list(_by_workload(summary))
    colours = _colours(summary)
    figure, axes = _panels(1, len(panels), "How full hosts are when demand is largest")
    for ax, workload in zip(axes[0], panels, strict=True):
        for policy in summary.policies:
            found = [row for row in of_workload(rows, workload) if row.cell.policy == policy]
            ax.step(range(101), cdf(found), where="post", color=colours[policy], label=policy)
        ax.set_title(f"{workload}: share of hosts at most so full")
        ax.set_xlabel("CPUs or memory promised, whichever is more (% of the host)")
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.grid(color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
    _legend(figure, axes[0][0])
    return figure
