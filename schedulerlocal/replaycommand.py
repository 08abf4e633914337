"""``python -m schedulerlocal --load=TRACE``: replays a trace, shows progress, sums up."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from schedulercommon.errors import OutputError, TraceError
from schedulercommon.levels import format_level
from schedulerlocal.adapters.monitoringcsv import MonitoringWriter, RefusalWriter, WholeRecords
from schedulerlocal.adapters.topologyjson import write_topology
from schedulerlocal.adapters.tracecsv import TraceReader
from schedulerlocal.core.host import Host
from schedulerlocal.core.state import HostState
from schedulerlocal.replay import Refusal, Replay

_SHOW_EVERY = 16  # timestamps between two looks at the progress bar


@dataclass(frozen=True, slots=True)
class ReplayFiles:
    """Where a replay reads and writes."""

    trace: Path
    output: Path
    write: bool
    """Whether the monitoring CSV, the refusals and the topology are written."""


def run_replay(host: Host, files: ReplayFiles) -> None:
    """Replay, report every refusal on standard output as it happens, and sum up.

    Raises TraceError and OutputError. An interrupt leaves outputs that end with a whole
    timestamp, says so, and is raised on.
    """
    reader = TraceReader(files.trace)
    size_bytes = _size_bytes(files.trace)
    ticks = reader.ticks()
    replay = Replay(HostState(host, {}))
    reached = "the first timestamp"
    bar = _progress()
    # on a terminal the bar must know of lines printed beside it
    both = sys.stdout.isatty() and sys.stderr.isatty()
    out = bar.console if both else Console(highlight=False, soft_wrap=True)
    aside = Console(highlight=False, soft_wrap=True, stderr=True)
    try:
        with ExitStack() as stack:
            stack.enter_context(bar)
            task = bar.add_task(f"replaying {files.trace.name}", total=size_bytes)
            first = next(ticks)  # a file that is no trace at all costs nobody an older output
            monitoring, refused = _writers(stack, host, files, replay)
            for tick in chain((first,), ticks):
                try:
                    refusals = replay.take_in(tick)
                except TraceError as problem:
                    raise TraceError(f"{files.trace}, {problem}") from problem
                if monitoring is not None:
                    monitoring.write(tick)
                for refusal in refusals:
                    out.print(_sentence(refusal), markup=False)
                    if refused is not None:
                        refused.write(refusal)
                reached = tick.time.decode()
                if replay.totals.ticks % _SHOW_EVERY == 0:
                    bar.update(task, completed=reader.bytes_read)
            bar.update(task, completed=reader.bytes_read)
    except KeyboardInterrupt:
        kept = f"; {files.output}/ holds everything up to there" if files.write else ""
        aside.print(f"interrupted at {reached} s of the trace{kept}", markup=False)
        raise
    if reader.duplicates:
        replay.warn(
            "repeated",
            f"{files.trace}: {reader.duplicates} vm rows repeat another of the same timestamp;"
            " the last counts",
        )
    for sentence in replay.warnings.values():
        aside.print(f"warning: {sentence}", markup=False)
    _sum_up(out, replay, files)


def _writers(
    stack: ExitStack, host: Host, files: ReplayFiles, replay: Replay
) -> tuple[MonitoringWriter | None, RefusalWriter | None]:
    if not files.write:
        return None, None
    target = files.output / "monitoring.csv"
    if _same_file(target, files.trace):
        raise OutputError(
            f"the replay of {files.trace} would overwrite it; choose another folder with --output"
        )
    monitoring = stack.enter_context(WholeRecords(target))
    refused = stack.enter_context(WholeRecords(files.output / "rejections.csv"))
    write_topology(files.output / "topology_local.json", host.topology)
    return MonitoringWriter(monitoring, replay), RefusalWriter(refused)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False  # not there, or beyond reach; writing will tell


def _progress() -> Progress:
    """On standard error, and only where somebody watches."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size or None  # a pipe's is 0
    except OSError as problem:
        raise TraceError(
            f"cannot read the trace {path}: {problem.strerror}; name a monitoring CSV"
        ) from problem


def _sentence(refusal: Refusal) -> str:
    name = refusal.name
    if not name.isprintable():  # a trace must not command the terminal
        name = ascii(name)
    return (
        f"{refusal.time} s: {refusal.action} of {name} refused"
        f" ({refusal.vcpus} vCPUs at {format_level(refusal.level)}, {refusal.memory_mib} MiB):"
        f" {refusal.rejection.sentence}"
    )


def _sum_up(out: Console, replay: Replay, files: ReplayFiles) -> None:
    totals, host = replay.totals, replay.state.host
    table = Table(title=Text(f"Replay of {files.trace}"), title_justify="left")
    table.add_column("level")
    for name in ("peak VMs", "peak vCPUs sold", "peak CPUs owned"):
        table.add_column(name, justify="right")
    for level, peaks in sorted(totals.peak_by_level.items()):
        table.add_row(format_level(level), *map(str, peaks))
    out.print(table)
    out.print(
        f"{totals.ticks} timestamps; {totals.deploys} deploys, {totals.removes} removes,"
        f" {totals.resizes} resizes, {totals.refusals} refused\n"
        f"at most {totals.peak_vms} VMs, {totals.peak_cpus} of {host.cpus} CPUs and"
        f" {totals.peak_memory_mib} of {host.memory_mib} MiB allocated",
        markup=False,
    )
    if files.write:
        written = f"written: {files.output}/monitoring.csv, {files.output}/rejections.csv"
        out.print(written, markup=False)
