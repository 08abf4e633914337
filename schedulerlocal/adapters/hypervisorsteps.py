"""Making, removing, resizing and adopting a VM: what is asked of libvirt, and in which order.

Each is done, or fails with HypervisorError and has taken back what it did. Given up half-way, it
leaves that to whoever gave it up: the next call about the VM waits until libvirt has answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal
from xml.etree import ElementTree as ET

from schedulercommon.errors import HypervisorError, RefusedError, WrongState
from schedulercommon.levels import PREMIUM
from schedulerlocal.adapters.consolelog import console_log, forget
from schedulerlocal.adapters.domainedit import resized_xml
from schedulerlocal.adapters.domainmetadata import DomainMetadata, metadata_text
from schedulerlocal.adapters.domainxml import DomainParts, cpu_shares, domain_xml
from schedulerlocal.adapters.hypervisorlink import DomainText, Link, LinkError, Why
from schedulerlocal.adapters.knowndomain import Known
from schedulerlocal.adapters.knowndomains import KnownDomains
from schedulerlocal.adapters.levelplaces import LevelPlaces
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.adapters.vmdisk import Base, Disk, disk_of
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Adopt, Create, Remove, Resize
from schedulerlocal.core.topology import Cpus

_PLUG_S = 1.0
_BALLOON_LOOKS = 30
_LOOK_S = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What all domains made here have in common."""

    kind: Literal["kvm", "qemu"]
    template: ET.Element | None
    console_dir: Path
    host_cpus: Cpus
    has_nodes: bool
    """Whether the host has several NUMA nodes to choose from."""
    emulator: str
    machine: str
    cpu_model: str
    network: str


class DomainSteps:
    """See the module."""

    def __init__(
        self,
        link: Link,
        known: KnownDomains,
        storage: Storage,
        places: LevelPlaces,
        *,
        rng: Random,
        wall_s: Callable[[], float],
    ) -> None:
        self.making: Making | None = None
        """Known once the link is open."""
        self._link = link
        self._known = known
        self._storage = storage
        self._places = places
        self._rng = rng
        self._wall_s = wall_s
        self._resolved = "", ""
        """Machine and CPU model of the last VM made: those of the next one, most likely."""
        self._plugging: set[asyncio.Task[None]] = set()
        self._unanswered: set[str] = set()
        """VMs whose guest was asked to give up a vCPU and may not have."""

        self._autostarted: set[str] = set()
        """VMs that started by themselves before they were adopted, to be put back so."""

    # --- making and removing ----------------------------------------------------------------------

    async def create(self, step: Create) -> None:
        spec, name = step.vm.spec, step.vm.spec.name
        disk = self._storage.prepared(name)
        if disk is None or self.making is None:
            raise HypervisorError(f"VM {name!r} has no disk any more; repeat the request")
        metadata = self._first_metadata(step.vm, disk)
        try:
            xml = domain_xml(self._parts(self.making, step, metadata), self.making.template)
            self._clear_console(name)
        except (RefusedError, OSError) as problem:
            raise HypervisorError(f"VM {name!r} could not be defined: {problem}") from problem
        with self._known.working_on([name]):
            await self._places.make_ready(spec.runs_at, step.cpus)
            try:
                await self._define_and_start(step, xml, disk)
            except WrongState as problem:
                raise HypervisorError(str(problem)) from problem
            except LinkError as problem:
                if problem.why is Why.AWAY:
                    raise
                raise HypervisorError(
                    f"{problem.said}; ask for a VM it can make, or correct the settings of this"
                    " host (QEMU_… and SCL_CPU_MODEL)"
                ) from problem
        await self._storage.hand_over(name)

    async def _define_and_start(self, step: Create, xml: str, disk: Disk) -> None:
        spec, name = step.vm.spec, step.vm.spec.name
        made: DomainText | LinkError | None = None
        if spec.start:
            check = partial(self._storage.check_start_now, name, disk)
            made = await self._link.make(name, xml, check)
        else:
            await self._link.define(name, xml)
        try:
            if isinstance(made, LinkError):
                await self._places.start_outside(name, spec.runs_at, made, step.cpus)
                made = None
            self._known.pinning(name, self._places.first_pins(spec.runs_at, step.cpus))
            known = await self.note_resolved(name, starts=spec.start, told=made)
            await self._places.after_start(known, step.cpus)
        except HypervisorError:
            await self._unmake(name)
            raise

    async def remove(self, step: Remove) -> None:
        name = step.vm.spec.name
        with self._known.working_on([name]):
            if not await self._remove_unchanged(step):
                known = await self._known.renew(name)
                if known is None:
                    # a call that was given up may be about to make it
                    known = await self._known.settled(name)
                if known is None:
                    return
                metadata = known.metadata
                if metadata is None or not _is_meant(metadata, step):
                    raise HypervisorError(
                        f"VM {name!r} was not removed: another one, not made here, has its name now"
                    )
                async with self._storage.removing(name, disk_of(metadata)):
                    await self._link.remove(name, active=known.active)
            self._forget_console(name)
            self._known.removed(name)

    async def _remove_unchanged(self, step: Remove) -> bool:
        """Remove the VM if it is as it was last looked at; whether it was, and is gone."""
        name = step.vm.spec.name
        known, told = self._known.all.get(name), self._known.told(name)
        metadata = known.metadata if known else None
        if told is None or metadata is None or not _is_meant(metadata, step):
            return False
        try:
            async with self._storage.removing(name, disk_of(metadata)):
                await self._link.remove_unchanged(told)
        except LinkError as problem:
            if problem.why is not Why.CHANGED:
                raise
            return False
        return True

    async def note_resolved(
        self, name: str, *, starts: bool, told: DomainText | None = None
    ) -> Known:
        """Note what machine and CPU model came out of what was asked; returns what is there now.

        The CPU model is known once the VM has started. *told* is what libvirt tells of it now, if
        that is known.
        """
        known = self._known.take(told) if told is not None else await self._known.renew(name)
        metadata = known.metadata if known else None
        if known is None or metadata is None:
            raise HypervisorError(f"VM {name!r} is gone as soon as it was made; try again")
        model = known.live.cpu_model if starts else metadata.cpu_model
        self._resolved = known.live.machine, model
        if (metadata.machine, metadata.cpu_model) != self._resolved:
            noted = replace(metadata, machine=known.live.machine, cpu_model=model)
            await self._note(known, noted)
        return known

    def _first_metadata(self, vm: Vm, disk: Disk) -> DomainMetadata:
        base = disk.base or Base(path="", size_bytes=0, mtime_ns=0)
        return DomainMetadata(
            spec=vm.spec,
            memory_nodes=vm.memory_nodes,
            mac=self._fresh_mac(),
            machine=self._resolved[0],
            cpu_model=self._resolved[1] if vm.spec.start else "",
            disk_path=disk.path,
            base_path=base.path,
            base_size_bytes=base.size_bytes,
            base_mtime_ns=base.mtime_ns,
            made_ms=int(self._wall_s() * 1000),
        )

    def _fresh_mac(self) -> str:
        """One under QEMU's own prefix that no VM of ours here has."""
        while True:
            mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in self._rng.randbytes(3))
            if mac not in self._known.macs:
                return mac

    def _parts(self, making: Making, step: Create, metadata: DomainMetadata) -> DomainParts:
        vm, level = step.vm, step.vm.spec.runs_at
        nodes = tuple([node for node, mib in vm.memory_nodes if mib]) if making.has_nodes else ()
        return DomainParts(
            metadata=metadata,
            cpus=self._places.first_pins(level, step.cpus),
            console_log=console_log(making.console_dir, vm.name),
            emulator_cpus=making.host_cpus if level == PREMIUM else (),
            nodes=nodes,
            partition=self._places.partition(level),
            kind=making.kind,
            emulator=making.emulator,
            machine=making.machine,
            cpu_model=making.cpu_model,
            network=making.network,
        )

    def _clear_console(self, name: str) -> None:
        """A VM of the same name may have been somebody else's; raises OSError."""
        assert self.making is not None
        directory = self.making.console_dir
        if not os.path.isdir(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        forget(console_log(directory, name))

    def _forget_console(self, name: str) -> None:
        assert self.making is not None
        try:
            forget(console_log(self.making.console_dir, name))
        except OSError as problem:  # it goes when the name is taken again
            _log.warning("the console log of VM %s is left behind: %s", name, problem)

    async def _unmake(self, name: str) -> None:
        """Take back a VM that was defined just now."""
        for call in (self._link.destroy, self._link.undefine):
            try:
                await self._unless_gone(call, name)
            except HypervisorError as problem:
                _log.warning("what was begun for VM %s is left behind: %s", name, problem)
        self._forget_console(name)
        with suppress(LinkError):
            await self._known.renew(name)

    async def _unless_gone(self, call: Callable[[str], object], name: str) -> None:
        """*call*, which need not do anything if the VM is gone, or off, already."""
        try:
            await call(name)  # type: ignore[misc]
        except LinkError as problem:
            if problem.why is Why.WRONG_STATE and call == self._link.destroy:
                return
            if problem.why is not Why.GONE:
                raise

    # --- changing ---------------------------------------------------------------------------------

    async def adopt(self, step: Adopt) -> None:
        name, after = step.after.name, step.after
        with self._known.working_on([name]):
            known = await self._there(name)
            if after.foreign:
                await self._link.note(name, None, live=known.active, config=True)
                if name in self._autostarted:
                    await self._link.set_autostart(name, on=True)
            else:
                made_ms = int(self._wall_s() * 1000)
                noted = DomainMetadata(
                    spec=after.spec, memory_nodes=after.memory_nodes, made_ms=made_ms
                )
                await self._note(known, noted)
                if await self._link.set_autostart(name, on=False):
                    self._autostarted.add(name)
            await self._known.renew(name)

    async def resize(self, step: Resize) -> None:
        """The next boot has the new size; the running guest too, as far as it goes along."""
        name = step.after.name
        with self._known.working_on([name]):
            known = await self._there(name)
            if known.metadata is None:
                raise HypervisorError(f"VM {name!r} is not ours any more; adopt it first")
            wanted = replace(step.after.spec, start=known.metadata.spec.start)
            noted = replace(known.metadata, spec=wanted, memory_nodes=step.after.memory_nodes)
            before = await self._link.full_config(name)
            try:
                xml = resized_xml(before, noted, known.config.pins[0])
            except ValueError as problem:
                raise HypervisorError(str(problem)) from problem
            await self._link.define(name, xml)
            try:
                if known.active:
                    await self._link.note(name, metadata_text(noted), live=True, config=False)
                    await self._resize_live(known, noted)
            except HypervisorError:
                with suppress(HypervisorError):
                    await self._link.define(name, before)
                    text = metadata_text(known.metadata)
                    await self._link.note(name, text, live=True, config=False)
                    await self._resize_live(known, known.metadata)
                raise
            finally:
                with suppress(HypervisorError):
                    await self._known.renew(name)

    async def _resize_live(self, known: Known, metadata: DomainMetadata) -> None:
        """What the guest does not do, or not yet, waits for its next boot."""
        name, spec = known.name, metadata.spec
        now = await self._there(name)
        try:
            await self._link.weigh(name, cpu_shares(spec.vcpus, spec.runs_at))
        except LinkError as problem:
            if problem.why is Why.AWAY:
                raise
            _log.info("%s", problem.said)  # a host without the cpu cgroup
        target_mib = min(spec.memory_mib, now.live.max_memory_mib)
        if target_mib != now.live.memory_mib:
            await self._balloon(name, target_mib)
        if spec.vcpus != now.live.vcpus and spec.vcpus <= now.live.max_vcpus:
            await self._plug(now, spec.vcpus)

    async def _plug(self, known: Known, vcpus: int) -> None:
        """Plug vCPUs in, or ask the guest to give some up.

        An emulator without KVM loses its way over the latter (seen with QEMU 7.2), and one whose
        guest did not answer may be about to: that one's vCPUs are left alone until its next boot.
        """
        fewer = vcpus < known.live.vcpus
        if (fewer and known.told.emulated) or known.name in self._unanswered:
            return
        plugging = asyncio.create_task(self._link.plug_vcpus(known.name, vcpus))
        self._plugging.add(plugging)
        plugging.add_done_callback(self._plugging.discard)
        if fewer:
            self._unanswered.add(known.name)
        # libvirt waits 5 s for the guest; who asked need not, and the event tells when it has
        done, _ = await asyncio.wait([plugging], timeout=_PLUG_S if fewer else None)
        try:
            for each in done:
                each.result()
                self._unanswered.discard(known.name)
        except LinkError as problem:
            if problem.why is not Why.NOT_POSSIBLE:
                raise
            _log.info("%s", problem.said)

    def booted(self, name: str) -> None:
        """The VM called *name* has a new emulator."""
        self._unanswered.discard(name)

    async def _balloon(self, name: str, target_mib: int) -> None:
        """Ask the guest for memory, or give it back, and see for a moment whether it moves."""
        try:
            await self._link.balloon(name, target_mib)
            for _ in range(_BALLOON_LOOKS):
                if await self._link.ballooned_mib(name) == target_mib:
                    return
                await asyncio.sleep(_LOOK_S)
        except LinkError as problem:
            if problem.why is not Why.NOT_POSSIBLE:
                raise
            _log.info("%s", problem.said)

    async def note_wanted(self, known: Known, *, running: bool) -> None:
        """Remember whether the VM is wanted running."""
        metadata = known.metadata
        if metadata is not None and metadata.spec.start != running:
            await self._note(known, replace(metadata, spec=replace(metadata.spec, start=running)))

    async def _note(self, known: Known, metadata: DomainMetadata) -> None:
        text = metadata_text(metadata)
        await self._link.note(known.name, text, live=known.active, config=True)

    async def _there(self, name: str) -> Known:
        known = await self._known.renew(name)
        if known is None:
            raise HypervisorError(f"VM {name!r} is gone; look at /listvm")
        return known


def _is_meant(metadata: DomainMetadata, step: Remove) -> bool:
    """Whether it is that of the VM to be removed, and not of another that has its name now."""
    asked = step.vm.spec.request_id
    return not asked or metadata.spec.request_id in ("", asked)
