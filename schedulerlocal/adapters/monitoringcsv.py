"""Writing the monitoring CSV of a replay, and the list of what was refused.

Rows of VMs are written as read wherever nothing about them was decided anew; what describes a
level is composed once per change of the host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from schedulercommon.errors import OutputError
from schedulercommon.levels import Level, format_level
from schedulerlocal.adapters.tracecsv import HEADER
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.state import HostState, Subset
from schedulerlocal.replay import Refusal, Replay, Tick

REFUSAL_COLUMNS = (
    "tmp",
    "vm_uuid",
    "vm_cmn",
    "action",
    "vcpus",
    "memory_mib",
    "level",
    "resource",
    "asked",
    "free",
)
_NOTHING = b"None"


class WholeRecords:
    """A file that after any interruption ends with the last record given whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = 0
        self._file: BinaryIO
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as problem:
            raise self._failed(problem) from problem

    def write(self, record: bytes) -> None:
        """Raises OutputError if the disk does not take it."""
        try:
            self._file.write(record)
        except OSError as problem:
            raise self._failed(problem) from problem
        self._whole += len(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            try:
                self._file.flush()
                self._file.truncate(self._whole)
            finally:
                self._file.close()
        except OSError as problem_here:
            if kind is None:
                raise self._failed(problem_here) from problem_here

    def _failed(self, problem: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.path}: {problem.strerror};"
            " choose a folder you may write to with --output"
        )


class MonitoringWriter:
    """Writes what *replay* decided, timestamp by timestamp, to *file*."""

    def __init__(self, file: WholeRecords, replay: Replay) -> None:
        self._file = file
        self._replay = replay
        self._version = -1
        self._levels: list[tuple[bytes, bytes, list[bytes]]] = []
        self._memory_tail = b""
        self._mem_tails: list[bytes] = []
        self._rewritten: dict[bytes, bytes] = {}
        host = replay.state.host
        empty = b"\tNone" * 6 + b"\n"
        self._cpu_total = b"%d%s" % (host.cpus, empty)
        self._mem_total = b"%d%s" % (host.memory_mib, empty)
        file.write(HEADER)

    def write(self, tick: Tick) -> None:
        """Add the rows of *tick*, which the replay has taken in."""
        if self._version != self._replay.version:
            self._compose()
        time, usage = tick.time, tick.usage
        rows = [_row(time, b"global", b"cpu", usage, "global", self._cpu_total)]
        for label, tail, tails in self._levels:
            rows.append(_row(time, b"subset", b"cpu", usage, label.decode(), tail))
            self._vm_rows(rows, time, b"cpu", tick.cpu, tails)
        rows.append(_row(time, b"global", b"mem", usage, "global", self._mem_total))
        if self._levels:
            rows.append(_row(time, b"subset", b"mem", usage, "subset-1.0", self._memory_tail))
        self._vm_rows(rows, time, b"mem", tick.mem, self._mem_tails)
        self._file.write(b"".join(rows))

    def _vm_rows(
        self,
        rows: list[bytes],
        time: bytes,
        resource: bytes,
        read: dict[bytes, bytes],
        tails: list[bytes],
    ) -> None:
        rewritten = self._rewritten
        for tail in tails:
            line = read.get(tail)
            if line is None:
                continue
            if tail in rewritten:
                value = line.split(b"\t", 4)[3]
                line = b"\t".join((time, b"vm", resource, value, rewritten[tail]))
            rows.append(line)

    def _compose(self) -> None:
        """Everything that stays the same until the replay's next change."""
        state, present = self._replay.state, self._replay.present
        self._version = self._replay.version
        self._levels, self._mem_tails, self._rewritten = [], [], {}
        for level, subset in state.subsets.items():
            label = f"subset-{format_level(level)}"
            tails = []
            for vm in subset.vms:
                shown = present[vm.name]
                tails.append(shown.cpu_tail)
                ends = (vm.name, shown.cpu.name, format_level(level), "None", "None\n")
                self._as_decided(shown.cpu_tail, vm.spec.vcpus, label, ends)
                if shown.mem is not None:
                    self._mem_tails.append(shown.mem_tail)
                    ends = (vm.name, shown.cpu.name, "1", "None", "None\n")
                    self._as_decided(shown.mem_tail, vm.spec.memory_mib, "subset-1", ends)
            tail = _level_tail(
                state, level, subset, [present[vm.name].cpu.name for vm in subset.vms]
            )
            self._levels.append((label.encode(), tail, tails))
        by_node: dict[str, int] = {}
        for vm in state.vms():
            for node, memory_mib in vm.memory_nodes:
                by_node[str(node)] = by_node.get(str(node), 0) + memory_mib
        about = _compact({"nodes": by_node})
        self._memory_tail = (
            f"{state.allocated_memory_mib}\tsubset-1\tNone\tNone\t1\t0\t{about}\n".encode()
        )

    def _as_decided(self, tail: bytes, size: int, label: str, ends: Iterable[str]) -> None:
        wanted = "\t".join((str(size), label, *ends)).encode()
        if wanted != tail:
            self._rewritten[tail] = wanted


class RefusalWriter:
    """Writes one line per refusal, tab separated."""

    def __init__(self, file: WholeRecords) -> None:
        self._file = file
        file.write(("\t".join(REFUSAL_COLUMNS) + "\n").encode())

    def write(self, refusal: Refusal) -> None:
        rejection = refusal.rejection
        fields = (
            refusal.time,
            refusal.uuid,
            refusal.name,
            refusal.action,
            refusal.vcpus,
            refusal.memory_mib,
            format_level(refusal.level),
            rejection.resource,
            rejection.asked,
            rejection.free,
        )
        self._file.write(("\t".join(map(str, fields)) + "\n").encode())


def _row(
    time: bytes,
    record: bytes,
    resource: bytes,
    usage: dict[tuple[bytes, str], bytes],
    label: str,
    tail: bytes,
) -> bytes:
    value = usage.get((resource, label), _NOTHING)
    return b"\t".join((time, record, resource, value, tail))


def _level_tail(state: HostState, level: Level, subset: Subset, names: list[str]) -> bytes:
    unused = len(subset.cpus) - subset.size(level)
    owned = set(subset.cpus)
    about = {
        "cpus": format_cpulist(subset.cpus),
        "lent": format_cpulist(cpu for cpu in state.reach[level] if cpu not in owned),
        "vms": names,
    }
    label = format_level(level)
    return (
        f"{len(subset.cpus)}\tsubset-{label}\tNone\tNone\t{label}\t{unused}\t{_compact(about)}\n"
    ).encode()


def _compact(about: object) -> str:
    return json.dumps(about, separators=(",", ":"), ensure_ascii=False)
