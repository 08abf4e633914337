"""Monitoring traces written by hand, the replay command, and reading back what it wrote."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from schedulerlocal.__main__ import main
from schedulerlocal.adapters.tracecsv import COLUMNS
from schedulerprocess.options import exit_code

ROOT = Path(__file__).resolve().parent.parent
LAPTOP = ROOT / "debug" / "topology_i7-1185G7.json"
EPYC = ROOT / "debug" / "topology_EPYC-7662-exp.json"
SHIPPED = ROOT / "results" / "monitoring.csv"
SAMPLE = ROOT / "tests" / "data" / "monitoring-live-sample-i7.csv"
HEADER = "\t".join(COLUMNS)

Row = dict[str, str]
Levels = dict[str, dict[str, int]]
"""vCPUs by VM, by level."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A VM as one timestamp shows it."""

    uuid: str
    vcpus: int
    memory_mib: int = 100
    level: str = "1.0"


def sample(time: object, *vms: Seen, usage: object = "0.5") -> list[str]:
    """The rows of one timestamp, as a host writes them; *usage* is every row's value."""
    levels = sorted({vm.level for vm in vms}, key=float)
    rows = [row(time, "global", "cpu", usage, 999)]
    for level in levels:
        rows.append(row(time, "subset", "cpu", usage, 99, f"subset-{level}", sb_oc=level))
        rows += [
            row(time, "vm", "cpu", usage, vm.vcpus, f"subset-{level}", vm.uuid, level)
            for vm in vms
            if vm.level == level
        ]
    rows.append(row(time, "global", "mem", usage, 99_999))
    if vms:
        rows.append(row(time, "subset", "mem", usage, 99, "subset-1", sb_oc="1"))
    rows += [
        row(time, "vm", "mem", usage, vm.memory_mib, "subset-1", vm.uuid, "1")
        for level in levels
        for vm in vms
        if vm.level == level
    ]
    return rows


def row(
    time: object,
    rec: str,
    res: str,
    val: object,
    config: object,
    subset: str = "None",
    uuid: str = "None",
    sb_oc: str = "None",
) -> str:
    name = "None" if uuid == "None" else f"n{uuid}"
    cells = (time, rec, res, val, config, subset, uuid, name, sb_oc, "None", "None")
    return "\t".join(map(str, cells))


def written(path: Path, *samples: Iterable[str], end: str = "\n") -> Path:
    """A trace of *samples* at *path*."""
    lines = [HEADER, *(line for each in samples for line in each)]
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def replay(
    trace: Path | str,
    *options: str,
    topology: Path | str = LAPTOP,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``python -m schedulerlocal`` on *trace*, with no settings but those of *env*."""
    command = [f"--load={trace}", f"--topology={topology}", *options]
    return subprocess.run(
        [sys.executable, "-m", "schedulerlocal", *command],
        cwd=cwd,
        env=bare_environment() | dict(env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def bare_environment() -> dict[str, str]:
    """This process's, without settings of VMStack."""
    ours = ("SCL_", "SCG_", "QEMU_", "TOPO_", "OVSB_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def samples_of(path: Path) -> list[tuple[str, list[Row]]]:
    """The rows of each timestamp, in the order of the file."""
    return [(time, list(rows)) for time, rows in groupby(rows_of(path), lambda row: row["tmp"])]


def replayed(trace: Path, output: Path, topology: Path = LAPTOP, **env: str) -> Path:
    """The monitoring CSV of a replay that ran without a complaint."""
    done = replay(trace, "--debug=1", f"--output={output}", topology=topology, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return output / "monitoring.csv"


def levels_of(rows: list[Row]) -> Levels:
    found: Levels = {}
    for row in rows:
        if (row["rec"], row["res"]) == ("vm", "cpu"):
            found.setdefault(row["sb_oc"], {})[row["vm_uuid"]] = int(row["config"])
    return found


def level_rows(rows: list[Row]) -> dict[str, Row]:
    return {
        row["subset"].removeprefix("subset-"): row
        for row in rows
        if (row["rec"], row["res"]) == ("subset", "cpu")
    }


def names_of(rows: list[Row], rec: str, res: str) -> list[str]:
    return [row["vm_cmn"] for row in rows if (row["rec"], row["res"]) == (rec, res)]


def run_here(*arguments: str | Path) -> tuple[int, str, str]:
    """The command, in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(main, [str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and sentence of a command that fails at once."""
    code, out, err = run_here(*arguments)
    assert not out
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert len(err) < 1_000
    return code, err
