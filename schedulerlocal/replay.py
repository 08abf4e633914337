"""Replaying a monitoring trace: what would this host have decided, VM by VM?

A VM is deployed at the first timestamp that shows it and removed at the first that no longer
does; a changed size is a resize; a VM sold at another level is a new one. A timestamp's removals
come before its resizes, those before its deploys. A refusal is reported once, not retried, and
the VM left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schedulercommon.errors import TraceError
from schedulercommon.levels import Level, format_level
from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.core.decisions import deployed, recounted, removed, resized_spec
from schedulerlocal.core.state import HostState


@dataclass(frozen=True, slots=True, eq=False)
class VmRow:
    """What a vm row says beside its time and value; the same object as long as it says the same."""

    tail: bytes
    """The row as read from the tab after its value on."""

    uuid: str
    name: str
    size: int
    """vCPUs or MiB."""
    level: Level
    line: int
    """Where it was first seen."""


@dataclass(slots=True)
class Tick:
    """All rows of one timestamp; a vm row is kept whole, as read.

    Rows repeat from one timestamp to the next but for time and value, so that one like the one
    before is known by comparing the keys of ``cpu`` and ``mem``.
    """

    time: bytes
    """As written."""
    line: int
    """Of its first row."""
    cpu: dict[VmRow, bytes] = field(default_factory=dict)
    mem: dict[VmRow, bytes] = field(default_factory=dict)
    usage: dict[tuple[bytes, str], bytes] = field(default_factory=dict)
    """Value of the other rows, as written, by resource and ``global`` or the subset's name."""
    others: int = 0
    """Rows that are not a VM's."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A deploy or resize that did not fit."""

    time: str
    action: str
    """``deploy`` or ``resize``."""
    uuid: str
    name: str
    vcpus: int
    memory_mib: int
    level: Level
    rejection: Rejection


@dataclass(slots=True)
class Presence:
    """A VM the trace shows at the moment."""

    cpu: VmRow
    mem: VmRow | None = None
    """Of the newest timestamp that had one."""
    accepted: bool = False


@dataclass(slots=True)
class Totals:
    """What a replay adds up to."""

    ticks: int = 0
    deploys: int = 0
    removes: int = 0
    resizes: int = 0
    refusals: int = 0
    peak_cpus: int = 0
    peak_memory_mib: int = 0
    peak_vms: int = 0
    peak_by_level: dict[Level, tuple[int, int, int]] = field(default_factory=dict)
    """VMs, vCPUs and CPUs owned, each at its own peak."""


class Replay:
    """One pass over a trace; ``state`` is the host after the last timestamp taken in."""

    def __init__(self, state: HostState) -> None:
        self.state = state
        self.present: dict[str, Presence] = {}
        self.version = 0
        """Rises whenever who is present, or what they hold, changes."""
        self.totals = Totals()
        self.warnings: dict[str, str] = {}
        """The first of each kind."""
        self._cpu: dict[VmRow, bytes] = {}
        self._mem: dict[VmRow, bytes] = {}
        self._labels: list[str] = []

    def take_in(self, tick: Tick) -> list[Refusal]:
        """Decide what *tick* asks for; raises TraceError where a VM's memory is nowhere."""
        self.totals.ticks += 1
        if tick.cpu.keys() == self._cpu.keys() and tick.mem.keys() == self._mem.keys():
            self._cpu, self._mem = tick.cpu, tick.mem
            self._check_subset_rows(tick)
            return []
        gone, changed, new = self._differences(tick)
        self._cpu, self._mem = tick.cpu, tick.mem
        for uuid in gone:
            self._remove(uuid)
        time = tick.time.decode()
        refusals = [self._resize(time, presence) for presence in changed]
        refusals += [self._deploy(time, presence) for presence in new]
        self.version += 1
        self._count()
        # only now: a level that just ended has no row
        self._check_subset_rows(tick)
        found = [refusal for refusal in refusals if refusal]
        self.totals.refusals += len(found)
        return found

    def _differences(self, tick: Tick) -> tuple[list[str], list[Presence], list[Presence]]:
        """Who left and who has another size, in order of arrival; who came, in that of the rows.

        Hosts write rows in order of arrival, others may not, and decide no differently.
        """
        rows = (tick.cpu.keys() ^ self._cpu.keys()) | (tick.mem.keys() ^ self._mem.keys())
        touched = {row.uuid for row in rows}  # few of many, as a rule
        cpu_rows = [row for row in tick.cpu if row.uuid in touched]
        mem_rows = [row for row in tick.mem if row.uuid in touched]
        shown = {row.uuid: row for row in cpu_rows}
        memory = {row.uuid: row for row in mem_rows}
        if len(shown) < len(cpu_rows) or len(memory) < len(mem_rows):
            self.warn(
                "twice",
                f"line {tick.line}: the timestamp {tick.time.decode()} shows a VM in two sizes;"
                " the last row counts, keep one",
            )
        if without := next((row for uuid, row in memory.items() if uuid not in shown), None):
            self.warn(
                "no cpu row",
                f"line {without.line}: VM {without.name} has no vm cpu row at {tick.time.decode()}"
                " s and counts as absent there; add the row that gives its vCPUs and level",
            )
        gone: list[str] = []
        changed: list[Presence] = []
        for uuid, presence in self.present.items():
            if uuid not in touched:
                continue
            row, mem = shown.get(uuid), memory.get(uuid, presence.mem)
            if row is None or row.level != presence.cpu.level:
                gone.append(uuid)
                continue
            if _size(row, mem) != _size(presence.cpu, presence.mem):
                changed.append(presence)
            presence.cpu, presence.mem = row, mem
        left = set(gone)
        new = [
            Presence(row, memory.get(uuid))
            for uuid, row in shown.items()
            if uuid not in self.present or uuid in left
        ]
        return gone, changed, new

    def _remove(self, uuid: str) -> None:
        if self.present.pop(uuid).accepted:
            self.state = removed(self.state, uuid)
            self.totals.removes += 1

    def _resize(self, time: str, presence: Presence) -> Refusal | None:
        mem = presence.mem
        if not presence.accepted or mem is None:
            return None
        vm = self.state.vm(presence.cpu.uuid)
        if (vm.spec.vcpus, vm.spec.memory_mib) == (presence.cpu.size, mem.size):
            return None
        spec = resized_spec(vm.spec, presence.cpu.size, mem.size)
        outcome = recounted(self.state, vm.name, spec, spec.vcpus, spec.max_memory_mib)
        if isinstance(outcome, Rejection):
            return _refusal(time, "resize", presence.cpu, mem, outcome)
        self.state = outcome
        self.totals.resizes += 1
        return None

    def _deploy(self, time: str, presence: Presence) -> Refusal | None:
        cpu, mem = presence.cpu, presence.mem
        if mem is None:
            raise TraceError(
                f"line {cpu.line}: VM {cpu.name} appears at {time} s without a vm mem row;"
                " add one that gives its MiB under config"
            )
        self.present[cpu.uuid] = presence
        spec = VmSpec(name=cpu.uuid, vcpus=cpu.size, memory_mib=mem.size, level=cpu.level)
        outcome = deployed(self.state, spec)
        if isinstance(outcome, Rejection):
            return _refusal(time, "deploy", cpu, mem, outcome)
        presence.accepted = True
        self.state = outcome
        self.totals.deploys += 1
        return None

    def _check_subset_rows(self, tick: Tick) -> None:
        for label in self._labels:
            if (b"cpu", label) not in tick.usage and tick.cpu:
                self.warn(
                    label,
                    f"line {tick.line}: the timestamp {tick.time.decode()} has no {label} cpu row;"
                    " its usage is written as None, add the row if it was recorded",
                )

    def warn(self, kind: str, sentence: str) -> None:
        """Keep *sentence* unless there is one of that kind already."""
        self.warnings.setdefault(kind, sentence)

    def _count(self) -> None:
        totals, state = self.totals, self.state
        self._labels = [f"subset-{format_level(level)}" for level in state.subsets]
        totals.peak_cpus = max(totals.peak_cpus, state.allocated_cpus)
        totals.peak_memory_mib = max(totals.peak_memory_mib, state.allocated_memory_mib)
        totals.peak_vms = max(
            totals.peak_vms, sum([len(each.vms) for each in state.subsets.values()])
        )
        for level, subset in state.subsets.items():
            vms, vcpus, cpus = totals.peak_by_level.get(level, (0, 0, 0))
            totals.peak_by_level[level] = (
                max(vms, len(subset.vms)),
                max(vcpus, subset.vcpus),
                max(cpus, len(subset.cpus)),
            )


def _size(cpu: VmRow, mem: VmRow | None) -> tuple[int, int]:
    return cpu.size, mem.size if mem else 0


def _refusal(time: str, action: str, cpu: VmRow, mem: VmRow, rejection: Rejection) -> Refusal:
    return Refusal(time, action, cpu.uuid, cpu.name, cpu.size, mem.size, cpu.level, rejection)
