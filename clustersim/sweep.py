"""``python -m clustersim sweep``: many workloads and policies, on all cores or on a Dask cluster.

Every finished cell is kept at once, so that a sweep that was stopped goes on where it was. How
long it took is kept in a file of its own, so that the other has the same bytes every time.
"""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from clustersim.cellfile import CellFile, open_cells
from clustersim.cells import COLUMN_GENERATION, Cell, Row, Setting, run_cell
from clustersim.executors import open_executor, undisturbed
from clustersim.grid import Grid, chosen_grid
from schedulercommon.errors import OutputError, VmStackError

RUN_FILE = "run.json"

_PLAIN_LINES = 20  # of progress, where nobody watches

Finished = Callable[[], None]


def sweep(chosen: Namespace) -> None:
    """Raises UsageError, InputError, OutputError, and VmStackError for cells that fail."""
    grid = chosen_grid(chosen)
    with open_cells(grid.folder, grid.setting) as file:
        todo = [cell for cell in grid.cells if cell not in file.rows]
        before = len(grid.cells) - len(todo)
        goes_on = bool(file.rows)
        if before:
            _say(f"{before} of {len(grid.cells)} cells are finished already, in {file.path}")
        try:
            phases = _worked_off(grid, todo, file) if todo else {}
        except KeyboardInterrupt:
            kept = sum(cell in file.rows for cell in grid.cells)
            _say(
                f"interrupted: {kept} of {len(grid.cells)} cells are finished and kept in"
                f" {file.path}; the same command goes on from there"
            )
            raise
        file.sort()
    if phases:
        _write_run(grid, phases, goes_on=goes_on)
    spent = ", ".join(f"{name} {phase['wall_s']} s" for name, phase in phases.items())
    sys.stdout.write(
        f"{len(grid.cells)} cells in {file.path}"
        + (f", {len(todo)} of them worked out now ({spent})" if phases else "")
        + f"\nto see them: python -m clustersim report {shlex.quote(str(grid.folder))}\n"
    )


Phases = dict[str, dict[str, float]]


def _worked_off(grid: Grid, todo: Sequence[Cell], file: CellFile) -> Phases:
    """How many cells there were of which kind, and how long they took, each kind by itself."""
    phases: Phases = {}
    failures: list[str] = []
    bounds = [cell for cell in todo if cell.policy == COLUMN_GENERATION]
    policies = [cell for cell in todo if cell.policy != COLUMN_GENERATION]
    with open_executor(grid.executor, grid.workers) as (executor, workers):
        for name, cells in (("policies", policies), (COLUMN_GENERATION, bounds)):
            if not cells:
                continue
            start_s = monotonic()
            with _progress(name, len(cells)) as finished:
                failures += _run(executor, cells, grid.setting, file, finished)
            wall_s = round(monotonic() - start_s, 1)
            phases[name] = {"cells": len(cells), "workers": workers, "wall_s": wall_s}
    if failures:
        raise VmStackError(
            f"{len(failures)} of {len(todo)} cells failed, the others are kept in {file.path};"
            f" the first: {failures[0]}"
        )
    return phases


def _run(
    executor: Executor, cells: Sequence[Cell], setting: Setting, file: CellFile, finished: Finished
) -> list[str]:
    """One sentence for each cell that failed."""
    with undisturbed():
        cell_of: dict[Future[Row], Cell] = {
            executor.submit(run_cell, cell, setting): cell for cell in cells
        }
    failures = []
    for future in as_completed(cell_of):
        problem = CancelledError() if future.cancelled() else future.exception()
        if problem is None:
            file.add(future.result())
        elif isinstance(problem, BrokenExecutor | CancelledError):
            left = sum(cell not in file.rows for cell in cells)
            raise VmStackError(
                f"whoever worked on the cells ended before its time, for want of memory perhaps;"
                f" {left} cells are not finished, and the same command goes on with them"
            ) from problem
        else:
            # what a cell says in a sentence needs no more; anything else is a fault of ours
            kind = "" if isinstance(problem, ValueError) else f"{type(problem).__name__}: "
            failures.append(f"{cell_of[future]}: {kind}{problem}")
        finished()
    return failures


@contextmanager
def _progress(name: str, total: int) -> Iterator[Finished]:
    """A bar on a terminal, a line now and then elsewhere; both on standard error."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False, soft_wrap=True),
            transient=True,
        )
        with bar:
            task = bar.add_task(name, total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def finished() -> None:
        nonlocal done
        done += 1
        if done == total or done * _PLAIN_LINES // total > (done - 1) * _PLAIN_LINES // total:
            _say(f"{name}: {done} of {total} cells")

    yield finished


def _write_run(grid: Grid, phases: Phases, *, goes_on: bool) -> None:
    """With *goes_on*, behind the runs that the cells there were from."""
    path = grid.folder / RUN_FILE
    runs = _earlier_runs(path) if goes_on else []
    runs.append({"command": "python -m clustersim " + shlex.join(sys.argv[1:]), **phases})
    try:
        path.write_text(json.dumps({"runs": runs}, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise OutputError(
            f"cannot write {path}: {problem.strerror}; name another folder with --output"
        ) from problem


def _earlier_runs(path: Path) -> list[object]:
    """None if they cannot be read: they only inform."""
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return runs if isinstance(runs, list) else []


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
