"""Reads a monitoring CSV, recorded or replayed, into one value per timestamp and level.

Streams: what stays in memory is eight bytes per timestamp and quantity, and the VMs' identities.
Usage of a level is the sum over its VMs, in CPUs, and where none was measured what the level's
own row says. A level without a row of its own owns what the sizing rule asks for.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from schedulercommon.errors import TraceError
from schedulercommon.levels import Level, parse_level
from schedulercommon.sizing import cpus_needed
from schedulerlocal.adapters.monitoringcsv import REFUSAL_COLUMNS
from schedulerlocal.adapters.tracecsv import COLUMNS
from schedulerlocal.core.cpulist import parse_cpulist

Series = NDArray[np.float64]
_Value = TypeVar("_Value")

_KNOWN_AT_MOST = 1 << 16
_COLUMNS_BEFORE_TAIL = 4


@dataclass(frozen=True, slots=True)
class LevelSeries:
    """One level over time; 0 where it had no VM, usage NaN where nothing was measured."""

    cpus: Series
    """Owned."""
    vms: Series
    vcpus: Series
    """Sold."""
    usage: Series
    """In CPUs."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What a monitoring CSV says, by timestamp."""

    times_s: Series
    levels: Mapping[Level, LevelSeries]
    """In ascending order."""
    capacity_cpus: int
    capacity_memory_mib: int
    lent: Series
    """Free CPUs that at least one level borrows; NaN where the file does not tell."""
    memory_allocated_mib: Series
    memory_used_mib: Series
    vms_seen: int

    @property
    def free(self) -> Series:
        """CPUs no level owns, lent ones included."""
        owned = sum((each.cpus for each in self.levels.values()), np.zeros(len(self.times_s)))
        return self.capacity_cpus - owned


Rejections = Mapping[tuple[Level, str], Series]
"""Times in s of what was refused, by level and resource."""


@dataclass(slots=True)
class _LevelNow:
    """A level at the timestamp being read."""

    cpus: int | None = None
    vms: int = 0
    vcpus: int = 0
    largest: int = 0
    usage: float = nan
    own_value: float = nan


@dataclass(slots=True)
class _Now:
    """The timestamp being read."""

    levels: dict[Level, _LevelNow] = field(default_factory=dict)
    lent: set[int] | None = None
    memory_mib: int = 0
    memory_used_mib: float = nan
    subset_memory_mib: int | None = None
    host_memory_share: float = nan


class _Columns:
    """Grows the series, timestamp by timestamp."""

    def __init__(self) -> None:
        self.times_s = array("d")
        self.lent = array("d")
        self.memory_allocated = array("d")
        self.memory_used = array("d")
        self.levels: dict[Level, tuple[array[float], ...]] = {}

    def add(self, time_s: float, now: _Now, capacity_memory_mib: int) -> None:
        before = len(self.times_s)
        self.times_s.append(time_s)
        self.lent.append(nan if now.lent is None else len(now.lent))
        allocated = now.subset_memory_mib
        allocated = now.memory_mib if allocated is None else allocated
        used = now.memory_used_mib
        if used != used:  # no VM was measured
            used = now.host_memory_share * capacity_memory_mib if allocated else 0.0
        self.memory_allocated.append(allocated)
        self.memory_used.append(used)
        for level in now.levels.keys() - self.levels.keys():
            self.levels[level] = tuple(array("d", bytes(8 * before)) for _ in range(4))
        for level, series in self.levels.items():
            seen = now.levels.get(level)
            values: tuple[float, ...] = (0, 0, 0, 0)
            if seen is not None:
                usage = seen.own_value if seen.usage != seen.usage else seen.usage
                owned = seen.cpus
                if owned is None:
                    owned = cpus_needed(seen.vcpus, seen.largest, level)
                values = (owned, seen.vms, seen.vcpus, usage)
            for column, value in zip(series, values, strict=True):
                column.append(value)


def read_monitoring(path: Path) -> Monitoring:
    """The series in the CSV at *path*; raises TraceError, naming the line, if it is not one."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 1
        self._uuids: set[bytes] = set()
        # What follows a row's value repeats from one timestamp to the next: parsed once.
        self._cpu_tails: dict[bytes, tuple[Level, int]] = {}
        self._mem_tails: dict[bytes, int] = {}
        self._capacity = {b"cpu": 0, b"mem": 0}

    def read(self) -> Monitoring:
        columns = _Columns()
        now, text, time_s = _Now(), b"", -np.inf
        for parts in self._rows():
            if parts[0] != text:
                following_s = self._time_s(parts[0])
                if following_s < time_s:
                    raise self._broken(
                        f"time {_shown(parts[0])} comes after {_shown(text)}; sort the file by tmp"
                    )
                if following_s > time_s and text:
                    columns.add(time_s, now, self._capacity[b"mem"])
                    now = _Now()
                text, time_s = parts[0], following_s
            self._take_in(now, parts)
        if not text:
            raise TraceError(
                f"{self._path} has a header and no rows; record at least one timestamp"
            )
        columns.add(time_s, now, self._capacity[b"mem"])
        for resource, amount in self._capacity.items():
            if not amount:
                raise TraceError(
                    f"{self._path} has no global {resource.decode()} row;"
                    " add one that gives the host's capacity under config"
                )
        return Monitoring(
            times_s=np.array(columns.times_s),
            levels={
                level: LevelSeries(*map(np.array, columns.levels[level]))
                for level in sorted(columns.levels)
            },
            capacity_cpus=self._capacity[b"cpu"],
            capacity_memory_mib=self._capacity[b"mem"],
            lent=np.array(columns.lent),
            memory_allocated_mib=np.array(columns.memory_allocated),
            memory_used_mib=np.array(columns.memory_used),
            vms_seen=len(self._uuids),
        )

    def _rows(self) -> Iterator[list[bytes]]:
        """Each row as its first four columns and the rest of the line."""
        for number, line in _lines(self._path, COLUMNS):
            self._line = number
            parts = line.split(b"\t", _COLUMNS_BEFORE_TAIL)
            if len(parts) <= _COLUMNS_BEFORE_TAIL:
                raise self._broken(_too_short(line, COLUMNS))
            yield parts

    def _take_in(self, now: _Now, parts: list[bytes]) -> None:
        _, record, resource, value, tail = parts
        if resource not in self._capacity:
            raise self._broken(f"res is {_shown(resource)}; it must be cpu or mem")
        if record == b"vm":
            if resource == b"cpu":
                self._vm_cpu(now, value, tail)
            else:
                self._vm_mem(now, value, tail)
        elif record == b"subset":
            self._subset(now, resource, value, tail)
        elif record == b"global":
            amount = self._amount(self._fields(tail)[0])
            self._capacity[resource] = max(self._capacity[resource], amount)
            if resource == b"mem":
                now.host_memory_share = self._value(value)
        else:
            raise self._broken(f"rec is {_shown(record)}; it must be global, subset or vm")

    def _vm_cpu(self, now: _Now, value: bytes, tail: bytes) -> None:
        known = self._cpu_tails.get(tail)
        if known is None:
            vcpus, _, uuid, _, level, *_ = self._fields(tail)
            self._uuids.add(uuid)
            known = self._level(level), self._amount(vcpus)
            _remember(self._cpu_tails, tail, known)
        level_now = now.levels.get(known[0])
        if level_now is None:
            level_now = now.levels[known[0]] = _LevelNow()
        level_now.vms += 1
        level_now.vcpus += known[1]
        level_now.largest = max(level_now.largest, known[1])
        if value != b"None":
            level_now.usage = _plus(level_now.usage, self._value(value))

    def _vm_mem(self, now: _Now, value: bytes, tail: bytes) -> None:
        memory_mib = self._mem_tails.get(tail)
        if memory_mib is None:
            memory_mib = self._amount(self._fields(tail)[0])
            _remember(self._mem_tails, tail, memory_mib)
        now.memory_mib += memory_mib
        if value != b"None":
            now.memory_used_mib = _plus(now.memory_used_mib, memory_mib * self._value(value))

    def _subset(self, now: _Now, resource: bytes, value: bytes, tail: bytes) -> None:
        size, _, _, _, level, _, about = self._fields(tail)
        if resource == b"mem":
            now.subset_memory_mib = (now.subset_memory_mib or 0) + self._amount(size)
            return
        level_now = now.levels.setdefault(self._level(level), _LevelNow())
        level_now.cpus = self._amount(size)
        level_now.own_value = self._value(value)
        # Only a replay or a live scheduler tells what is lent; older files are long, not read.
        if b'"lent"' in about:
            self._lent(now, about)

    def _lent(self, now: _Now, about: bytes) -> None:
        try:
            described = json.loads(about)
            text = described.get("lent") if isinstance(described, dict) else None
            lent = None if text is None else parse_cpulist(str(text))
        except ValueError as problem:
            raise self._broken(
                f"sb_dsc is not JSON with CPUs under lent ({problem}); write like"
                ' {"cpus":"0-3","lent":"8"}'
            ) from None
        if lent is not None:
            now.lent = (now.lent or set()).union(lent)

    def _fields(self, tail: bytes) -> list[bytes]:
        fields = tail.split(b"\t")
        if len(fields) != len(COLUMNS) - _COLUMNS_BEFORE_TAIL:
            raise self._broken(_too_short(b"\t" * _COLUMNS_BEFORE_TAIL + tail, COLUMNS))
        return fields

    def _time_s(self, text: bytes) -> float:
        try:
            time_s = float(text)
        except ValueError:
            time_s = nan
        if not isfinite(time_s):
            raise self._broken(f"tmp is {_shown(text)}; it must be a number of seconds")
        return time_s

    def _value(self, text: bytes) -> float:
        if text == b"None":
            return nan
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not isfinite(value):
            raise self._broken(f"val is {_shown(text)}; it must be a number or None")
        return value

    def _amount(self, text: bytes) -> int:
        if not (text.isdigit() and len(text) <= 12):
            raise self._broken(f"config is {_shown(text)}; it must be a whole number")
        return int(text)

    def _level(self, text: bytes) -> Level:
        try:
            return parse_level(text.decode(errors="replace"))
        except ValueError as problem:
            raise self._broken(f"sb_oc: {problem}") from None

    def _broken(self, what: str) -> TraceError:
        return TraceError(f"{self._path}, line {self._line}: {what}")


def read_rejections(path: Path) -> Rejections | None:
    """What ``rejections.csv`` at *path* lists; None if there is no such file; raises TraceError."""
    if not path.exists():
        return None
    found: dict[tuple[Level, str], array[float]] = {}
    for number, line in _lines(path, REFUSAL_COLUMNS):
        fields = line.decode(errors="replace").split("\t")
        try:
            row = dict(zip(REFUSAL_COLUMNS, fields, strict=True))
            time_s, key = float(row["tmp"]), (parse_level(row["level"]), row["resource"])
        except ValueError as problem:
            raise TraceError(
                f"{path}, line {number}: {problem}; replay the trace again or remove the file"
            ) from None
        found.setdefault(key, array("d")).append(time_s)
    return {key: np.array(found[key]) for key in sorted(found)}


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
    """The numbered lines after the header, without their ends; raises TraceError."""
    try:
        with path.open("rb") as file:
            header = file.readline(1 << 16)
            if not header.strip():
                raise TraceError(f"{path} is empty; name a monitoring CSV")
            if header.removeprefix(b"\xef\xbb\xbf").split() != [each.encode() for each in columns]:
                raise TraceError(
                    f"{path}, line 1: the header is not that of a monitoring file;"
                    f" it must be, tab separated: {' '.join(columns)}"
                )
            for number, line in enumerate(file, start=2):
                yield number, line.rstrip(b"\r\n")
    except OSError as problem:
        raise TraceError(
            f"cannot read {path}: {problem.strerror}; name a monitoring CSV"
        ) from problem


def _remember(known: dict[bytes, _Value], tail: bytes, value: _Value) -> None:
    if len(known) >= _KNOWN_AT_MOST:
        known.clear()
    known[tail] = value


def _plus(total: float, more: float) -> float:
    return more if total != total else total + more


def _too_short(line: bytes, columns: tuple[str, ...]) -> str:
    have = line.count(b"\t") + 1
    return f"it has {have} columns and needs {len(columns)}; complete the line or remove it"


def _shown(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))
