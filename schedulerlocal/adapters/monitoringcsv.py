"""Writing the monitoring CSV, of a replay or of a living host, and the list of what was refused.

In a replay, rows of VMs are written as read wherever nothing about them was decided anew; what
describes a level is composed once per change of the host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import NAMESPACE_URL, uuid5

from schedulercommon.errors import OutputError
from schedulercommon.levels import Level, format_level
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.tracecsv import HEADER
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.state import HostState, Subset, Vm
from schedulerlocal.readings import LevelReading, Readings
from schedulerlocal.replay import Presence, Refusal, Replay, Tick, VmRow

_PLACES = 4
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
_GLOBAL_TAIL = b"\t%d" + b"\tNone" * 6 + b"\n"
_KEPT_ROWS = 4096


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

    def flush(self) -> None:
        """Let readers see what was written; raises OutputError."""
        try:
            self._file.flush()
        except OSError as problem:
            raise self._failed(problem) from problem

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


@dataclass(slots=True)
class _LevelRows:
    """What is written for a level as long as its VMs are the same."""

    subset: Subset
    names: str
    shown: list[tuple[Presence, VmSpec]]
    tail: bytes = b""
    rows: list[VmRow] = field(default_factory=list)


class MonitoringWriter:
    """Writes what *replay* decided, timestamp by timestamp, to *file*."""

    def __init__(self, file: WholeRecords, replay: Replay) -> None:
        self._file = file
        self._replay = replay
        self._version = -1
        self._levels: dict[Level, _LevelRows] = {}
        self._memory_tail = b""
        self._mem_rows: list[VmRow] = []
        self._rewritten: dict[VmRow, bytes] = {}
        self._written: dict[VmRow, tuple[int, bytes]] = {}
        """The size a row was last compared with, and the tail it is to be written with."""
        host = replay.state.host
        self._cpu_total = _GLOBAL_TAIL % host.cpus
        self._mem_total = _GLOBAL_TAIL % host.memory_mib
        file.write(HEADER)

    def write(self, tick: Tick) -> None:
        """Add the rows of *tick*, which the replay has taken in."""
        if self._version != self._replay.version:
            self._compose()
        time, usage = tick.time, tick.usage
        rows = [_row(time, b"global", b"cpu", usage, "global", self._cpu_total)]
        for level, of_level in self._levels.items():
            label = f"subset-{format_level(level)}"
            rows.append(_row(time, b"subset", b"cpu", usage, label, of_level.tail))
            self._vm_rows(rows, time, b"cpu", tick.cpu, of_level.rows)
        rows.append(_row(time, b"global", b"mem", usage, "global", self._mem_total))
        if self._levels:
            rows.append(_row(time, b"subset", b"mem", usage, "subset-1.0", self._memory_tail))
        self._vm_rows(rows, time, b"mem", tick.mem, self._mem_rows)
        self._file.write(b"".join(rows))

    def _vm_rows(
        self,
        rows: list[bytes],
        time: bytes,
        resource: bytes,
        read: dict[VmRow, bytes],
        wanted: list[VmRow],
    ) -> None:
        rewritten = self._rewritten
        if not rewritten:
            # the ordinary case: nothing but lookups
            rows.extend([read[row] for row in wanted if row in read])
            return
        for row in wanted:
            line = read.get(row)
            if line is None:
                continue
            if row in rewritten:
                value = line.split(b"\t", 4)[3]
                line = b"\t".join((time, b"vm", resource, value)) + rewritten[row]
            rows.append(line)

    def _compose(self) -> None:
        """Everything that stays the same until the replay's next change."""
        state = self._replay.state
        self._version = self._replay.version
        self._rewritten, self._mem_rows = {}, []
        before, self._levels = self._levels, {}
        for level, subset in state.subsets.items():
            kept = before.get(level)
            level_rows = kept if kept and kept.subset is subset else self._level_rows(subset)
            self._levels[level] = level_rows
            level_rows.tail = _level_tail(state, level, subset, level_rows.names)
            self._follow(level_rows, format_level(level))
        self._memory_tail = _memory_tail(state)

    def _level_rows(self, subset: Subset) -> _LevelRows:
        present = self._replay.present
        shown = [(present[vm.spec.name], vm.spec) for vm in subset.vms]
        names = _compact([presence.cpu.name for presence, _ in shown])
        return _LevelRows(subset, names, shown)

    def _follow(self, level_rows: _LevelRows, label: str) -> None:
        """Take over the VMs' rows; those that say something else than was decided are rewritten."""
        level_rows.rows = []
        written = self._written
        for presence, spec in level_rows.shown:
            for row, size, subset, sold in (
                (presence.cpu, spec.vcpus, f"subset-{label}", label),
                (presence.mem, spec.memory_mib, "subset-1", "1"),
            ):
                if row is None:
                    continue
                (level_rows.rows if row is presence.cpu else self._mem_rows).append(row)
                known = written.get(row)
                if known is None or known[0] != size:
                    ends = (spec.name, row.name, sold, "None", "None\n")
                    wanted = "\t".join(("", str(size), subset, *ends)).encode()
                    known = written[row] = (size, wanted)
                if known[1] != row.tail:
                    self._rewritten[row] = known[1]
        if len(written) > 4 * len(self._replay.present) + _KEPT_ROWS:
            written.clear()


class LiveWriter:
    """Records a living host, timestamp by timestamp, in a form a replay takes.

    A VM is written with the size and level that count: the larger size while a resize waits for
    a boot, memory at its boot maximum, the level it runs at.
    """

    def __init__(self, file: WholeRecords) -> None:
        self._file = file
        self._started_s: float | None = None
        self._last_ms = -1
        file.write(HEADER)

    def write(self, state: HostState, readings: Readings) -> None:
        """Add one timestamp, unless it would be the last one again; raises OutputError."""
        if self._started_s is None:
            self._started_s = readings.at_s
        at_ms = round((readings.at_s - self._started_s) * 1000)
        if at_ms <= self._last_ms:
            return
        self._last_ms = at_ms
        time = f"{at_ms / 1000:.3f}".rstrip("0").rstrip(".").encode()
        self._file.write(b"".join([time + row for row in _live_rows(state, readings)]))
        self._file.flush()


def _live_rows(state: HostState, readings: Readings) -> list[bytes]:
    """The rows of one timestamp, but for the time."""
    host = state.host
    overhead_mib = host.rules.vm_overhead_mib
    share = _number(readings.memory_share, 4)
    cpu_rows = [b"\tglobal\tcpu\t" + _number(readings.cpus) + _GLOBAL_TAIL % host.cpus]
    mem_rows = [b"\tglobal\tmem\t" + share + _GLOBAL_TAIL % host.memory_mib]
    if state.subsets:
        mem_rows.append(b"\tsubset\tmem\t" + share + _memory_tail(state))
    for level, subset in state.subsets.items():
        label = format_level(level)
        of_level = readings.levels.get(level)
        names = _compact([_one_line(vm.name) for vm in subset.vms])
        used = _number(of_level.cpus if of_level else None)
        felt = _felt(of_level, subset, readings)
        cpu_rows.append(b"\tsubset\tcpu\t" + used + _level_tail(state, level, subset, names, felt))
        for vm in subset.vms:
            identity, name = _identity(vm), _one_line(vm.name)
            used, resident = _vm_values(vm, readings)
            tail = _vm_tail(vm.vcpus, f"subset-{label}", identity, name, label)
            cpu_rows.append(b"\tvm\tcpu\t" + used + tail)
            tail = _vm_tail(vm.memory_mib - overhead_mib, "subset-1", identity, name, "1")
            mem_rows.append(b"\tvm\tmem\t" + resident + tail)
    return cpu_rows + mem_rows


def _vm_values(vm: Vm, readings: Readings) -> tuple[bytes, bytes]:
    """CPUs used and share of the memory used."""
    reading = readings.vms.get(vm.name)
    if reading is None:
        return _NOTHING, _NOTHING
    used_mib = reading.memory_mib
    share = None if used_mib is None else used_mib / vm.spec.memory_mib
    return _number(reading.cpus), _number(share)


def _felt(of_level: LevelReading | None, subset: Subset, readings: Readings) -> dict[str, object]:
    """How busy a level is and how long its VMs wait, as far as it could be told.

    It stands in the level's row, waiting of VMs too: their own rows repeat but for their values,
    which is what makes reading them fast.
    """
    if of_level is None:
        return {}
    told = (
        ("busy", of_level.busy),
        ("waiting", of_level.waiting),
        ("waiting_p95", of_level.waiting_p95),
    )
    felt: dict[str, object] = {name: _rounded(share) for name, share in told if share is not None}
    waits = {
        _one_line(vm.name): _rounded(reading.waiting)
        for vm in subset.vms
        if (reading := readings.vms.get(vm.name)) and reading.waiting is not None
    }
    return {**felt, "vm_waiting": waits} if waits else felt


def _rounded(share: float) -> float:
    return round(share, _PLACES)


def _number(value: float | None, digits: int = 3) -> bytes:
    return _NOTHING if value is None else b"%.*f" % (digits, value)


def _identity(vm: Vm) -> str:
    """The same as long as the VM lives, another one once it was made anew under its name."""
    return str(uuid5(NAMESPACE_URL, f"{vm.spec.request_id}/{_one_line(vm.name)}"))


def _one_line(name: str) -> str:
    """A name that is not ours may hold anything, but a field may not."""
    return " ".join(name.encode(errors="replace").decode().split()) or "None"


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
    return b"\t".join((time, record, resource, value)) + tail


def _level_tail(
    state: HostState,
    level: Level,
    subset: Subset,
    names: str,
    felt: Mapping[str, object] | None = None,
) -> bytes:
    unused = len(subset.cpus) - subset.size(level)
    owned = set(subset.cpus)
    lent = format_cpulist([cpu for cpu in state.reach[level] if cpu not in owned])
    more = f",{_compact(felt)[1:-1]}" if felt else ""
    about = f'{{"cpus":"{format_cpulist(subset.cpus)}","lent":"{lent}","vms":{names}{more}}}'
    label = format_level(level)
    return (
        f"\t{len(subset.cpus)}\tsubset-{label}\tNone\tNone\t{label}\t{unused}\t{about}\n"
    ).encode()


def _memory_tail(state: HostState) -> bytes:
    by_node: dict[str, int] = {}
    for vm in state.vms():
        for node, memory_mib in vm.memory_nodes:
            by_node[str(node)] = by_node.get(str(node), 0) + memory_mib
    about = _compact({"nodes": by_node})
    return f"\t{state.allocated_memory_mib}\tsubset-1\tNone\tNone\t1\t0\t{about}\n".encode()


def _vm_tail(size: int, subset: str, identity: str, name: str, sold: str) -> bytes:
    return f"\t{size}\t{subset}\t{identity}\t{name}\t{sold}\tNone\tNone\n".encode()


def _compact(about: object) -> str:
    return json.dumps(about, separators=(",", ":"), ensure_ascii=False)
