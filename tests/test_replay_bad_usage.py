"""Wrong options, settings, places and topologies: one sentence and the right exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.traces import (
    EPYC,
    LAPTOP,
    ROOT,
    SAMPLE,
    SHIPPED,
    bare_environment,
    refused,
    replay,
    run_here,
)

# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        ([f"--load={SAMPLE}"], 2, "add --topology=FILE.json"),
        ([f"--load={SAMPLE}", f"--load={SHIPPED}", f"--topology={LAPTOP}"], 2, "--load is given"),
        ([f"--load={SAMPLE}", f"--topology={LAPTOP}", "--topology=x"], 2, "--topology is given"),
        ([f"--load={LAPTOP}", f"--topology={LAPTOP}"], 2, "give one of the two"),
        ([f"--load={SAMPLE}", f"--topology={LAPTOP}", "--debug=x"], 2, "--debug"),
        ([f"--load={SAMPLE}", f"--topology={LAPTOP}", "--debug=-1"], 2, "--debug"),
        ([f"--load={SAMPLE}", f"--topology={LAPTOP}", "--purple"], 2, "--purple"),
        ([SAMPLE], 2, str(SAMPLE)),
        (["--load"], 2, "--load"),
        (["--load=absent.csv", f"--topology={LAPTOP}"], 1, "absent.csv"),
        (["--load=", f"--topology={LAPTOP}"], 1, "Is a directory"),
        ([f"--load={ROOT}", f"--topology={LAPTOP}"], 1, "Is a directory; name a monitoring CSV"),
        ([f"--load={SAMPLE}/x", f"--topology={LAPTOP}"], 1, "Not a directory"),
        ([f"--load={'x' * 300}", f"--topology={LAPTOP}"], 1, "File name too long"),
        ([f"--load={SAMPLE}", "--topology=absent.json"], 1, "absent.json: there is no such file"),
        ([f"--load={SAMPLE}", f"--topology={SAMPLE}"], 1, "is not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_command(arguments: list[str | Path], code: int, hint: str) -> None:
    found, said = refused(*arguments)
    assert found == code
    assert hint in said


@pytest.mark.parametrize(
    ("env", "code", "hint"),
    [
        ({"SCL_SMT_ISOLATION": "yes"}, 2, "SCL_SMT_ISOLATION: 'yes'"),
        ({"OVSB_CRITICAL_SIZE": "-1"}, 2, "OVSB_CRITICAL_SIZE: '-1'"),
        ({"TOPO_EXCLUDE": "5-2"}, 2, "TOPO_EXCLUDE: '5-2'"),
        ({"TOPO_EXCLUDE": "8"}, 2, "names CPU 8 and the host's last is 7"),
        ({"TOPO_EXCLUDE": "0-7"}, 2, "every CPU of the host is excluded"),
        ({"SCL_RESERVED_MEMORY_MIB": "31776"}, 2, "lower SCL_RESERVED_MEMORY_MIB"),
        ({"SCL_RESERVED_MEMORY_MIB": "٢"}, 2, "SCL_RESERVED_MEMORY_MIB"),
    ],
    ids=str,
)
def test_a_wrong_setting(env: dict[str, str], code: int, hint: str, tmp_path: Path) -> None:
    done = replay(SAMPLE, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (code, "")
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1


# --- outputs --------------------------------------------------------------------------------------


def full(folder: Path, name: str) -> Path:
    """A folder where the file called *name* is on a full disk."""
    (folder / name).symlink_to("/dev/full")
    return folder


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        (lambda _: SAMPLE / "below", "Not a directory"),
        (lambda _: SAMPLE, "File exists"),
        (lambda _: Path("/proc/nowhere"), "No such file"),
        (lambda folder: folder / ("x" * 300), "File name too long"),
        (lambda folder: full(folder, "monitoring.csv"), "No space left"),
        (lambda folder: full(folder, "rejections.csv"), "No space left"),
        (lambda folder: full(folder, "topology_local.json"), "No space left"),
    ],
    ids=["below a file", "a file", "proc", "a long name", "full", "full later", "no topology"],
)
@pytest.mark.parametrize("trace", [SAMPLE, SHIPPED], ids=["short", "long"])
def test_an_output_that_cannot_be_written(
    place: Callable[[Path], Path], hint: str, trace: Path, tmp_path: Path
) -> None:
    code, out, err = run_here(
        f"--load={trace}", f"--topology={EPYC}", "--debug=1", f"--output={place(tmp_path)}"
    )
    assert code == 1
    assert hint in err
    assert "choose a" in err
    assert err.count("\n") == 1
    assert "timestamps;" not in out, "no totals, as if all were well"


def test_a_replay_does_not_write_over_its_trace(tmp_path: Path) -> None:
    trace = tmp_path / "monitoring.csv"
    trace.write_bytes(SAMPLE.read_bytes())
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "monitoring.csv").hardlink_to(trace)
    for folder in (tmp_path, tmp_path / "linked"):
        options = ["--debug=1", f"--output={folder}"]
        code, said = refused(f"--load={trace}", f"--topology={LAPTOP}", *options)
        assert (code, "--output" in said) == (1, True)
        assert trace.read_bytes() == SAMPLE.read_bytes()


def test_standard_output_on_a_full_disk() -> None:
    command = [f"--load={SHIPPED}", f"--topology={EPYC}"]
    with Path("/dev/full").open("wb") as nowhere:
        done = subprocess.run(
            [sys.executable, "-m", "schedulerlocal", *command],
            cwd=ROOT,
            env=bare_environment(),
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "standard output: No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_enough() -> None:
    command = [f"--load={SHIPPED}", f"--topology={LAPTOP}"]
    with subprocess.Popen(
        [sys.executable, "-m", "schedulerlocal", *command],
        cwd=ROOT,
        env=bare_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert not process.stderr.read()


# --- the topology ---------------------------------------------------------------------------------


def described(change: Callable[[Any], object]) -> bytes:
    document = json.loads(LAPTOP.read_text(encoding="utf-8"))
    change(document)
    return json.dumps(document).encode()


def cpu(document: Any, number: int) -> Any:
    return document["cpuset"]["cpu_list"][number]


@pytest.mark.parametrize(
    ("topology", "hint"),
    [
        (b"", "is empty"),
        (b"{cpuset: 1}", "line 1, column 2 is not JSON"),
        (LAPTOP.read_bytes()[:900], "is not JSON"),
        (LAPTOP.read_bytes().partition(b'"sib_smt"')[0], "ends too early"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[]", "it must be an object"),
        (b"{}", "cpuset is missing"),
        (described(lambda d: cpu(d, 1).update(cpu_id=0)), "CPU 0 is listed twice"),
        (described(lambda d: cpu(d, 1).update(sib_smt=[99])), "names sibling 99"),
        (described(lambda d: cpu(d, 1).update(numa_node=7)), "NUMA node 7"),
        (described(lambda d: cpu(d, 1)["cache_level"].pop("3")), "same depth"),
        (described(lambda d: cpu(d, 1).pop("max_freq")), "cpu_list[1].max_freq is missing"),
        (described(lambda d: d["memset"].update(allowed="much")), "memset.allowed"),
    ],
    ids=["empty", "no JSON", "cut in a string", "truncated", "binary", "a list", "an empty object",
         "a CPU twice", "an unknown sibling", "an unknown node", "unequal caches",
         "a field missing", "no number"],
)  # fmt: skip
def test_a_topology_that_cannot_be_used(topology: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_bytes(topology)
    code, said = refused(f"--load={SAMPLE}", f"--topology={path}")
    assert code == 1
    assert hint in said
    assert str(path) in said
