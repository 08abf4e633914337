"""The VMs of a simulated hypervisor, and the file they outlive the process in.

The file is JSON with one VM per line, replaced as a whole after every change. It is meant to be
read and edited while the service runs, to lose, gain or change VMs; only ``name``, ``vcpus`` and
``memory_mib`` must be there.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedulercommon.errors import InputError
from schedulercommon.levels import format_level, parse_level
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS, NAME, VmSpec, VmState
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from schedulerlocal.core.state import NodeMemory
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain


@dataclass(frozen=True, slots=True)
class SimulatedVm:
    """A VM without its pins, which change far more often than the rest."""

    spec: VmSpec
    """As it will boot next; ``start`` tells whether it is wanted running."""
    state: VmState
    live_vcpus: int
    live_max_vcpus: int
    live_memory_mib: int
    """The three as it was booted, vCPUs plugged since then included."""
    memory_nodes: NodeMemory = ()
    foreign: bool = False

    @property
    def running_vcpus(self) -> int:
        return self.live_vcpus if self.state in (VmState.RUNNING, VmState.MIGRATING) else 0

    def domain(self, pinned: Cpus) -> Domain:
        spec = self.spec
        found = FoundVm(
            spec=spec,
            vcpus=max(self.live_vcpus, spec.vcpus),
            boot_memory_mib=max(self.live_memory_mib, spec.max_memory_mib),
            pinned=pinned,
            memory_nodes=self.memory_nodes,
            foreign=self.foreign,
        )
        return Domain(
            found=found,
            state=self.state,
            vcpus_pending=self.live_vcpus != spec.vcpus,
            memory_pending=self.live_memory_mib != spec.max_memory_mib,
        )


def as_booted(
    spec: VmSpec, state: VmState, memory_nodes: NodeMemory, foreign: bool = False
) -> SimulatedVm:
    """A VM with nothing pending."""
    sizes = (spec.vcpus, spec.max_vcpus, spec.max_memory_mib)
    return SimulatedVm(spec, state, *sizes, memory_nodes, foreign)


class StateFile:
    """Where the VMs are kept; whoever else changes the file is noticed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beside = path.with_name(path.name + ".tmp")
        self._seen: tuple[int, ...] | None = None
        self._lines: dict[str, tuple[SimulatedVm, Cpus, str]] = {}

    def changed(self) -> bool:
        """Whether the file is not the one last read or written."""
        return self._stamp() != self._seen

    def read(self) -> tuple[dict[str, SimulatedVm], dict[str, Cpus]]:
        """The VMs in order of their making, and their pins; a missing file holds none.

        Raises InputError, naming the VM and the field.
        """
        stamp = self._stamp()
        try:
            text = self.path.read_text(encoding="utf-8") if stamp else '{"vms": []}'
            content = json.loads(text)
        except OSError as problem:
            raise self._wrong(f"cannot be read: {problem.strerror}") from problem
        except (ValueError, RecursionError) as problem:
            raise self._wrong(f"is not JSON: {problem}") from problem
        entries = content.get("vms") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise self._wrong('has no list of VMs; it must be {"vms": […]}')
        vms: dict[str, SimulatedVm] = {}
        pins: dict[str, Cpus] = {}
        for number, entry in enumerate(entries, 1):
            try:
                vm, pinned = _decoded(entry)
                if vm.spec.name in vms:
                    raise ValueError("has the name of another")
            except ValueError as problem:
                raise self._wrong(f"VM {number} {problem}") from problem
            vms[vm.spec.name], pins[vm.spec.name] = vm, pinned
        self._seen = stamp
        return vms, pins

    def write(self, vms: Mapping[str, SimulatedVm], pins: Mapping[str, Cpus]) -> None:
        """Replace the file; raises OSError, the file then being what it was."""
        before, self._lines = self._lines, {}
        lines = self._lines
        for name, vm in vms.items():
            pinned = pins[name]
            known = before.get(name)
            # composing a VM's line costs more than all the rest
            if known is None or known[0] is not vm or known[1] is not pinned:
                known = (vm, pinned, json.dumps(_encoded(vm, pinned)))
            lines[name] = known
        body = ",\n  ".join([line for _, _, line in lines.values()])
        with self._beside.open("wb") as file:
            file.write(b'{"vms": [\n  %s\n]}\n' % body.encode())
            file.flush()
            stamp = _stamp(os.fstat(file.fileno()))
        self._beside.replace(self.path)
        self._seen = stamp

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise self._wrong(f"cannot be read: {problem.strerror}") from problem
        if not stat.S_ISREG(status.st_mode):
            # a pipe would be waited for, and a device read without end
            raise self._wrong("is not a regular file")
        return _stamp(status)

    def _wrong(self, what: str) -> InputError:
        return InputError(
            f"{self.path} {what}; mend the file or remove it to begin without VMs"
            " (SCL_SIMULATED_STATE names it)"
        )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _encoded(vm: SimulatedVm, pinned: Cpus) -> dict[str, Any]:
    """What the file says of a VM; what would be assumed anyway is left out."""
    spec = vm.spec
    about: dict[str, Any] = {
        "name": spec.name,
        "state": vm.state,
        "vcpus": spec.vcpus,
        "memory_mib": spec.memory_mib,
        "level": format_level(spec.level),
        "pins": format_cpulist(pinned),
    }
    optional: tuple[tuple[str, Any, Any], ...] = (
        ("runs_at", format_level(spec.runs_at), about["level"]),
        ("foreign", vm.foreign, False),
        ("wanted", spec.start, True),
        ("image", spec.image, ""),
        ("disk", spec.disk, "overlay"),
        ("max_vcpus", spec.max_vcpus, spec.vcpus),
        ("max_memory_mib", spec.max_memory_mib, spec.memory_mib),
        ("live_vcpus", vm.live_vcpus, spec.vcpus),
        ("live_max_vcpus", vm.live_max_vcpus, spec.max_vcpus),
        ("live_memory_mib", vm.live_memory_mib, spec.max_memory_mib),
        ("memory_nodes", {str(node): mib for node, mib in vm.memory_nodes}, {}),
        ("labels", dict(spec.labels), {}),
        ("owner", spec.owner, ""),
        ("request_id", spec.request_id, ""),
    )
    about.update({name: value for name, value, usual in optional if value != usual})
    return about


_FIELDS = """
    name state vcpus memory_mib level pins runs_at foreign wanted image disk max_vcpus
    max_memory_mib live_vcpus live_max_vcpus live_memory_mib memory_nodes labels owner request_id
""".split()


class _Fields:
    """What the file says of one VM; every call raises ValueError with a sentence's end."""

    def __init__(self, entry: object) -> None:
        if not isinstance(entry, dict):
            raise ValueError("is not a JSON object")
        self._entry: dict[str, Any] = entry
        self._who = f"({self.text('name')!r})" if "name" in entry else ""
        for name in ("name", "vcpus", "memory_mib"):
            if name not in entry:
                raise self.wrong(f"lacks {name}")
        for name in entry:
            if name not in _FIELDS:
                raise self.wrong(f"has an unknown field {name[:40]!r}; known: {' '.join(_FIELDS)}")

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{self._who} {what}".lstrip())

    def text(self, name: str, usual: str = "") -> str:
        value = self._entry.get(name, usual)
        if not isinstance(value, str):
            raise ValueError(f"has {name} {value!r}; it must be text")
        return value

    def flag(self, name: str, usual: bool) -> bool:
        value = self._entry.get(name, usual)
        if not isinstance(value, bool):
            raise self.wrong(f"has {name} {value!r}; it must be true or false")
        return value

    def count(self, name: str, usual: int, most: int) -> int:
        return self._whole(name, self._entry.get(name, usual), most)

    def table(self, name: str) -> dict[str, Any]:
        value = self._entry.get(name, {})
        if not isinstance(value, dict):
            raise self.wrong(f"has {name} {value!r}; it must be an object")
        return value

    def labels(self) -> tuple[tuple[str, str], ...]:
        labels = self.table("labels")
        if not all(isinstance(value, str) for value in labels.values()):
            raise self.wrong("has a label that is not text")
        return tuple(sorted(labels.items()))

    def nodes(self) -> NodeMemory:
        nodes = self.table("memory_nodes")
        if not all(node.isascii() and node.isdigit() and len(node) < 6 for node in nodes):
            raise self.wrong('has memory_nodes that are no nodes; write {"0": MiB}')
        name = "memory_nodes"
        return tuple((int(node), self._whole(name, n, MAX_MEMORY_MIB)) for node, n in nodes.items())

    def _whole(self, name: str, value: object, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.wrong(f"has {name} {value!r}; it must be a whole number from 1 to {most}")
        return value


def _decoded(entry: object) -> tuple[SimulatedVm, Cpus]:
    """A VM and its pins; raises ValueError with a sentence's end."""
    fields = _Fields(entry)
    name, foreign = fields.text("name"), fields.flag("foreign", False)
    if not (name.isprintable() and name if foreign else NAME.fullmatch(name)):
        raise fields.wrong("has a name no VM can have")
    state = fields.text("state", VmState.RUNNING)
    if state not in list(VmState):
        raise fields.wrong(f"has state {state!r}; there are {', '.join(VmState)}")
    vcpus = fields.count("vcpus", 0, MAX_VCPUS)
    memory_mib = fields.count("memory_mib", 0, MAX_MEMORY_MIB)
    bought = fields.text("level", "1.0")
    runs_at, pins = fields.text("runs_at", bought), fields.text("pins")
    max_vcpus = fields.count("max_vcpus", vcpus, MAX_VCPUS)
    max_memory_mib = fields.count("max_memory_mib", memory_mib, MAX_MEMORY_MIB)
    image, disk = fields.text("image"), fields.text("disk", "overlay")
    owner, request_id = fields.text("owner"), fields.text("request_id")
    labels, wanted = fields.labels(), fields.flag("wanted", True)
    try:
        pinned = parse_cpulist(pins)
        spec = VmSpec(
            name=name,
            vcpus=vcpus,
            memory_mib=memory_mib,
            level=parse_level(bought),
            runs_at=parse_level(runs_at),
            image=image,
            disk=disk,
            max_vcpus=max_vcpus,
            max_memory_mib=max_memory_mib,
            labels=labels,
            owner=owner,
            request_id=request_id,
            start=wanted,
        )
    except ValueError as problem:
        raise fields.wrong(f"cannot be: {problem}") from problem
    vm = SimulatedVm(
        spec,
        VmState(state),
        fields.count("live_vcpus", spec.vcpus, MAX_VCPUS),
        fields.count("live_max_vcpus", spec.max_vcpus, MAX_VCPUS),
        fields.count("live_memory_mib", spec.max_memory_mib, MAX_MEMORY_MIB),
        fields.nodes(),
        foreign,
    )
    return vm, pinned
