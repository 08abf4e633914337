"""``python -m benchmarks [NAME …]``: measure, print a table, keep it in results/benchmarks/."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks import BENCHMARKS, ON_DEMAND, Figure
from schedulercommon.errors import OutputError, UsageError, VmStackError
from schedulerprocess.options import Options, exit_code

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def main(arguments: Sequence[str]) -> None:
    """Raises UsageError for a name there is not, BoundMissed if a figure is beyond its bound."""
    there = [name for name in (*BENCHMARKS, *ON_DEMAND) if find_spec(f"benchmarks.{name}")]
    parser = Options(
        prog="python -m benchmarks",
        description="Measure what is promised; exit 1 if a bound is missed.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(there)}")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder for NAME.json (results/benchmarks)"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in there]:
        raise UsageError(f"there is no benchmark {unknown[0]!r}; choose of {', '.join(there)}")
    missed = []
    for name in options.names or BENCHMARKS:
        figures: list[Figure] = importlib.import_module(f"benchmarks.{name}").run(_progress)
        _progress("")
        print("\n".join(_table(name, figures)), flush=True)
        _keep(options.output, name, figures)
        missed += [figure.name for figure in figures if not figure.holds]
    if missed:
        raise BoundMissed(f"bounds missed: {', '.join(missed)}; try again on an idle machine")


class BoundMissed(VmStackError):
    """A figure is worse than promised."""


def _progress(text: str) -> None:
    """One line that replaces itself, on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _table(name: str, figures: Iterable[Figure]) -> list[str]:
    rows = [(name, "measured", "bound", "unit", "")]
    for figure in figures:
        side = "≥ " if figure.at_least else ""
        bound = "" if figure.bound is None else f"{side}{figure.bound:,.5g}"
        verdict = "" if figure.bound is None else ("ok" if figure.holds else "missed")
        rows.append((figure.name, f"{figure.measured:,.4g}", bound, figure.unit, verdict))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in (1, 2) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]


def _keep(folder: Path, name: str, figures: Iterable[Figure]) -> None:
    document = {
        "benchmark": name,
        "machine": {
            "cpu": _cpu_model(),
            "cpus": len(os.sched_getaffinity(0)),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "numpy": version("numpy"),
        },
        "figures": [{**asdict(figure), "holds": figure.holds} for figure in figures],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    except OSError as problem:
        reason = problem.strerror or problem
        raise OutputError(
            f"{folder} cannot be written: {reason}; name another folder with --output"
        ) from problem


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
