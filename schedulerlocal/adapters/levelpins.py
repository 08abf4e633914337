"""Moving the VMs of a level by their pins: every vCPU's, over several connections to libvirt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import PREMIUM
from schedulerlocal.adapters.domainfacts import same
from schedulerlocal.adapters.hypervisorlink import Link, PinWish
from schedulerlocal.adapters.knowndomain import Known, Moved, Sizes, moved_to
from schedulerlocal.adapters.knowndomains import KnownDomains
from schedulerlocal.core.steps import Pin
from schedulerlocal.core.topology import Cpus


class VcpuPins:
    """Pins each vCPU up to the maximum, plugged in or not, now and for the next boot, and the
    emulator's threads along with them, unless a level 1 has CPUs of the host's for those."""

    def __init__(self, link: Link, known: KnownDomains, host_cpus: Cpus) -> None:
        self._link = link
        self._known = known
        self._host_cpus = host_cpus

    async def move(self, step: Pin) -> None:
        """Raises HypervisorError, every VM then being where it was."""
        if not step.after or not step.vms:
            return
        there = self._known.all
        cpus = same(step.after)
        to = moved_to(cpus, None if step.level == PREMIUM and self._host_cpus else cpus)
        wishes: dict[str, Sequence[PinWish]] = {}
        place: Moved | None = None
        alike: dict[Sizes, Sequence[PinWish]] = {}
        """What VMs of some sizes at *place* wish: VMs of a level are mostly at one place."""
        before, strays = [], []
        for name in step.vms:  # a level has many, so each is looked at but once
            known = there.get(name)
            if known is None:
                raise HypervisorError(f"VM {name!r} cannot be pinned: it is gone; try again")
            if known.wanted is not cpus:
                strays.append(name)
            if (now := known.place) is to:
                continue
            if now is not place or now is None:
                place, alike = now, {}
            wish = alike.get(known.sizes)
            if wish is None:
                wish = alike[known.sizes] = _wishes(known, to)
            if wish:
                wishes[name] = wish
                before.append(known)
        if not wishes and not strays:
            return
        with self._known.working_on(wishes), self._known.placing(strays, cpus):
            try:
                await self._pin(wishes, to)
            except HypervisorError:
                await asyncio.gather(
                    *(self._put_back(known) for known in before), return_exceptions=True
                )
                raise

    async def _pin(self, wishes: Mapping[str, Sequence[PinWish]], to: Moved) -> None:
        if wishes:
            await self._link.pin(wishes, lambda names: self._known.pinned(names, to))

    async def _put_back(self, known: Known) -> None:
        """Where it was as far as we know; what cannot be put back is for the repair pass."""
        now = await self._known.renew(known.name)
        cpus = known.live.pins[0]
        if now is not None and cpus:
            self._known.pinning(known.name, cpus)
            to = moved_to(cpus, known.live.emulator_cpus or None)
            if wish := _wishes(now, to):
                await self._pin({known.name: wish}, to)


def _wishes(known: Known, to: Moved) -> list[PinWish]:
    """What is to be pinned of a VM: nothing that is there already."""
    live = known.live.pins if known.active else ()
    config = known.config.pins
    wishes = []
    for vcpu in range(max(len(live), len(config))):
        now = vcpu < len(live) and live[vcpu] != to.cpus
        later = vcpu < len(config) and config[vcpu] != to.cpus
        if now or later:
            wishes.append(PinWish(vcpu, to.cpus, live=now, config=later))
    if to.emulator is not None:
        now = known.active and known.live.emulator_cpus != to.emulator
        later = known.config.emulator_cpus != to.emulator
        if now or later:
            wishes.append(PinWish(None, to.emulator, live=now, config=later))
    return wishes
