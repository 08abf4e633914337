"""Moving the VMs of a level by their pins: every vCPU's, over several connections to libvirt."""

from __future__ import annotations

import asyncio

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import PREMIUM
from schedulerlocal.adapters.hypervisorlink import Link, PinWish
from schedulerlocal.adapters.knowndomains import Known, KnownDomains
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
        if not step.after:
            return
        there = self._known.all
        missing = [name for name in step.vms if name not in there]
        if missing:
            raise HypervisorError(f"VM {missing[0]!r} cannot be pinned: it is gone; try again")
        emulator = None if step.level == PREMIUM and self._host_cpus else step.after
        with self._known.working_on(step.vms):
            before = [there[name] for name in step.vms]
            moving = [
                (turn, known, wishes)
                for turn, known in enumerate(before)
                if (wishes := _wishes(known, step.after, emulator))
            ]
            for known in before:
                self._known.pinning(known.name, step.after)
            outcomes = await asyncio.gather(
                *(
                    self._pin(known, wishes, step.after, emulator, turn)
                    for turn, known, wishes in moving
                ),
                return_exceptions=True,
            )
            failed = [each for each in outcomes if isinstance(each, BaseException)]
            if not failed:
                return
            await asyncio.gather(
                *(self._put_back(turn, known) for turn, known in enumerate(before)),
                return_exceptions=True,
            )
            raise failed[0]

    async def _pin(
        self, known: Known, wishes: list[PinWish], cpus: Cpus, emulator: Cpus | None, turn: int
    ) -> None:
        await self._link.pin(known.name, wishes, turn)
        self._known.pinned(known.name, cpus, emulator)

    async def _put_back(self, turn: int, known: Known) -> None:
        """Where it was as far as we know; what cannot be put back is for the repair pass."""
        now = await self._known.renew(known.name)
        cpus = known.live.pins[0]
        if now is not None and cpus:
            self._known.pinning(known.name, cpus)
            emulator = known.live.emulator_cpus or None
            if wishes := _wishes(now, cpus, emulator):
                await self._pin(known, wishes, cpus, emulator, turn)


def _wishes(known: Known, cpus: Cpus, emulator: Cpus | None) -> list[PinWish]:
    """What is to be pinned of a VM: nothing that is there already."""
    live = known.live.pins if known.active else ()
    config = known.config.pins
    wishes = []
    for vcpu in range(max(len(live), len(config))):
        now = vcpu < len(live) and live[vcpu] != cpus
        later = vcpu < len(config) and config[vcpu] != cpus
        if now or later:
            wishes.append(PinWish(vcpu, cpus, live=now, config=later))
    if emulator is not None:
        now = known.active and known.live.emulator_cpus != emulator
        later = known.config.emulator_cpus != emulator
        if now or later:
            wishes.append(PinWish(None, emulator, live=now, config=later))
    return wishes
