from __future__ import annotations

import csv
import json
import os
import pty
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.servers import eventually
from tests.simulations import done, refused
from tests.sweeps import COMMAND, LONG, ROOT, SMALL, begin, dask_cluster, finished_cells, sweep

SMALL_SIZE = ("--vms=30", "--days=1")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    found = sweep(*SMALL, "--column-generation", f"--output={folder}", "--workers=2")
    assert found.returncode == 0, found.stderr
    assert "12 cells in " in found.stdout
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def runs(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["runs"]
    return found


def percents(row: dict[str, str]) -> str:
    return ",".join(row[f"percent_{level}to1"] for level in (1, 2, 3))


def test_a_cell_is_what_size_says_of_it(swept: Path) -> None:
    cells = [row for row in rows(swept) if row["policy"] != "column-generation"]
    assert {percents(row) for row in cells} == {"50,0,50", "0,100,0"}
    assert len(cells) == 8
    for row in cells:
        chosen = (f"--workload={row['workload']}", f"--mix={percents(row)}", *SMALL_SIZE)
        out = done("size", *chosen, f"--seed={row['seed']}", f"--policy={row['policy']}", "--json")
        assert json.loads(out) == {
            "bound": float(row["bound"]),
            "hosts": {row["policy"]: int(row["hosts"])},
        }


def test_what_is_free_and_how_full_hosts_are_agree(swept: Path) -> None:
    for row in rows(swept):
        if row["policy"] == "column-generation":
            assert row["hosts_by_percent"] == ""
            continue
        pairs = [pair.split(":") for pair in row["hosts_by_percent"].split()]
        assert sum(int(hosts) for _, hosts in pairs) == int(row["hosts"])
        cpus = int(row["hosts"]) * int(row["host_cpus"])
        used = cpus - int(row["free_cpus"])
        assert float(row["bound"]) * int(row["host_cpus"]) <= max(
            used,
            (int(row["hosts"]) * 131_072 - int(row["free_memory_mib"])) / 131_072 * 32,
        )


def test_the_bound_by_columns_is_between(swept: Path) -> None:
    found = {(percents(row), row["seed"], row["policy"]): row for row in rows(swept)}
    bounds = {key: row for key, row in found.items() if key[2] == "column-generation"}
    assert len(bounds) == 4
    for (mix, seed, _), row in bounds.items():
        least = int(row["hosts"])
        assert float(row["bound"]) <= least <= int(found[mix, seed, "first-fit"]["hosts"])


def test_bytes_tell_neither_who_was_first_nor_how_long_it_took(swept: Path, tmp_path: Path) -> None:
    found = sweep(*SMALL, "--column-generation", f"--output={tmp_path}", "--workers=1")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "cells.csv").read_bytes() == (swept / "cells.csv").read_bytes()
    (about,) = runs(tmp_path)
    assert about["command"].endswith("--workers=1")
    assert about["policies"]["cells"] == 8
    assert about["column-generation"]["cells"] == 4
    lines = found.stderr.splitlines()
    assert lines[-1] == "column-generation: 4 of 4 cells"
    assert "policies: 8 of 8 cells" in lines


def test_finished_cells_are_not_worked_out_again(swept: Path, tmp_path: Path) -> None:
    header, *lines = (swept / "cells.csv").read_text().splitlines(keepends=True)
    marked = format(_First(rows(swept)[0]), "moves=7")  # which it never made
    assert marked != lines[0]
    half = lines[1][: len(lines[1]) // 2]  # a sweep was killed while it wrote
    (tmp_path / "cells.csv").write_text(header + lines[5] + marked + half)
    found = sweep(*SMALL, "--column-generation", f"--output={tmp_path}")
    assert found.returncode == 0, found.stderr
    assert "2 of 12 cells are finished already" in found.stderr
    assert [each["policies"]["cells"] for each in runs(tmp_path)] == [7]
    assert (tmp_path / "cells.csv").read_text() == header + marked + "".join(lines[1:])


def test_a_finished_sweep_starts_nothing(swept: Path) -> None:
    before = (swept / "cells.csv").read_bytes(), (swept / "run.json").read_bytes()
    assert done_again(swept).startswith(f"12 cells in {swept}/cells.csv\n")
    assert before == ((swept / "cells.csv").read_bytes(), (swept / "run.json").read_bytes())


def done_again(folder: Path) -> str:
    found = sweep(*SMALL, "--column-generation", f"--output={folder}")
    assert found.stderr == f"12 of 12 cells are finished already, in {folder}/cells.csv\n"
    assert found.returncode == 0
    return found.stdout


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    with begin(*LONG, f"--output={tmp_path}") as process:
        eventually(lambda: finished_cells(tmp_path) >= 3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, err = process.communicate(timeout=60)
    kept = finished_cells(tmp_path)
    assert (process.returncode, out) == (130, "")
    assert 3 <= kept < 90
    assert f"interrupted: {kept} of 90 cells are finished and kept" in err
    assert "Traceback" not in err
    eventually(lambda: not workers_of(process.pid))
    with begin(*LONG, f"--output={tmp_path}") as process:
        eventually(lambda: finished_cells(tmp_path) > kept)
        process.send_signal(signal.SIGINT)
        assert f"{kept} of 90 cells are finished already" in process.communicate(timeout=60)[1]


def workers_of(session: int) -> list[int]:
    """Processes that run in it; those that ended and whose parent did not look are not."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(folder.name))
    return found


def command_of(pid: int) -> bytes:
    return (Path("/proc") / str(pid) / "cmdline").read_bytes()


def test_a_worker_that_is_killed_loses_no_finished_cell(tmp_path: Path) -> None:
    with begin(*LONG, f"--output={tmp_path}") as process:
        eventually(lambda: finished_cells(tmp_path) >= 3)
        spawned = [pid for pid in workers_of(process.pid) if b"spawn_main" in command_of(pid)]
        assert len(spawned) == 2
        for pid in spawned:
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "whoever worked on the cells ended before its time" in err.splitlines()[-1]
    assert finished_cells(tmp_path) >= 3


def test_a_cell_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    found = sweep(
        *("--workload=chameleon2020,ovhcloud2023", "--mix=50,0,50", "--vms=60", "--days=1"),
        *("--policy=first-fit", "--seeds=2", "--host=32x16", f"--output={tmp_path}"),
    )
    assert (found.returncode, found.stdout) == (1, "")
    said = found.stderr.splitlines()[-1]
    assert said.startswith("2 of 4 cells failed, the others are kept in ")
    assert "ovhcloud2023 50,0,50 seed " in said
    assert said.endswith("is larger than any host; make the hosts larger with --host")
    assert finished_cells(tmp_path) == 2


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with begin_on(theirs, *SMALL, f"--output={tmp_path}") as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert process.wait(timeout=60) == 0
    os.close(ours)
    assert "policies" in shown.decode()
    assert "8/8" in shown.decode()


def begin_on(terminal: int, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=terminal, cwd=ROOT, env=environment
    )


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # nobody has it open any more
        return b""


def test_a_dask_cluster_finds_the_same(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with dask_cluster(tmp_path) as address:
        found = sweep(*SMALL, "--column-generation", f"--output={out}", f"--executor={address}")
    assert (found.returncode, finished_cells(out)) == (0, 12), found.stderr
    assert (out / "cells.csv").read_bytes() == (swept / "cells.csv").read_bytes()
    (about,) = runs(out)
    assert about["policies"]["workers"] == 2


def test_no_dask_scheduler_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    found = sweep(*SMALL, f"--output={tmp_path}", f"--executor={address}")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (
        f"no Dask scheduler answers at {address}: Connection refused; start one with"
        " `dask scheduler`, or leave --executor out\n"
    )


def test_something_else_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        found = sweep(*SMALL, f"--output={tmp_path}", f"--executor={address}")
    assert (found.returncode, found.stdout) == (1, "")
    assert "does not speak as one" in found.stderr
    assert found.stderr.count("\n") == 1


WRONG_USAGE = {
    "nothing to sweep": ((), "it is not said what to sweep; add --published"),
    "no mix": (("--workload=azure2017",), "it is not said what to sweep"),
    "no workload": (("--mix=50,0,50",), "it is not said what to sweep"),
    "two of them": (("--published", "--mix=50,0,50"), "--published and --mix exclude each other"),
    "unknown workload": (("--workload=azure", "--mix=50,0,50"), "there is no 'azure'; choose of"),
    "mix not 100": (("--workload=azure2017", "--mix=50,0,40"), "--mix: '50,0,40' sums to 90"),
    "one of two mixes": (("--workload=azure2017", "--mix=50,0,50:1,1,1"), "'1,1,1' sums to 3"),
    "mix twice": (("--workload=azure2017", "--mix=50,0,50:50,0,50"), "'50,0,50' is given twice"),
    "workload twice": (("--workload=azure2017,azure2017", "--mix=50,0,50"), "is given twice"),
    "unknown policy": (("--published", "--policy=tigth"), "--policy: there is no policy 'tigth'"),
    "unknown moves": (("--published", "--policy=tight+weekly"), "no policy 'tight+weekly'"),
    "no seeds": (("--published", "--seeds=0"), "--seeds: '0' says neither how many seeds nor"),
    "seeds backwards": (("--published", "--seeds=7-4"), "'7-4' says neither how many seeds"),
    "too many cells": (("--published", "--seeds=90000"), "ask for at most 1000000 at once"),
    "no workers": (("--published", "--workers=0"), "--workers: '0' is not a whole number"),
    "executor": (("--published", "--executor=http://x:1"), "is no executor; write local, or the"),
    "no port": (("--published", "--executor=tcp://x"), "'tcp://x' is no executor"),
    "both": (("--published", "--workers=2", "--executor=tcp://x:1"), "give one of the two"),
    "host": (("--published", "--host=32"), "--host: '32' is not a size"),
    "days": (("--published", "--days=0"), "--days: '0' is not a number of days above 0"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, sentence = refused("sweep", *arguments, f"--output={tmp_path / 'out'}")
    assert code == 2
    assert said in sentence
    assert not (tmp_path / "out").exists()


DAMAGED = {
    "another table": ("a,b\n1,2\n", "is no CSV of a sweep, its first line is another"),
    "no table": ("Dear diary", "is no CSV of a sweep"),
    "too few columns": ("{header}azure2017,50,0,50,0\n", "line 2, is damaged: zip()"),
    "no number": ("{header}{first:hosts=many}", "line 2, is damaged: invalid literal"),
    "hosts below the bound": ("{header}{first:hosts=0}", "line 2, is damaged: azure2017 0,100,0"),
    "mix": ("{header}{first:percent_1to1=7}", "line 2, is damaged"),
    "not finite": ("{header}{first:bound=nan}", "line 2, is damaged"),
    "said twice": ("{header}{first:}{first:moves=3}", "line 3, is damaged: another line says"),
    "hosts that are not": ("{header}{first:hosts_by_percent=50:99}", "does not tell of"),
    "no text": ("{header}\xff{first:}", "line 2, is damaged: it is no text"),
    "a quote that never ends": ('{header}"', "is damaged"),
    "other parameters": (
        "{header}{first:vms=31}",
        "other parameters (vms is 31 there and 30 here)",
    ),
}


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_cannot_be_gone_on_with(
    content: str, said: str, swept: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cells.csv"
    header = (swept / "cells.csv").read_text().splitlines(keepends=True)[0]
    path.write_text(
        content.format(header=header, first=_First(rows(swept)[1])) + "\n" * ('"' in content),
        encoding="latin-1",
    )
    before = path.read_bytes()
    code, sentence = refused("sweep", *SMALL, f"--output={tmp_path}")
    assert code == 1
    assert str(path) in sentence
    assert said in sentence
    assert path.read_bytes() == before


class _First:
    """``{first:hosts=3}`` is a line with hosts of 3."""

    def __init__(self, row: dict[str, str]) -> None:
        self._row = row

    def __format__(self, spec: str) -> str:
        name, _, value = spec.partition("=")
        changed = {**self._row, name: value} if name else self._row
        return ",".join(changed.values()) + "\n"


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, sentence = refused("sweep", *SMALL, f"--output={tmp_path / 'file' / 'out'}")
    assert code == 1
    assert sentence.endswith("Not a directory; name another folder with --output\n")


def test_two_sweeps_do_not_write_one_file(tmp_path: Path) -> None:
    with begin(*LONG, f"--output={tmp_path}") as process:
        eventually(lambda: finished_cells(tmp_path) >= 1)
        code, sentence = refused("sweep", *LONG, f"--output={tmp_path}")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert code == 1
    assert "another sweep is writing" in sentence
