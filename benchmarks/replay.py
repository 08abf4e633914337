"""How fast, in how much memory and how compactly a large trace is replayed.

The yardstick is pandas reading the same file on the same machine: its call alone, without its
import, against our whole processes, start-up included. They take turns, so that a busy machine
is busy for all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import Figure, Progress

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGY = ROOT / "debug" / "topology_EPYC-7662-exp.json"
TRACE = ("--vms=128", "--hours=168", "--step-s=120", "--churn=3")
"""1.3 million rows of 2 800 VMs, 124 MB."""
ROUNDS = 3

PLAIN_RATIO = 3
DEBUG_RATIO = 6
PEAK_MIB = 250
OUTPUT_RATIO = 1.3

# Each prints its own figure last: seconds, or the peak of this process alone, which getrusage
# would mix with that of the process it was forked from.
_PANDAS = """
import sys, time, pandas
began = time.perf_counter()
pandas.read_csv(sys.argv[1], sep="\\t", engine="c")
print(time.perf_counter() - began)
"""
_REPLAY = """
import sys
from schedulerlocal.__main__ import main
main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One process from start to end."""

    wall_s: float
    cpu_s: float
    printed: float
    """The number it printed last."""


def run(progress: Progress) -> list[Figure]:
    with TemporaryDirectory(prefix="vmstack-bench-") as folder:
        trace, output = Path(folder, "trace.csv"), Path(folder, "output")
        progress("making a trace")
        _process("-m", "schedulerlocal.synth", *TRACE, f"--output={trace}", figure=False)
        options = (f"--load={trace}", f"--topology={TOPOLOGY}")
        commands: dict[str, Sequence[str]] = {
            "pandas": ("-c", _PANDAS, str(trace)),
            "plain": ("-c", _REPLAY, *options),
            "debug": ("-c", _REPLAY, *options, "--debug=1", f"--output={output}"),
        }
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for turn in range(ROUNDS):
            for name, command in commands.items():
                progress(f"{name}, {turn + 1} of {ROUNDS}")
                runs[name].append(_process(*command))
        size, written = trace.stat().st_size, (output / "monitoring.csv").stat().st_size
    return _figures(runs, size, written)


def _figures(runs: dict[str, list[Run]], size: int, written: int) -> list[Figure]:
    pandas_s = median(each.printed for each in runs["pandas"])
    figures = [
        Figure("trace", size / 1e6, "MB"),
        Figure("pandas.read_csv", pandas_s, "s"),
    ]
    for name, label, ratio in (
        ("plain", "replay", PLAIN_RATIO),
        ("debug", "replay --debug=1", DEBUG_RATIO),
    ):
        wall_s = median(each.wall_s for each in runs[name])
        cpu_s = median(each.cpu_s for each in runs[name])
        peak_mib = max(each.printed for each in runs[name]) / 1024
        figures += [
            Figure(label, wall_s, "s"),
            Figure(f"{label}, CPU", cpu_s, "s"),
            Figure(f"{label} against pandas", wall_s / pandas_s, "times", ratio),
            Figure(f"{label}, peak memory", peak_mib, "MiB", PEAK_MIB),
        ]
    figures.append(Figure("output against input", written / size, "times", OUTPUT_RATIO))
    return figures


def _process(*arguments: str, figure: bool = True) -> Run:
    """Run Python with *arguments* to its end; raises RuntimeError if it fails."""
    began = perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # no terminal, so no progress bar
        text=True,
    )
    with process:
        assert process.stdout is not None
        printed = process.stdout.read()
        # not wait(): this one tells the CPU time of this very process
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{arguments[:2]} failed with {process.returncode}: {printed[-400:]}")
    number = float(printed.split()[-1]) if figure else 0.0
    return Run(wall_s, used.ru_utime + used.ru_stime, number)
