"""Recorded workloads: CSVs with a row per VM, and what hosts monitored."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from clustersim.tracefile import read_trace
from clustersim.workload import Workload
from tests import traces
from tests.simulations import HEADER, done, workload
from tests.traces import Seen, sample

READ: dict[str, tuple[str, Workload]] = {
    "plain": (HEADER + "0,5,2,1024,2\n1.5,,1,1,1\n", workload("0 5 2 1024 2", "1.5 - 1 1 1")),
    "in any order of arrival": (
        HEADER + "9,,2,7,2\n1,2,1,1,1\n",
        workload("9 - 2 7 2", "1 2 1 1 1"),
    ),
    "levels of all kinds": (
        HEADER + "0,,1,1,4/3\n0,,1,1,1.50\n0,,1,1,64\n",
        workload("0 - 1 1 4/3", "0 - 1 1 3/2", "0 - 1 1 64"),
    ),
    "other columns, another order": (
        "level,name,vcpus,arrival_s,memory_mib,departure_s\n2.0,a,3,1,5,2\n",
        workload("1 2 3 5 2"),
    ),
    "as spreadsheets write it": (
        "\ufeff" + HEADER.strip() + '\r\n"0", 10.0 ,2.0,1024.0,1.0\r\n,,,,\r\n\r\n',
        workload("0 10 2 1024 1"),
    ),
    "large and small times": (HEADER + "1e-3,1.5e+9,1,1,1\n", workload("0.001 1.5e9 1 1 1")),
    "no end of line": (HEADER + "0,,1,1,1", workload("0 - 1 1 1")),
}


@pytest.mark.parametrize(("text", "expected"), READ.values(), ids=READ.keys())
def test_rows(text: str, expected: Workload, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode())
    assert read_trace(path).workload == expected


A, B = Seen("a", 2, 100, "2.0"), Seen("b", 1, 50)

MONITORED: dict[str, tuple[list[list[str]], Workload]] = {
    "comes and goes": (
        [sample(0, A), sample(15, A, B), sample(30, B), sample(45, B)],
        workload("0 30 2 100 2", "15 - 1 50 1"),
    ),
    "comes back": (
        [sample(0, A, B), sample(15, B), sample(30, A, B)],
        workload("0 - 1 50 1", "0 15 2 100 2", "30 - 2 100 2"),
    ),
    "another size": (
        [sample(0, A), sample(15, Seen("a", 4, 100, "2.0")), sample(30, Seen("a", 4, 200, "2.0"))],
        workload("0 15 2 100 2", "15 30 4 100 2", "30 - 4 200 2"),
    ),
    "another level": (
        [sample(0, A), sample(15, Seen("a", 2, 100, "3.0"))],
        workload("0 15 2 100 2", "15 - 2 100 3"),
    ),
    "a host that empties": (
        [sample(0, A), sample(15)],
        workload("0 15 2 100 2"),
    ),
}


@pytest.mark.parametrize(("samples", "expected"), MONITORED.values(), ids=MONITORED.keys())
def test_monitored(samples: list[list[str]], expected: Workload, tmp_path: Path) -> None:
    trace = read_trace(traces.written(tmp_path / "monitoring.csv", *samples))
    assert trace.workload == expected
    assert len(trace.lines) == len(expected)


def test_the_line_is_where_a_vm_was_first_seen(tmp_path: Path) -> None:
    path = traces.written(tmp_path / "monitoring.csv", sample(0, B), sample(15, A, B))
    lines = path.read_text().splitlines()
    trace = read_trace(path)
    assert [lines[line - 1].split("\t")[6] for line in trace.lines] == ["b", "a"]


def test_memory_rows_may_be_missing_now_and_then(tmp_path: Path) -> None:
    without = [line for line in sample(15, A, B) if "\tvm\tmem\t" not in line]
    path = traces.written(tmp_path / "monitoring.csv", sample(0, A, B), without, sample(30, A, B))
    assert [demand.departure_s for demand in read_trace(path).workload] == [inf, inf]


def test_a_recorded_host_is_sized() -> None:
    """The trace that comes with the checkout: replayed on 232 CPUs, it has refusals."""
    command = ("size", "--trace=results/monitoring.csv", "--policy=first-fit,best-fit")
    for cpus, hosts in ((232, "2"), (256, "1")):
        shown = done(*command, f"--host={cpus}x1007.56").splitlines()
        assert [line.split()[:2] for line in shown[-2:]] == [
            ["first-fit", hosts],
            ["best-fit", hosts],
        ]
