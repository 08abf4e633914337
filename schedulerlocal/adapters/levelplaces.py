"""How a level's CPUs change: the one place that knows the ways a host has for it.

In its partition all VMs of a level are moved by one write; their pins, those of the emulator
included, are then left wide. A VM that is not in it is pinned, vCPU by vCPU, until its next start:
one that was made before there were partitions, or adopted. So is all of level 1 where CPUs of the
host's are kept for its emulators, since a partition would hold those in too; and every VM on a
host without cgroup v2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import PREMIUM, Level, format_level
from schedulerlocal.adapters.domainedit import placed_xml
from schedulerlocal.adapters.hypervisorlink import Link, LinkError, Why
from schedulerlocal.adapters.knowndomain import Known
from schedulerlocal.adapters.knowndomains import KnownDomains
from schedulerlocal.adapters.levelpins import VcpuPins
from schedulerlocal.adapters.partitions import Partitions, level_of, partition_of
from schedulerlocal.core.steps import Pin
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Now:
    """A partition as it was just looked at."""

    granted: frozenset[int] = frozenset()
    holds_any: bool = False


class LevelPlaces:
    """*everywhere* are all CPUs we may use; without *partitions* there are only pins."""

    def __init__(
        self,
        link: Link,
        known: KnownDomains,
        partitions: Partitions | None,
        *,
        everywhere: Cpus,
        host_cpus: Cpus,
    ) -> None:
        self._link = link
        self._known = known
        self._partitions = partitions
        self._pins = VcpuPins(link, known, host_cpus)
        self._wide = everywhere
        self._host_cpus = host_cpus
        self._seen_at_work = False
        """Whether a VM was seen in a partition: libvirt may have been told not to use cgroups."""
        self._narrowed: dict[str, tuple[Known, _Now, Domain]] = {}
        """What :meth:`domains` last made of each VM."""
        self._inside: dict[Level, dict[str, Known]] = {}
        """Of each level the VMs that were last seen to be in its partition, their pins wide."""

    # --- a level ----------------------------------------------------------------------------------

    def partition(self, level: Level) -> str:
        """Where VMs of *level* are to start; empty for libvirt's own place."""
        if self._partitions is None or (level == PREMIUM and self._host_cpus):
            return ""
        return partition_of(level)

    async def move(self, step: Pin) -> None:
        """Raises HypervisorError, every VM then being where it was."""
        partitions, level = self._partitions, step.level
        if partitions is None or not self.partition(level):
            await self._pins.move(step)
            if partitions is not None and partitions.holds_any(level):
                # of VMs that started before CPUs were kept for their emulators
                await partitions.give(level, tuple(sorted({*self._wide, *self._host_cpus})))
            return
        if not step.after:
            await partitions.end(level)
            return
        there, used = self._known.all, partitions.holds_any(level)
        if not there.keys() >= set(step.vms):
            missing = next(name for name in step.vms if name not in there)
            raise HypervisorError(f"VM {missing!r} cannot be moved: it is gone; try again")
        if not step.vms and not step.before and used:
            return  # it began before we did; whether it is where it should be is seen elsewhere
        # a level has many VMs, and mostly they are as they were the last time
        settled = self._inside.setdefault(level, {}) if used else {}
        moving = [name for name in step.vms if settled.get(name) is not there[name]]
        partition = self.partition(level)
        inside, outside = [], []
        for name in moving:
            known = there[name]
            # one that is down will be in it when it starts
            if known.told.live.partition == partition and (used or not known.active):
                inside.append(name)
            else:
                outside.append(name)
        if step.vms and len(outside) == len(step.vms):
            await self._pins.move(step)
            return
        before = await partitions.give(level, step.after)
        try:
            await self._pins.move(Pin(level, tuple(inside), (), self._wide))
            await self._pins.move(Pin(level, tuple(outside), step.before, step.after))
        except HypervisorError:
            await partitions.put_back(level, before)
            raise
        if inside and used:
            kept = {name: each for name, each in settled.items() if name in there}
            self._inside[level] = kept | {name: there[name] for name in inside}

    def domains(self, known: Iterable[Known]) -> list[Domain]:
        """Each as it is, its pins narrowed to what its partition lets it run on."""
        if self._partitions is None:
            return [each.domain for each in known]
        now: dict[str, _Now] = {}
        shown = {each.name: (each, *self._shown(each, now)) for each in known}
        self._narrowed = shown
        return [domain for _, _, domain in shown.values()]

    def _shown(self, known: Known, now: dict[str, _Now]) -> tuple[_Now, Domain]:
        partition = known.live.partition
        if partition not in now:
            now[partition] = self._now(partition)
        here = now[partition]
        before = self._narrowed.get(known.name)
        if before is not None and before[0] is known and before[1] == here:
            return before[1:]
        if not here.granted or (known.active and not here.holds_any):
            return here, known.domain
        places = dict.fromkeys((*known.live.pins, *known.config.pins))
        strays = [place for place in places if place and not here.granted.issubset(place)]
        pinned: Iterable[int] = here.granted
        if strays:
            pinned = here.granted.intersection(strays[0]) or strays[0]
        domain = known.domain
        return here, replace(domain, found=replace(domain.found, pinned=tuple(sorted(pinned))))

    def _now(self, partition: str) -> _Now:
        level = level_of(partition)
        if self._partitions is None or level is None:
            return _Now()
        granted = frozenset(self._partitions.cpus(level))
        holds_any = bool(granted) and self._partitions.holds_any(level)
        self._seen_at_work |= holds_any
        return _Now(granted, holds_any)

    # --- a VM -------------------------------------------------------------------------------------

    def first_pins(self, level: Level, cpus: Cpus) -> Cpus:
        """What a VM of *level*, which runs on *cpus*, is to be pinned to as it is made.

        Not wide before partitions were seen to hold a VM.
        """
        return self._wide if self.partition(level) and self._seen_at_work else cpus

    async def make_ready(self, level: Level, cpus: Cpus) -> None:
        """Have the partition of *level*, which runs on *cpus*; raises HypervisorError."""
        if self._partitions is not None and self.partition(level):
            await self._partitions.give(level, cpus)

    async def before_start(self, known: Known) -> None:
        """Have the VM start in its level's partition; raises HypervisorError."""
        if known.metadata is None:
            return
        level = known.metadata.spec.runs_at
        partition = self.partition(level)
        if self._partitions is not None and partition and not self._partitions.cpus(level):
            raise HypervisorError(
                f"VM {known.name!r} was not started: level {format_level(level)} has no"
                " partition, and outside of one it would run anywhere; try again in a moment"
            )
        if known.config.partition == partition:
            return
        if not partition and level_of(known.config.partition) is None:
            return  # where somebody else wants it
        before = await self._link.full_config(known.name)
        xml = placed_xml(before, partition, self._wide if partition else ())
        await self._link.define(known.name, xml)
        await self._known.renew(known.name)

    async def start(self, name: str, level: Level, cpus: Cpus = ()) -> None:
        """Start the VM called *name*; raises HypervisorError.

        *cpus*, where its level runs, is by default what its partition grants.
        """
        try:
            await self._link.start(name)
        except LinkError as problem:
            await self.start_outside(name, level, problem, cpus)

    async def start_outside(
        self, name: str, level: Level, problem: LinkError, cpus: Cpus = ()
    ) -> None:
        """Start the VM called *name* without its partition, as *problem* came of starting it in it.

        Only as long as no VM was seen in a partition: libvirt may not find what we made, and that
        it says so is its only sign. Raises HypervisorError.
        """
        partitions = self._partitions
        untried = partitions is not None and self.partition(level) and not self._seen_at_work
        if partitions is None or not untried or problem.why is not Why.OTHER:
            raise problem
        xml = await self._link.full_config(name)
        xml = placed_xml(xml, "", cpus or partitions.cpus(level))
        await self._link.define(name, xml)
        await self._link.start(name)
        self._give_up(name, problem.said)

    async def after_start(self, known: Known, cpus: Cpus = ()) -> None:
        """See that the VM is where its level is; raises HypervisorError.

        *cpus*, where its level runs, is by default what its partition grants.
        """
        if known.metadata is None:
            return
        name, level = known.name, known.metadata.spec.runs_at
        partitions = self._partitions
        if partitions is None or known.live.partition != self.partition(level):
            return
        if not known.active:
            self._known.pinning(name, known.config.pins[0])
        elif partitions.holds_any(level):
            self._seen_at_work = True
            await self._pins.move(Pin(level, (name,), (), self._wide))
        else:
            cpus = cpus or partitions.cpus(level)
            if not self._seen_at_work:
                self._give_up(
                    name, "libvirt does not use cgroup v2 (see cgroup_controllers in qemu.conf)"
                )
            await self._pins.move(Pin(level, (name,), (), cpus))

    def _give_up(self, name: str, why: str) -> None:
        _log.warning("VM %s is not in its partition: %s; VMs are pinned one by one", name, why)
        self._partitions = None
