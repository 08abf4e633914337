"""The CSV of a sweep: a line for each finished cell, appended as it finishes, sorted in the end.

Lines say all that they depend on, so that a sweep can go on where another stopped, and refuses to
where that was of other parameters. A last line without its end was being written when its writer
was killed, and is not counted.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from clustersim.cells import COLUMN_GENERATION, AtPeak, Cell, Row, Setting
from clustersim.published import percents
from clustersim.workload import HostSize
from schedulercommon.errors import InputError, OutputError
from schedulercommon.levels import parse_decimal

FILE_NAME = "cells.csv"
_PERCENTS = tuple(f"percent_{level}to1" for level in (1, 2, 3))
COLUMNS = (
    *("workload", *_PERCENTS, "seed", "policy"),
    *("hosts", "bound", "moves", "moved_mib"),
    *("free_cpus", "free_memory_mib", "hosts_by_percent"),
    *("host_cpus", "host_memory_mib", "vms", "days", "turnover", "correlation"),
)


def read_cells(path: Path) -> list[Row]:
    """The finished cells in *path*, sorted; raises InputError."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise InputError(
            f"cannot read {path}: {problem.strerror}; name a folder that a sweep has written"
        ) from problem
    return [row for _, row in sorted(_parsed(path, content).items())]


@contextmanager
def open_cells(folder: Path, setting: Setting) -> Iterator[CellFile]:
    """The cells in *folder*, which is made if need be, to be added to.

    Raises OutputError if it cannot be written, or is being written by another sweep, and
    InputError if it is damaged or of another setting.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as problem:
        raise _unwritable(path, problem) from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another sweep is writing {path}; wait for it, or name another folder with"
                " --output"
            ) from None
        yield CellFile(path, file, setting)


class CellFile:
    """Finished cells, each on disk once it is added."""

    def __init__(self, path: Path, file: BinaryIO, setting: Setting) -> None:
        self.path = path
        self._file = file
        file.seek(0)
        content = file.read()
        self.rows = _parsed(path, content)
        for row in self.rows.values():
            if row.setting != setting:
                raise InputError(
                    f"{path} holds cells of other parameters ({_difference(row.setting, setting)});"
                    " name another folder with --output, or remove it"
                )
        try:
            file.truncate(content.rfind(b"\n") + 1)
            if not self.rows:
                file.truncate(0)
                self._append(_line(COLUMNS))
        except OSError as problem:
            raise _unwritable(path, problem) from problem

    def add(self, row: Row) -> None:
        self.rows[row.cell] = row
        try:
            self._append(_line(_values(row).values()))
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem

    def sort(self) -> None:
        """Write it anew, in order of the cells: its bytes do not tell which finished first."""
        lines = [_line(COLUMNS)]
        lines += [_line(_values(row).values()) for _, row in sorted(self.rows.items())]
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            beside.write_bytes(b"".join(lines))
            os.replace(beside, self.path)
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem

    def _append(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()


def _unwritable(path: Path, problem: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {problem.strerror}; name another folder with --output"
    )


def _difference(there: Setting, asked: Setting) -> str:
    before, now = _setting_values(there), _setting_values(asked)
    name = next(name for name in before if before[name] != now[name])
    return f"{name} is {before[name]} there and {now[name]} here"


def _line(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _values(row: Row) -> Mapping[str, object]:
    cell, there = row.cell, row.at_peak
    return {
        "workload": cell.workload,
        **dict(zip(_PERCENTS, percents(cell.mix).split(","), strict=True)),
        "seed": cell.seed,
        "policy": cell.policy,
        "hosts": row.hosts,
        "bound": repr(row.bound),
        "moves": row.moves,
        "moved_mib": row.moved_mib,
        "free_cpus": "" if there is None else there.free_cpus,
        "free_memory_mib": "" if there is None else there.free_memory_mib,
        "hosts_by_percent": ""
        if there is None
        else " ".join(f"{percent}:{hosts}" for percent, hosts in there.hosts_by_percent),
        **_setting_values(row.setting),
    }


def _setting_values(setting: Setting) -> dict[str, object]:
    return {
        "host_cpus": setting.host.cpus,
        "host_memory_mib": setting.host.memory_mib,
        "vms": setting.vms,
        "days": repr(setting.days),
        "turnover": repr(setting.turnover),
        "correlation": repr(setting.correlation),
    }


def _parsed(path: Path, content: bytes) -> dict[Cell, Row]:
    whole = content[: content.rfind(b"\n") + 1]
    header = _line(COLUMNS)
    if not (whole.startswith(header) or header.startswith(content)):
        raise InputError(
            f"{path} is no CSV of a sweep, its first line is another; name another folder with"
            " --output, or remove it"
        )
    rows: dict[Cell, Row] = {}
    try:
        reader = csv.reader(io.StringIO(whole.decode("ascii"), newline=""), strict=True)
        next(reader, None)
        for values in reader:
            row = _row(dict(zip(COLUMNS, values, strict=True)))
            if rows.setdefault(row.cell, row) != row:
                raise ValueError(f"another line says otherwise of {row.cell}")
    except UnicodeDecodeError as problem:
        raise _damaged(path, whole.count(b"\n", 0, problem.start) + 1, "it is no text") from None
    except (ValueError, csv.Error) as problem:
        raise _damaged(path, reader.line_num, str(problem)) from None
    return rows


def _damaged(path: Path, number: int, reason: str) -> InputError:
    return InputError(
        f"{path}, line {number}, is damaged: {reason}; remove the line and run the sweep again"
    )


def _row(values: Mapping[str, str]) -> Row:
    """Raises ValueError."""
    cell = Cell(
        values["workload"],
        tuple(_share(values[name]) for name in _PERCENTS),
        int(values["seed"]),
        values["policy"],
    )
    setting = Setting(
        HostSize(int(values["host_cpus"]), int(values["host_memory_mib"])),
        int(values["vms"]),
        float(values["days"]),
        float(values["turnover"]),
        float(values["correlation"]),
    )
    at_peak = None
    if cell.policy != COLUMN_GENERATION:
        at_peak = AtPeak(
            int(values["free_cpus"]),
            int(values["free_memory_mib"]),
            tuple(_pair(text) for text in values["hosts_by_percent"].split()),
        )
    hosts, bound = int(values["hosts"]), float(values["bound"])
    if sum(cell.mix) != 1 or not 0 <= bound <= hosts:
        raise ValueError(f"{cell} cannot have {hosts} hosts and a bound of {bound}")
    if at_peak is not None and sum(count for _, count in at_peak.hosts_by_percent) != hosts:
        raise ValueError(f"hosts_by_percent does not tell of {hosts} hosts")
    moves, moved_mib = int(values["moves"]), int(values["moved_mib"])
    return Row(cell, setting, hosts, bound, moves, moved_mib, at_peak)


def _share(text: str) -> Fraction:
    return parse_decimal(text) / 100


def _pair(text: str) -> tuple[int, int]:
    percent, _, hosts = text.partition(":")
    return int(percent), int(hosts)
