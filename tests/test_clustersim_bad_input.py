"""Whatever is wrong: one sentence that names it, the right exit code, no traceback, no output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustersim.strategies import parse_strategy
from clustersim.tracefile import read_trace
from schedulercommon.errors import TraceError
from tests import traces
from tests.simulations import HEADER, refused
from tests.traces import Seen, sample

DRAWN = ("--workload=azure2017", "--mix=50,0,50", "--vms=5", "--days=1")
GOOD = "0,9,1,1024,1\n"


def rows(*lines: str) -> bytes:
    return (HEADER + "".join(f"{line}\n" for line in lines)).encode()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "line 1: the header is missing; it must name arrival_s"),
    "blank": (b"\n\n", "line 1: the header is missing"),
    "header only": (HEADER.encode(), "the trace has a header and no rows"),
    "no header": (GOOD.encode(), "line 1: the header lacks arrival_s, departure_s, vcpus"),
    "columns missing": (b"arrival_s,vcpus,level\n", "line 1: the header lacks departure_s, memory"),
    "a column twice": (b"level," + HEADER.encode(), "line 1: the header names level twice"),
    "semicolons": (rows().replace(b",", b";"), "line 1: the header lacks arrival_s"),
    "not UTF-8": (rows("0,9,1,1,1", "0,9,1,1,\xe9").decode().encode("latin-1"), "3: it is not UTF"),
    "UTF-16": ((HEADER + GOOD).encode("utf-16"), "line 1: it is not UTF-8 text"),
    "binary": (bytes(range(256)) * 99, "line "),
    "a row cut short": (rows("0,9,1,1024,1", "0,9,1"), "line 3: it has 3 columns; complete it"),
    "a quote that never ends": (rows('0,9,"1,1,1'), "line 2: unexpected end of data"),
    "departure before arrival": (rows("5,4.5,1,1,1"), "2: the VM departs at 4.5 s and arrives at"),
    "departure at arrival": (rows("5,5.0,1,1,1"), "line 2: the VM departs at 5.0 s"),
    "no vCPUs": (rows("0,9,0,1,1"), "line 2: vcpus is '0'; it must be a whole number from 1"),
    "fractional vCPUs": (rows("0,9,1.5,1,1"), "line 2: vcpus is '1.5'; it must be a whole number"),
    "negative vCPUs": (rows("0,9,-1,1,1"), "line 2: vcpus is '-1'"),
    "vCPUs in words": (rows("0,9,two,1,1"), "line 2: vcpus is 'two'"),
    "vCPUs in other digits": (rows("0,9,٣,1,1"), "line 2: vcpus is '٣'"),
    "too many vCPUs": (rows("0,9,5000,1,1"), "line 2: vcpus is '5000'"),
    "no memory": (rows("0,9,1,0,1"), "line 2: memory_mib is '0'; it must be a whole number"),
    "fractional memory": (rows("0,9,1,0.75,1"), "line 2: memory_mib is '0.75'"),
    "memory empty": (rows("0,9,1,,1"), "line 2: memory_mib is ''"),
    "level below 1": (rows("0,9,1,1,0.5"), "line 2: level 0.5 is out of range"),
    "level 0": (rows("0,9,1,1,0"), "line 2: level 0.0 is out of range"),
    "level by zero": (rows("0,9,1,1,1/0"), "line 2: level '1/0' divides by zero"),
    "level too high": (rows("0,9,1,1,65"), "line 2: level 65.0 is out of range"),
    "level empty": (rows("0,9,1,1,"), "line 2: '' is not a level"),
    "arrival before 0": (rows("-1,9,1,1,1"), "line 2: arrival_s is '-1'; it must be a number"),
    "arrival not a number": (rows("nan,9,1,1,1"), "line 2: arrival_s is 'nan'"),
    "arrival empty": (rows(",9,1,1,1"), "line 2: arrival_s is ''"),
    "arrival never": (rows("inf,,1,1,1"), "line 2: arrival_s is 'inf'"),
    "departure never": (rows("0,inf,1,1,1"), "line 2: departure_s is 'inf'"),
    "departure beyond numbers": (rows("0,1e999,1,1,1"), "line 2: departure_s is '1e999'"),
    "departure before 0": (rows("0,-5,1,1,1"), "line 2: departure_s is '-5'"),
    "underscores": (rows("1_0,,1,1,1"), "line 2: arrival_s is '1_0'"),
    "VM with too many vCPUs": (rows("0,,1,1,1", "0,,33,1,3"), "line 3: VM 1 has 33 vCPUs and 1 M"),
    "VM with too much memory": (rows("0,,1,131073,1"), "line 2: VM 0 has 1 vCPUs and 131073 MiB"),
}


@pytest.mark.parametrize(("content", "sentence"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_trace(content: bytes, sentence: str, tmp_path: Path) -> None:
    trace, placements = tmp_path / "trace.csv", tmp_path / "placements.csv"
    trace.write_bytes(content)
    for command in (("size",), ("run", "--hosts=3")):
        code, said = refused(*command, f"--trace={trace}", f"--placements={placements}")
        assert code == 1
        assert said.startswith(str(trace))
        assert sentence in said
    assert not placements.exists()


@given(st.binary(max_size=200) | st.text(alphabet='0123456789.,-e/"\n x', max_size=80))
def test_any_bytes_are_read_or_refused(content: bytes | str) -> None:
    body = content if isinstance(content, bytes) else HEADER.encode() + content.encode()
    with open(os.memfd_create("trace"), "r+b") as file:
        file.write(body)
        file.flush()
        said, demands = "", ()
        try:
            demands = read_trace(Path(f"/proc/self/fd/{file.fileno()}")).workload
        except TraceError as problem:
            said = str(problem)
    assert bool(demands) != bool(said)
    assert "\n" not in said
    assert all(0 <= demand.arrival_s < demand.departure_s for demand in demands)


def test_monitoring_traces_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "monitoring.csv"
    large = traces.written(path, sample(0, Seen("a", 1)), sample(9, Seen("b", 33)))
    line = next(
        number
        for number, text in enumerate(large.read_text().splitlines(), 1)
        if "\tvm\tcpu\t" in text and "\tb\t" in text
    )
    assert f"{path}, line {line}: VM 1 has 33 vCPUs" in refused("size", f"--trace={path}")[1]
    nobody = traces.written(path, sample(0))
    assert "shows no VM" in refused("size", f"--trace={nobody}")[1]
    lines = [line for line in sample(0, Seen("a", 1)) if "\tvm\tmem\t" not in line]
    assert "without a vm mem row" in refused("size", f"--trace={traces.written(path, lines)}")[1]
    path.write_text(traces.HEADER.replace("\tsb_dsc", "") + "\n")
    assert "the header lacks sb_dsc" in refused("size", f"--trace={path}")[1]


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "no command": ((), "the following arguments are required: COMMAND"),
    "an unknown command": (("sise",), "invalid choice: 'sise'"),
    "an unknown option": (("size", "--polices=a"), "unrecognized arguments: --polices=a"),
    "an option twice": (("size", "--seed=1", "--seed=2"), "--seed is given twice"),
    "no workload": (("size",), "there is no workload; add --trace=FILE or --workload="),
    "nothing to generate": (("generate",), "there is no workload; add --workload="),
    "an unknown workload": (
        ("size", "--workload=gcp", "--mix=50,0,50"),
        "--workload: there is no 'gcp'; choose of azure2017, ovhcloud2023, chameleon2020",
    ),
    "no mix": (("size", "--workload=azure2017"), "add --mix=50,0,50"),
    "a mix of 99": (
        ("size", "--workload=azure2017", "--mix=50,0,49"),
        "--mix: '50,0,49' sums to 99; percentages must sum to 100",
    ),
    "a mix of two": (("generate", "--workload=azure2017", "--mix=50,50"), "three percentages"),
    "a mix of words": (("generate", "--workload=azure2017", "--mix=a,b,c"), "'a,b,c' is not a mix"),
    "a negative mix": (("generate", "--workload=azure2017", "--mix=-50,50,100"), "is not a mix"),
    "two workloads": (("size", "--trace=a", "--mix=50,0,50"), "--trace and --mix exclude each"),
    "an unknown policy": (
        ("size", *DRAWN, "--policy=worst-fit"),
        "there is no policy 'worst-fit'; choose of dedicated, progress, first-fit, best-fit",
    ),
    "a policy twice": (("size", *DRAWN, "--policy=tight,tight"), "'tight' is given twice"),
    "no policy": (("size", *DRAWN, "--policy="), "there is no policy ''"),
    "unknown moves": (("size", *DRAWN, "--policy=tight+yearly"), "no policy 'tight+yearly'"),
    "moves of nothing": (("size", *DRAWN, "--policy=tight+"), "there is no policy 'tight+'"),
    "dedicated is no policy of a run": (
        ("run", *DRAWN, "--hosts=3", "--policy=dedicated"),
        "there is no policy 'dedicated'; choose of progress",
    ),
    "a host without memory": (("size", *DRAWN, "--host=32"), "write CPUs and GB like 32x128"),
    "a host of no CPUs": (("size", *DRAWN, "--host=0x128"), "from 1 to 4096 CPUs"),
    "a host of half a CPU": (("size", *DRAWN, "--host=0.5x128"), "whole ones"),
    "a host of no memory": (("size", *DRAWN, "--host=1x0"), "at least 1 MiB"),
    "a host of too many CPUs": (("size", *DRAWN, "--host=5000x1"), "from 1 to 4096 CPUs"),
    "a negative host": (("size", *DRAWN, "--host=-32x-128"), "is not a size"),
    "no VMs": (("size", *DRAWN[:2], "--vms=0"), "--vms: '0' is not a whole number from 1"),
    "no days": (("size", *DRAWN[:2], "--days=0"), "--days: '0' is not a number of days above 0"),
    "a seed in words": (("size", *DRAWN, "--seed=x"), "--seed: 'x' is not a whole number"),
    "a correlation above 1": (("size", *DRAWN, "--correlation=1.1"), "'1.1' is not from -1 to 1"),
    "a turnover below 0": (("size", *DRAWN, "--turnover=-1"), "--turnover: '-1' is not a number"),
    "a trace without a name": (("size", "--trace="), "--trace: '' is a folder; name a file"),
    "placements without a name": (("size", *DRAWN, "--placements=.."), "--placements: '..' is a"),
    "an output without a name": (("generate", *DRAWN, "--output="), "--output: '' is a folder"),
    "no hosts": (("run", *DRAWN), "add --hosts=40"),
    "hosts in words": (("run", *DRAWN, "--hosts=many"), "--hosts: 'many' is not a whole number"),
    "an outage of nobody": (
        ("run", *DRAWN, "--hosts=3", "--outages=3@5"),
        "--outages: '3@5': hosts are numbered from 0 to 2",
    ),
    "an outage backwards": (("run", *DRAWN, "--hosts=3", "--outages=1@9-5"), "returns after it"),
    "an outage in words": (("run", *DRAWN, "--hosts=3", "--outages=1@noon"), "is not an outage"),
    "outages that overlap": (
        ("run", *DRAWN, "--hosts=3", "--outages=1@5-9,1@7-10"),
        "--outages: host 1 fails at 7 s while it is away",
    ),
    "a delay below 0": (("run", *DRAWN, "--hosts=3", "--boot-delay=-1"), "--boot-delay: '-1'"),
}


@pytest.mark.parametrize(("command", "sentence"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage(command: tuple[str, ...], sentence: str) -> None:
    code, said = refused(*command)
    assert code == 2
    assert sentence in said


def test_every_policy_there_is_is_listed() -> None:
    _, said = refused("size", *DRAWN, "--policy=worst-fit")
    listed = said.split("choose of dedicated, ")[1].split(", each also")[0]
    for name in listed.strip().split(", "):
        assert parse_strategy(name).name == name


def test_a_trace_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        code, said = refused("size", f"--trace={path}")
        assert code == 1
        assert said.startswith(f"cannot read the trace {path}: {why}")
    assert "null byte" in refused("size", "--trace=a\0b")[1]


@pytest.mark.parametrize(
    "command",
    [
        ("size", *DRAWN, "--placements"),
        ("run", *DRAWN, "--hosts=9", "--placements"),
        ("generate", *DRAWN, "--output"),
    ],
    ids=["size", "run", "generate"],
)
def test_an_output_that_cannot_be_written(command: tuple[str, ...], tmp_path: Path) -> None:
    *before, option = command
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "under", f"{tmp_path / 'file'} is not a folder"),
        (Path("/dev/full"), "No space left"),
    ):
        code, said = refused(*before, f"{option}={path}")
        assert code == 1
        assert said.startswith(f"cannot write {path}: {why}")
        assert said.endswith(f"choose another file with {option}\n")


def test_the_trace_is_not_overwritten(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(HEADER + GOOD)
    code, said = refused("size", f"--trace={trace}", f"--placements={tmp_path}/./trace.csv")
    assert (code, "would overwrite the trace" in said) == (2, True)
    assert trace.read_text() == HEADER + GOOD


def test_an_older_output_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    output, trace = tmp_path / "p.csv", tmp_path / "trace.csv"
    output.write_text("older")
    trace.write_text(HEADER)
    refused("size", f"--trace={trace}", f"--placements={output}")
    assert output.read_text() == "older"


def test_a_generated_vm_may_be_too_large() -> None:
    code, said = refused("size", "--workload=ovhcloud2023", "--mix=50,0,50", "--host=32x32")
    assert code == 1
    assert said.startswith("the generated workload ovhcloud2023: VM ")


SIZE = (sys.executable, "-m", "clustersim", "size")


def interrupted(process: subprocess.Popen[str]) -> str:
    """What a process says that is interrupted now."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not out
    return err


def test_ctrl_c_ends_the_wait_for_a_trace(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        subprocess.Popen(
            [*SIZE, f"--trace={pipe}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        pipe.open("wb"),
    ):  # which waits for its reader
        assert not interrupted(process)


def test_who_waits_long_is_told_and_may_end_it(tmp_path: Path) -> None:
    """On standard error, so that standard output stays what was asked for."""
    placements = tmp_path / "p.csv"
    workload = (
        "--workload=ovhcloud2023",
        "--mix=50,25,25",
        "--vms=4000",
        f"--placements={placements}",
    )
    with subprocess.Popen(
        [*SIZE, *workload, "--policy=progress,n_by_hosts"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith(("progress: trying ", "n_by_hosts: trying "))
        assert "Traceback" not in interrupted(process)
    assert not placements.exists()
