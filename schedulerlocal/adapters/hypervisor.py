"""The Hypervisor port on libvirt: what the agent asks, put together from its parts.

Disks are :mod:`schedulerlocal.adapters.storage`'s, domains those of the neighbouring modules; here
it stands in which order they are asked. While libvirtd is away every call fails at once; once it
is back everything is looked at anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import assert_never

from schedulercommon.errors import HypervisorError, UnknownVm, WrongState
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.consolelog import console_log, read_end
from schedulerlocal.adapters.domaincheck import check_domains
from schedulerlocal.adapters.domaintemplate import read_template
from schedulerlocal.adapters.guestkind import Kind, find_guest_kind
from schedulerlocal.adapters.hostmeter import HostMeter
from schedulerlocal.adapters.hypervisorlink import Ears, Link
from schedulerlocal.adapters.hypervisorpower import DomainPower
from schedulerlocal.adapters.hypervisorsteps import DomainSteps, Making
from schedulerlocal.adapters.knowndomain import Known
from schedulerlocal.adapters.knowndomains import KnownDomains
from schedulerlocal.adapters.levelplaces import LevelPlaces
from schedulerlocal.adapters.partitions import Partitions
from schedulerlocal.adapters.storage import DiskFile, Storage, VmDisks
from schedulerlocal.adapters.vmdisk import Disk, disk_of
from schedulerlocal.config import LibvirtSettings
from schedulerlocal.core.host import Host
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain, HostUsage

_GRACE = 0.75  # of what a call may take
_ASK_AUTOSTART_S = 10.0

_AFTER = {
    Verb.START: VmState.RUNNING,
    Verb.SHUTDOWN: VmState.DOWN,
    Verb.REBOOT: VmState.RUNNING,
    Verb.SUSPEND: VmState.SUSPENDED,
    Verb.RESUME: VmState.RUNNING,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where a hypervisor keeps things, and what it takes time and chance from."""

    state_dir: Path
    boot_id: str
    host_cpus: Cpus
    call_timeout_s: float
    now_s: Callable[[], float]
    """Monotonic."""
    wall_s: Callable[[], float]
    rng: Random = field(default_factory=Random)
    partitions: Partitions | None = None
    """None: VMs are pinned one by one."""


class LibvirtHypervisor:
    """See the module."""

    def __init__(
        self,
        host: Host,
        link: Link,
        storage: Storage,
        settings: LibvirtSettings,
        around: Surroundings,
    ) -> None:
        """Raises ConfigError if the template cannot be used."""
        self._host = host
        self._link = link
        self._storage = storage
        self._settings = settings
        self._around = around
        # whoever opens one may have another working directory
        self._console_dir = around.state_dir.absolute() / "console"
        template = read_template(settings.template) if settings.template else None
        if template is not None and template.left_out:
            left_out = ", ".join(template.left_out)
            _log.warning("%s: left out, since not allowed: %s", settings.template, left_out)
        self._template = template.domain if template else None
        self._known = KnownDomains(link, around.now_s)
        self._places = LevelPlaces(
            link,
            self._known,
            around.partitions,
            everywhere=tuple(sorted(host.topology.ids)),
            host_cpus=around.host_cpus,
        )
        self._steps = DomainSteps(
            link, self._known, storage, self._places, rng=around.rng, wall_s=around.wall_s
        )
        self._power = DomainPower(
            link,
            self._known,
            storage,
            self._steps,
            self._places,
            grace_s=around.call_timeout_s * _GRACE,
            now_s=around.now_s,
        )
        self._meter = HostMeter(link, host.topology.ids, around.now_s)
        self._followed = -1
        self._autostarting: frozenset[str] | None = None
        self._asked_s = 0.0
        self._left: dict[str, tuple[VmSpec, Disk]] = {}
        self._going: dict[str, Disk | None] = {}
        """Disks of VMs whose removal was given up and may be carried out all the same."""

    async def open(self, changed: Callable[[], None]) -> None:
        self._known.changed = changed
        patience_s = self._around.call_timeout_s * _GRACE
        try:
            async with asyncio.timeout(patience_s):
                await self._link.open(Ears(heard=self._known.heard, doubt=self._known.doubt_all))
        except TimeoutError:
            raise HypervisorError(
                f"libvirtd at {self._settings.url} did not answer within {patience_s:g} s; restart"
                " it (systemctl restart libvirtd), or simulate a host with"
                " --topology=debug/topology_EPYC-7662.json"
            ) from None
        self._steps.making = Making(
            kind=await self._kind(),
            template=self._template,
            console_dir=self._console_dir,
            host_cpus=self._around.host_cpus,
            has_nodes=len(self._host.topology.nodes) > 1,
            emulator=self._settings.emulator,
            machine=self._settings.machine,
            cpu_model=self._settings.cpu_model,
            network=self._settings.network,
        )
        await check_domains(self._link, self._steps.making, self._settings.template)
        known = await self._known.read()
        unused = await self._storage.sweep(_disks(known.values()))
        if unused.deleted:
            _log.info("disks no VM came of were deleted: %s", ", ".join(unused.deleted))
        if unused.left:
            _log.warning("disks of this host no VM has are left: %s", ", ".join(unused.left))
        self._followed = self._known.version

    async def close(self) -> None:
        self._known.changed = lambda: None
        self._known.close()
        await self._link.close()
        self._storage.close()

    async def domains(self) -> list[Domain]:
        known = await self._known.read()
        if self._followed != self._known.version:
            self._followed = self._known.version
            await self._storage.follow(_disks(known.values()))
        for spec, disk in list(self._left.values()):
            if self._storage.prepared(spec.name) is disk:
                await self.discard(spec)
            self._left.pop(spec.name, None)
        for name in list(self._going):
            await self._finish_removal(name)
        found = self._places.domains(known.values())
        if by_themselves := await self._by_themselves():
            return [replace(each, autostart=each.name in by_themselves) for each in found]
        return found

    async def _by_themselves(self) -> frozenset[str]:
        """The VMs that start by themselves; libvirt has no event that tells when that changes."""
        now_s = self._around.now_s()
        if self._autostarting is None or now_s - self._asked_s > _ASK_AUTOSTART_S:
            self._autostarting, self._asked_s = await self._link.autostarting(), now_s
        return self._autostarting

    async def forbid_autostart(self, name: str) -> None:
        await self._link.set_autostart(name, on=False)
        self._autostarting = None

    async def prepare(self, spec: VmSpec) -> None:
        await self._storage.prepare(spec)

    async def discard(self, spec: VmSpec) -> None:
        """A VM may have come of it after all, if nobody heard whether it did: then it keeps it."""
        disk = self._storage.prepared(spec.name)
        if disk is None:
            return
        self._left[spec.name] = (spec, disk)  # until it is sure
        # also waits for a call about this VM that was given up
        known = await self._known.settled(spec.name)
        self._left.pop(spec.name, None)
        if known is not None and any(each.path == disk.path for each in known.config.disks):
            await self._storage.hand_over(spec.name)
        else:
            await self._storage.discard(spec)

    async def perform(self, step: Step) -> None:
        match step:
            case Pin():
                await self._places.move(step)
            case Create():
                await self._steps.create(step)
                wanted = step.vm.spec.start
                self._known.expect(step.vm.name, VmState.RUNNING if wanted else VmState.DOWN)
            case Remove():
                await self._remove(step.vm.name, step)
            case Resize():
                await self._steps.resize(step)
            case Adopt():
                await self._steps.adopt(step)
                self._autostarting = None
            case _:
                assert_never(step)

    async def _remove(self, name: str, step: Remove) -> None:
        known = self._known.all.get(name)
        disk = disk_of(known.metadata) if known and known.metadata else None
        try:
            await self._steps.remove(step)
        except asyncio.CancelledError:
            self._going[name] = disk
            raise
        self._going.pop(name, None)

    async def _finish_removal(self, name: str) -> None:
        """Delete the disk of a VM whose removal was given up, if the VM is gone by now."""
        known = await self._known.settled(name)
        disk = self._going.pop(name, None)
        with suppress(HypervisorError):
            async with self._storage.removing(name, disk):
                if known is not None:
                    raise HypervisorError(f"VM {name!r} was not removed")

    async def power(self, name: str, verb: Verb, force: bool) -> None:
        await self._power.do(name, verb, force)
        self._known.expect(name, _AFTER[verb])

    async def usage(self) -> HostUsage:
        return await self._meter.usage()

    async def console(self, name: str, most_bytes: int) -> bytes:
        known = self._known.all.get(name)
        if known is None:
            raise UnknownVm(name)
        if known.metadata is not None and not known.metadata.disk_path:
            raise WrongState(
                f"VM {name!r} was adopted, and its console is not logged; look at it with"
                " virsh console"
            )
        log = console_log(self._console_dir, name)
        try:
            return await asyncio.to_thread(read_end, log, most_bytes)
        except OSError as problem:
            raise HypervisorError(
                f"the console log {log} cannot be read ({problem.strerror}); mend that"
            ) from problem

    async def _kind(self) -> Kind:
        settings, around = self._settings, self._around
        if settings.kind == "kvm":
            return "kvm"
        if settings.kind == "qemu":
            return "qemu"
        return await find_guest_kind(
            self._link,
            emulator=settings.emulator,
            cpu_model=settings.cpu_model,
            directory=around.state_dir.absolute(),
            boot_id=around.boot_id,
            now_s=around.now_s,
        )


def _disks(known: Iterable[Known]) -> list[VmDisks]:
    found = []
    for each in known:
        disks = dict.fromkeys((*each.live.disks, *each.config.disks))
        files = [
            DiskFile(path=disk.path, format=disk.format, read_only=disk.read_only) for disk in disks
        ]
        found.append(VmDisks(vm=each.name, disks=tuple(files), running=each.active))
    return found
