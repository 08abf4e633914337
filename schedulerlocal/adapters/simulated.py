"""A hypervisor without guests: it keeps VMs in memory or in a file, and can be told to fail.

Every change is made of *points*, the single things a real hypervisor would do one after another:
a level is pinned VM by VM, a VM is defined and then started. Faults strike at points, and a step
that fails takes back those it had passed. Without a file a point costs about a microsecond.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import assert_never

from schedulercommon.errors import HypervisorError, UnknownVm
from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.imagepath import check_image_path
from schedulerlocal.adapters.simulatedfaults import Fault, FaultKind, Faults, parse_faults
from schedulerlocal.adapters.simulatedinventory import Inventory, Undo
from schedulerlocal.adapters.simulatedstate import SimulatedVm, as_booted
from schedulerlocal.adapters.simulatedusage import profile
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.host import Host
from schedulerlocal.core.lifecycle import Verb, state_after
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from schedulerlocal.core.topology import Cpus
from schedulerlocal.core.waiting import VcpuTime
from schedulerlocal.ports import Domain, HostUsage, VmUsage

__all__ = ["SimulatedHypervisor", "parse_faults"]

IMAGES = (Path("/var/lib/libvirt/images"),)


class SimulatedHypervisor:
    """The Hypervisor port; ``lose``, ``gain``, ``change_pins`` and ``set_state`` are what happens
    to VMs by themselves. *now_s* is monotonic."""

    def __init__(
        self,
        host: Host,
        *,
        state_file: Path | None = None,
        image_dirs: Sequence[Path] = IMAGES,
        faults: Faults | None = None,
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.points = 0
        """Passed since the start."""
        self.prepared: set[str] = set()
        """Names of VMs that have a disk and are not made yet."""
        self._host = host
        self._image_dirs = image_dirs
        self._faults = faults or Faults()
        self._rng = Random(self._faults.seed)
        self._now_s = now_s
        self._sleep = sleep
        self._inventory = Inventory(state_file, host.topology.ids, now_s)
        self._vms, self._pins = self._inventory.vms, self._inventory.pins
        self._first_reading = True

    # --- the port ---------------------------------------------------------------------------------

    async def open(self, changed: Callable[[], None]) -> None:
        """Raises InputError if the state file is broken or cannot be written."""
        self._inventory.changed = changed
        self._inventory.open()

    async def close(self) -> None:
        self._inventory.changed = lambda: None

    async def domains(self) -> list[Domain]:
        self._inventory.refresh(tell=False)
        pins = self._pins
        return [vm.domain(pins[name]) for name, vm in self._vms.items()]

    async def prepare(self, spec: VmSpec) -> None:
        """Only the path of the image is checked, since no guest will read it."""
        check_image_path(spec.image, self._image_dirs)
        self._inventory.refresh()  # or saving would undo what somebody changed in the file
        if due := self._next():
            await self._strike(due, f"prepare the disk of {spec.name!r}")
        self.prepared.add(spec.name)
        self._finish(due)

    async def discard(self, spec: VmSpec) -> None:
        self.prepared.discard(spec.name)

    async def perform(self, step: Step) -> None:
        self._inventory.refresh()
        undo: Undo = []
        try:
            match step:
                case Pin():
                    await self._pin(step, undo)
                case Create():
                    await self._create(step, undo)
                case Remove():
                    await self._remove(step, undo)
                case Resize():
                    await self._resize(step, undo)
                case Adopt(_, after):
                    await self._note(after.name, undo, _noting(after), "note")
                case _:
                    assert_never(step)
        except HypervisorError:
            self._inventory.take_back(undo)
            raise

    async def power(self, name: str, verb: Verb, force: bool) -> None:
        """Raises UnknownVm, and WrongState if the VM does not take *verb* now."""
        self._inventory.refresh()
        if name not in self._vms:
            raise UnknownVm(name)
        state_after(name, verb, self._vms[name].state, force)

        def powered(vm: SimulatedVm) -> SimulatedVm:
            # what the VM is doing may have changed while the call was late
            spec, after = vm.spec, state_after(name, verb, vm.state, force)
            if verb is not Verb.SUSPEND:
                spec = replace(spec, start=verb is not Verb.SHUTDOWN)
            if verb in (Verb.START, Verb.REBOOT, Verb.SHUTDOWN):
                # whatever waited for a boot waits no more
                self._inventory.meters.stop(name)
                return as_booted(spec, after, vm.memory_nodes, vm.foreign)
            return replace(vm, spec=spec, state=after)

        undo: Undo = []
        try:
            await self._note(name, undo, powered, verb)
        except HypervisorError:
            self._inventory.take_back(undo)
            raise

    async def forbid_autostart(self, name: str) -> None:
        """Nothing here starts by itself."""

    async def console(self, name: str, most_bytes: int) -> bytes:
        return f"VM {name} is simulated: there is no guest to say anything\n".encode()[-most_bytes:]

    async def usage(self) -> HostUsage:
        self._inventory.refresh()
        now_s = self._now_s()
        used_s = self._inventory.meters.read(self._pins, now_s)
        shares = self._inventory.meters.shares
        memory = {
            name: profile(name).resident * vm.spec.memory_mib if name in used_s else 0.0
            for name, vm in self._vms.items()
        }
        first, self._first_reading = self._first_reading, False
        known = not first and bool(shares)
        return HostUsage(
            at_s=now_s,
            cpu_share=sum(shares.values()) / len(shares) if known else None,
            memory_share=min(1.0, sum(memory.values()) / self._host.topology.memory_allowed_mib),
            cpu_shares=shares if known else {},
            vms={
                name: _usage(used_s.get(name, 0.0), used_mib) for name, used_mib in memory.items()
            },
        )

    # --- what happens by itself -------------------------------------------------------------------

    def lose(self, name: str) -> None:
        self._inventory.lose(name)

    def gain(self, found: FoundVm, state: VmState = VmState.RUNNING) -> None:
        self._inventory.gain(found, state)

    def change_pins(self, name: str, cpus: Cpus) -> None:
        self._inventory.change_pins(name, cpus)

    def set_state(self, name: str, state: VmState) -> None:
        self._inventory.set_state(name, state)

    def arm(self, faults: Faults) -> None:
        """From now on these faults instead; their points still count from the start."""
        self._faults = faults
        self._rng = Random(faults.seed)

    # --- steps ------------------------------------------------------------------------------------

    async def _pin(self, step: Pin, undo: Undo) -> None:
        vms, pins, after = self._vms, self._pins, step.after
        if self._undisturbed and vms.keys() >= set(step.vms):
            self.points += len(step.vms)
            pins.update(dict.fromkeys(step.vms, after))
            return
        for name in step.vms:
            if due := self._next():
                await self._strike(due, f"pin {name!r}")
            vm = vms.get(name)
            if vm is None:
                raise _no_such_vm(name)
            undo.append((name, vm, pins[name]))
            pins[name] = after
            self._finish(due)

    async def _create(self, step: Create, undo: Undo) -> None:
        spec, name = step.vm.spec, step.vm.spec.name
        if due := self._next():
            await self._strike(due, f"define {name!r}")
        if name in self._vms:
            raise HypervisorError(
                f"the hypervisor already has a VM named {name!r}; choose another name"
            )
        undo.append((name, None, ()))
        if spec.start and self._undisturbed:
            self.points += 1
            self._inventory.put(
                name, as_booted(spec, VmState.RUNNING, step.vm.memory_nodes), step.cpus
            )
            self.prepared.discard(name)
            return
        defined = as_booted(spec, VmState.DOWN, step.vm.memory_nodes)
        self._inventory.put(name, defined, step.cpus)
        self._finish(due)
        if spec.start:
            await self._note(name, undo, _with_state(VmState.RUNNING), "start")
        self.prepared.discard(name)

    async def _remove(self, step: Remove, undo: Undo) -> None:
        name = step.vm.spec.name
        vm = self._vms.get(name)
        if vm is not None and self._undisturbed:
            self.points += 1 if vm.state is VmState.DOWN else 2
            self._inventory.put(name, None, ())
            return
        if vm is not None and vm.state is not VmState.DOWN:
            with suppress(_Gone):
                await self._note(name, undo, _with_state(VmState.DOWN), "stop")
        if name not in self._vms:
            return
        if due := self._next():
            await self._strike(due, f"undefine {name!r}")
        if name in self._vms:
            undo.append((name, self._vms[name], self._pins[name]))
            self._inventory.put(name, None, ())
        self._finish(due)

    async def _resize(self, step: Resize, undo: Undo) -> None:
        name, spec = step.after.spec.name, step.after.spec

        def vcpus(vm: SimulatedVm) -> SimulatedVm:
            down = vm.state is VmState.DOWN
            live = vm.live_vcpus
            if down or live <= spec.vcpus <= vm.live_max_vcpus:
                live = spec.vcpus
            most = spec.max_vcpus if down else vm.live_max_vcpus
            return replace(vm, live_vcpus=live, live_max_vcpus=most)

        def memory(vm: SimulatedVm) -> SimulatedVm:
            down = vm.state is VmState.DOWN
            return replace(vm, live_memory_mib=spec.max_memory_mib) if down else vm

        before = step.before.spec
        if (before.vcpus, before.max_vcpus) != (spec.vcpus, spec.max_vcpus):
            await self._note(name, undo, vcpus, "set the vCPUs of")
        if (before.memory_mib, before.max_memory_mib) != (spec.memory_mib, spec.max_memory_mib):
            await self._note(name, undo, memory, "set the memory of")
        await self._note(name, undo, _noting(step.after), "note the size of")

    async def _note(
        self, name: str, undo: Undo, change: Callable[[SimulatedVm], SimulatedVm], doing: str
    ) -> None:
        """One point that makes the VM called *name* another."""
        if due := self._next():
            await self._strike(due, f"{doing} {name!r}")
        vm = self._vms.get(name)
        if vm is None:
            raise _no_such_vm(name)
        undo.append((name, vm, self._pins[name]))
        self._inventory.put(name, change(vm), self._pins[name])
        self._finish(due)

    # --- points and faults ------------------------------------------------------------------------

    @property
    def _undisturbed(self) -> bool:
        """Whether nothing can come between two points, nor anybody see what is there between."""
        return not (self._faults.at or self._inventory.persistent)

    def _next(self) -> tuple[Fault, ...]:
        """Come to the next point; returns what is due there."""
        self.points += 1
        return self._faults.at.get(self.points, ())

    async def _strike(self, due: tuple[Fault, ...], doing: str) -> None:
        for fault in due:
            match fault.kind:
                case FaultKind.FAIL:
                    raise HypervisorError(
                        f"the simulated hypervisor failed to {doing}, as it was told to; try again"
                    )
                case FaultKind.HANG:
                    await asyncio.Event().wait()
                case FaultKind.SLOW:
                    await self._sleep(fault.delay_s)
                    self._inventory.refresh()
                case FaultKind.CRASH:
                    os.kill(os.getpid(), signal.SIGKILL)
                case FaultKind.LOSE:
                    if self._vms:
                        self.lose(self._rng.choice(list(self._vms)))
                case FaultKind.GAIN:
                    self.gain(self._stranger())
                case FaultKind.CHANGE:
                    ours = [name for name, vm in self._vms.items() if not vm.foreign]
                    if ours:
                        name = self._rng.choice(ours)
                        self.change_pins(name, self._some_cpus(1, besides=self._pins[name]))
                case FaultKind.CRASH_AFTER:
                    pass
                case _:
                    assert_never(fault.kind)

    def _finish(self, due: tuple[Fault, ...]) -> None:
        """The change of a point is made."""
        if self._inventory.persistent:
            self._inventory.save()
        if due and any(fault.kind is FaultKind.CRASH_AFTER for fault in due):
            os.kill(os.getpid(), signal.SIGKILL)

    def _stranger(self) -> FoundVm:
        number = 1
        while (name := f"stranger-{number}") in self._vms:
            number += 1
        vcpus = min(self._rng.choice((1, 2)), self._host.cpus)
        memory_mib = self._rng.choice((512, 1024))
        spec = VmSpec(name=name, vcpus=vcpus, memory_mib=memory_mib, level=PREMIUM)
        return FoundVm(
            spec=spec,
            vcpus=vcpus,
            boot_memory_mib=memory_mib,
            pinned=self._some_cpus(vcpus),
            foreign=True,
        )

    def _some_cpus(self, count: int, besides: Cpus = ()) -> Cpus:
        cpus = self._host.topology.ids
        others = [cpu for cpu in cpus if cpu not in besides]
        return tuple(sorted(self._rng.sample(others if len(others) >= count else cpus, count)))


def _usage(used_s: float, memory_mib: float) -> VmUsage:
    """No vCPU ever waits here: what VMs cannot get they do without."""
    return VmUsage(
        cpu_time_s=used_s, memory_used_mib=memory_mib, vcpus={0: VcpuTime(used_s, waited_s=0.0)}
    )


class _Gone(HypervisorError):
    """There is no such VM."""


def _no_such_vm(name: str) -> _Gone:
    return _Gone(f"the hypervisor has no VM named {name!r} any more; look at /listvm")


def _with_state(state: VmState) -> Callable[[SimulatedVm], SimulatedVm]:
    return lambda vm: as_booted(vm.spec, state, vm.memory_nodes, vm.foreign)


def _noting(after: Vm) -> Callable[[SimulatedVm], SimulatedVm]:
    """What is noted about a VM becomes what *after* says; what it was booted with stays."""
    return lambda vm: replace(
        vm, spec=after.spec, memory_nodes=after.memory_nodes, foreign=after.foreign
    )
