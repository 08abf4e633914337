"""What VMs a simulated hypervisor has: in memory, metered, and in its file if it has one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from schedulercommon.errors import HypervisorError, InputError, NameTaken, UnknownVm
from schedulercommon.model import VmState
from schedulerlocal.adapters.simulatedstate import SimulatedVm, StateFile, as_booted
from schedulerlocal.adapters.simulatedusage import Meters
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.topology import Cpus

Undo = list[tuple[str, SimulatedVm | None, Cpus]]
"""VMs as they were before a step, None for one that was not there; oldest first."""


class Inventory:
    """``vms`` and ``pins`` are the same objects for ever; both in order of the VMs' making.

    ``changed`` is called when a VM changed by itself or in the file. *now_s* is monotonic.
    """

    def __init__(self, state_file: Path | None, cpus: Cpus, now_s: Callable[[], float]) -> None:
        self.vms: dict[str, SimulatedVm] = {}
        self.pins: dict[str, Cpus] = {}
        self.meters = Meters(cpus, now_s())
        self.changed: Callable[[], None] = lambda: None
        self.persistent = state_file is not None
        self._file = StateFile(state_file) if state_file else None
        self._now_s = now_s

    def open(self) -> None:
        """Raises InputError if the state file is broken or cannot be written."""
        if self._file is None:
            return
        self._take_over(*self._file.read())
        try:
            self._file.write(self.vms, self.pins)
        except OSError as problem:
            raise InputError(
                f"{self._file.path} cannot be written: {problem.strerror};"
                " SCL_SIMULATED_STATE must name a file in a folder you may write to"
            ) from problem

    def refresh(self, tell: bool = True) -> None:
        """Follow the state file if somebody else changed it; raises HypervisorError."""
        if self._file is None:
            return
        try:
            if not self._file.changed():
                return
            self._take_over(*self._file.read())
        except InputError as problem:
            raise HypervisorError(str(problem)) from problem
        if tell:
            self.changed()

    def save(self) -> None:
        """Raises HypervisorError; the file is then what it was."""
        if self._file is None:
            return
        try:
            self._file.write(self.vms, self.pins)
        except OSError as problem:
            raise HypervisorError(
                f"{self._file.path} cannot be written: {problem.strerror};"
                " make room or mend its folder's permissions"
            ) from problem

    def put(self, name: str, vm: SimulatedVm | None, pins: Cpus) -> None:
        """Make the VM called *name* what *vm* says, None meaning that it is gone; not saved."""
        if vm is None:
            self.vms.pop(name, None)
            self.pins.pop(name, None)
        else:
            self.vms[name], self.pins[name] = vm, pins
        if vm is None or vm.state is VmState.DOWN:
            self.meters.stop(name)
        else:
            self.meters.set_vcpus(name, vm.running_vcpus, self._now_s())

    def take_back(self, undo: Undo) -> None:
        """Undo and save, as far as it can be saved."""
        for name, vm, pins in reversed(undo):
            # what vanished by itself meanwhile is not brought back
            if name in self.vms:
                self.put(name, vm, pins)
        if undo:
            with suppress(HypervisorError):
                self.save()

    def lose(self, name: str) -> None:
        self._existing(name)
        self._by_itself(name, None, ())

    def gain(self, found: FoundVm, state: VmState) -> None:
        spec = found.spec
        if spec.name in self.vms:
            raise NameTaken(spec.name)
        vm = replace(
            as_booted(spec, state, found.memory_nodes, found.foreign),
            live_vcpus=found.vcpus,
            live_max_vcpus=max(found.vcpus, spec.max_vcpus),
            live_memory_mib=found.boot_memory_mib,
        )
        self._by_itself(spec.name, vm, found.pinned)

    def change_pins(self, name: str, cpus: Cpus) -> None:
        self._by_itself(name, self._existing(name), cpus)

    def set_state(self, name: str, state: VmState) -> None:
        vm = self._existing(name)
        if state is VmState.DOWN:
            vm = as_booted(vm.spec, state, vm.memory_nodes, vm.foreign)
        self._by_itself(name, replace(vm, state=state), self.pins[name])

    def _existing(self, name: str) -> SimulatedVm:
        try:
            return self.vms[name]
        except KeyError:
            raise UnknownVm(name) from None

    def _by_itself(self, name: str, vm: SimulatedVm | None, pins: Cpus) -> None:
        self.put(name, vm, pins)
        self.save()
        self.changed()

    def _take_over(self, vms: dict[str, SimulatedVm], pins: dict[str, Cpus]) -> None:
        for name in self.vms.keys() - vms.keys():
            self.meters.stop(name)
        # in place: a step under way holds these
        self.vms.clear()
        self.pins.clear()
        for name, vm in vms.items():
            self.put(name, vm, pins[name])
