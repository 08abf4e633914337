"""``python -m clustersim report``: what a sweep found, beside the published figures, drawn too."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clustersim.cellfile import FILE_NAME, read_cells
from clustersim.grid import FOLDER
from clustersim.published import percents
from clustersim.strategies import DEDICATED
from clustersim.summary import MixSummary, PolicySummary, Spread, Summary, summarise
from schedulercommon.errors import InputError, OutputError, UsageError
from schedulercommon.levels import MIB_PER_GB
from schedulerprocess.options import Options

Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]
"""Title, column names and rows."""

_TEXTS = {"policy", "workload", "levels 1,2,3", "published reached"}
"""Columns that are no numbers."""
_NOTHING = "–"


def add_report_options(options: Options) -> None:
    add = options.add_argument
    add(
        "folder",
        metavar="DIR",
        nargs="?",
        default=FOLDER,
        help=f"what a sweep has written ({FOLDER})",
    )
    add("--output", metavar="DIR", help="where the figures go (into the same folder)")
    add("--policy", metavar="A", help="whose savings stand beside the published ones (tight)")
    add("--json", action="store_true", help="print the figures as JSON")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--into", metavar="FILE.md", help="put the tables between this file's marks for them")


def report(chosen: Namespace) -> None:
    """Raises UsageError, InputError and OutputError."""
    if chosen.json and chosen.markdown:
        raise UsageError("--json and --markdown exclude each other; give one of the two")
    folder = Path(chosen.folder)
    rows = read_cells(folder / FILE_NAME)
    summary = summarise(rows) if rows else None
    if summary is None or not summary.policies:
        raise InputError(f"no cell of {folder / FILE_NAME} is finished; run the sweep to its end")
    compared = _compared(summary, chosen.policy)
    tables = {"policies": policy_table(summary), "mixes": mix_table(summary, compared)}
    if chosen.into is not None:
        _put_into(Path(chosen.into), tables)
    # Drawing is the slow part, and so is loading what draws: after everything that can fail.
    from clustersim.figures import draw

    figures = draw(summary, rows, folder if chosen.output is None else Path(chosen.output))
    if chosen.json:
        document = {**_document(summary), "figures": [str(each) for each in figures]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    if chosen.markdown:
        sys.stdout.writelines(line for table in tables.values() for line in _markdown(table))
        return
    for table in tables.values():
        _print(table)
    sys.stdout.write("written: " + ", ".join(map(str, figures)) + "\n")


def _compared(summary: Summary, asked: str | None) -> str:
    """Whose savings are shown by mix: those of one policy, or the table would have no end."""
    if asked is None:
        shared = [name for name in summary.policies if name != DEDICATED]
        return "tight" if "tight" in shared else (shared or [DEDICATED])[-1]
    if asked not in summary.policies:
        raise UsageError(
            f"--policy: the sweep has no {asked[:40]!r}; choose of {', '.join(summary.policies)}"
        )
    return asked


def policy_table(summary: Summary) -> Table:
    proven = any(each.above_column_bound is not None for each in summary.policies.values())
    columns = (
        *("policy", "cells", "above the bound"),
        *(("above column generation",) if proven else ()),
        *("saved", "moves", "GB moved", "CPUs free", "memory free"),
    )
    rows = [
        tuple(_policy_cells(name, each)[column] for column in columns)
        for name, each in summary.policies.items()
    ]
    setting = summary.setting
    gigabytes = f"{setting.host.memory_mib / MIB_PER_GB:g}"
    title = (
        f"{len(summary.mixes)} mixes, {len(summary.seeds)} seeds: {setting.vms} VMs to begin with,"
        f" {setting.days:g} days, hosts of {setting.host.cpus} CPUs and {gigabytes} GB."
        " Means over all; free when demand is largest."
    )
    return title, columns, rows


def _policy_cells(name: str, found: PolicySummary) -> Mapping[str, str]:
    return {
        "policy": name,
        "cells": str(found.cells),
        "above the bound": f"{found.above_bound:.2%}",
        "above column generation": _share(found.above_column_bound, 2),
        "saved": _NOTHING if name == DEDICATED else _share(found.saving, 1),
        "moves": f"{found.moves:.1f}",
        "GB moved": f"{found.moved_gb:.0f}",
        "CPUs free": f"{found.free_cpus:.1%}",
        "memory free": f"{found.free_memory:.1%}",
    }


def mix_table(summary: Summary, compared: str) -> Table:
    policies = tuple(summary.policies)
    has_columns = any(each.column_bound is not None for each in summary.mixes)
    columns = (
        *("workload", "levels 1,2,3", "bound"),
        *(("column generation",) if has_columns else ()),
        *policies,
        *("saved", "least–most", "published", "published saved", "published reached"),
    )
    rows = [
        tuple(_mix_cells(each, policies, compared)[column] for column in columns)
        for each in summary.mixes
    ]
    title = (
        f"Hosts, means over the seeds; saved: by {compared}, of the hosts of dedicated, with the"
        " least and the most of any seed. Published: hosts dedicated → shared."
    )
    return title, columns, rows


def _mix_cells(found: MixSummary, policies: Sequence[str], compared: str) -> Mapping[str, str]:
    saving, published = found.saving.get(compared), found.published
    return {
        "workload": found.workload,
        "levels 1,2,3": percents(found.mix),
        "bound": f"{found.whole_bound.mean:.1f}",
        "column generation": _mean(found.column_bound),
        **{policy: _mean(found.hosts.get(policy)) for policy in policies},
        "saved": _share(saving.mean if saving else None, 1),
        "least–most": f"{saving.least:.1%}–{saving.most:.1%}" if saving else _NOTHING,
        "published": f"{published.dedicated} → {published.shared}" if published else _NOTHING,
        "published saved": _share(published.saving if published else None, 1),
        "published reached": reached(found, compared),
    }


def reached(found: MixSummary, policy: str) -> str:
    """Whether *policy* saves what was published: on average, or at least with one seed."""
    saving, published = found.saving.get(policy), found.published
    if saving is None or published is None:
        return _NOTHING
    if saving.mean >= published.saving:
        return "yes"
    return "within the spread" if saving.most >= published.saving else "no"


def _mean(spread: Spread | None) -> str:
    return _NOTHING if spread is None else f"{spread.mean:.1f}"


def _share(value: float | None, places: int) -> str:
    return _NOTHING if value is None else f"{value:.{places}%}"


def _document(summary: Summary) -> dict[str, Any]:
    """The numbers of ``--json``; their names are part of the interface."""
    return {
        "setting": asdict(summary.setting),
        "seeds": list(summary.seeds),
        "policies": {name: asdict(each) for name, each in summary.policies.items()},
        "mixes": [_mix_document(each) for each in summary.mixes],
    }


def _mix_document(found: MixSummary) -> dict[str, Any]:
    published = found.published
    return {
        "workload": found.workload,
        "mix": [float(share * 100) for share in found.mix],
        "seeds": found.seeds,
        "bound": asdict(found.bound),
        "whole_bound": asdict(found.whole_bound),
        "column_bound": None if found.column_bound is None else asdict(found.column_bound),
        "hosts": {policy: asdict(each) for policy, each in found.hosts.items()},
        "saving": {policy: asdict(each) for policy, each in found.saving.items()},
        "reached": {policy: reached(found, policy) for policy in found.saving},
        "published": None
        if published is None
        else {
            "dedicated": published.dedicated,
            "shared": published.shared,
            "saving": published.saving,
        },
    }


def _markdown(table: Table) -> Iterator[str]:
    title, columns, rows = table
    yield f"{title}\n\n"
    yield f"| {' | '.join(columns)} |\n"
    yield "|" + "|".join("---" if column in _TEXTS else "---:" for column in columns) + "|\n"
    for row in rows:
        yield f"| {' | '.join(row)} |\n"
    yield "\n"


def _put_into(path: Path, tables: Mapping[str, Table]) -> None:
    """Anew between ``<!-- NAME -->`` and ``<!-- end of NAME -->``, of each table."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is no text"
        raise InputError(f"--into: cannot read {path}: {reason}; name a Markdown file") from None
    for name, table in tables.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, begun, rest = text.partition(first)
        _, ended, after = rest.partition(last)
        if not begun or not ended:
            raise InputError(
                f"--into: {path} has no place for the table; add the lines {first.strip()} and"
                f" {last.strip()}"
            )
        text = f"{before}{first}\n{''.join(_markdown(table))}{last}{after}"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise OutputError(
            f"--into: cannot write {path}: {problem.strerror}; name another file"
        ) from problem


def _print(table: Table) -> None:
    """Framed on a terminal; plain aligned text into a file or pipe."""
    title, columns, rows = table
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table as Framed

        framed = Framed(caption=title, caption_justify="left")
        for name in columns:
            framed.add_column(name, justify="left" if name in _TEXTS else "right")
        for row in rows:
            framed.add_row(*row)
        Console(highlight=False).print(framed)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.ljust(width) if name in _TEXTS else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.write(f"({title})\n\n")
