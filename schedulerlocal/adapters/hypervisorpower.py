"""The verbs: starting a VM, asking its guest to shut down or reboot, suspending it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from schedulercommon.errors import HypervisorError, RefusedError, UnknownVm
from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmState
from schedulerlocal.adapters.hypervisorlink import Link, LinkError, Why
from schedulerlocal.adapters.hypervisorsteps import DomainSteps
from schedulerlocal.adapters.knowndomain import Known
from schedulerlocal.adapters.knowndomains import KnownDomains
from schedulerlocal.adapters.levelplaces import LevelPlaces
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.adapters.vmdisk import disk_of
from schedulerlocal.core.lifecycle import Verb, state_after

_LOOK_S = 0.2
_PRESS_AGAIN_S = 10.0  # a guest that only just boots misses the power button

_log = logging.getLogger(__name__)


class DomainPower:
    """*grace_s* is how long a guest may take to shut down."""

    def __init__(
        self,
        link: Link,
        known: KnownDomains,
        storage: Storage,
        steps: DomainSteps,
        places: LevelPlaces,
        *,
        grace_s: float,
        now_s: Callable[[], float],
    ) -> None:
        self._link = link
        self._known = known
        self._storage = storage
        self._steps = steps
        self._places = places
        self._grace_s = grace_s
        self._now_s = now_s

    async def do(self, name: str, verb: Verb, force: bool) -> None:
        """Raises UnknownVm, WrongState, or HypervisorError with the VM as it was."""
        with self._known.working_on([name]):
            known = await self._known.renew(name)
            if known is None:
                raise UnknownVm(name)
            state_after(name, verb, known.state, force)
            match verb:
                case Verb.START:
                    await self._start(known)
                case Verb.SHUTDOWN:
                    await self._shut_down(known, force)
                case Verb.REBOOT:
                    await self._reboot(known, force)
                case Verb.SUSPEND:
                    await self._link.suspend(name)
                case Verb.RESUME:
                    await self._link.resume(name)
            await self._known.renew(name)

    async def _start(self, known: Known) -> None:
        disk = disk_of(known.metadata) if known.metadata else None
        async with self._storage.starting(known.name, disk):
            await self._steps.note_wanted(known, running=True)
            try:
                await self._places.before_start(known)
                level = known.metadata.spec.runs_at if known.metadata else PREMIUM
                await self._places.start(known.name, level)
                self._steps.booted(known.name)
            except HypervisorError:
                if known.metadata and not known.metadata.spec.start:
                    await self._forget_wish(known.name)
                raise
        try:
            now = await self._steps.note_resolved(known.name, starts=True)
            await self._places.after_start(now)
        except HypervisorError as problem:
            _log.warning("what VM %s became is not noted: %s", known.name, problem)

    async def _forget_wish(self, name: str) -> None:
        try:
            known = await self._known.renew(name)
            if known is not None:
                await self._steps.note_wanted(known, running=False)
        except HypervisorError as problem:
            _log.warning("VM %s stays noted as wanted running: %s", name, problem)

    async def _shut_down(self, known: Known, force: bool) -> None:
        name = known.name
        if known.state is VmState.SUSPENDED:
            await self._link.destroy(name)
        else:
            await self._press_until_off(name, force)
        self._storage.stopped(name)
        try:
            now = await self._known.renew(name)
            if now is not None:
                await self._steps.note_wanted(now, running=False)
        except HypervisorError as problem:
            _log.warning("VM %s stays noted as wanted running: %s", name, problem)

    async def _press_until_off(self, name: str, force: bool) -> None:
        """Ask the guest to shut down, and wait; then, with *force*, pull the plug."""
        begun_s = pressed_s = self._now_s()
        await self._link.press_power_button(name)
        while await self._is_active(name):
            now_s = self._now_s()
            if now_s - begun_s > self._grace_s:
                if not force:
                    raise HypervisorError(
                        f"the guest of VM {name!r} did not shut down within {self._grace_s:g} s;"
                        " repeat it with force, or look at its console"
                    )
                await self._destroy(name)
                return
            if now_s - pressed_s > _PRESS_AGAIN_S:
                pressed_s = now_s
                try:
                    await self._link.press_power_button(name)
                except LinkError as problem:
                    if problem.why not in (Why.WRONG_STATE, Why.GONE):
                        raise
            await asyncio.sleep(_LOOK_S)

    async def _reboot(self, known: Known, force: bool) -> None:
        name, waiting = known.name, known.domain
        if waiting.vcpus_pending or waiting.memory_pending or _size(known) != _next_size(known):
            # a reboot as the guest knows it keeps the emulator, and with it the old size
            await self._press_until_off(name, force)
            self._storage.stopped(name)
            now = await self._known.renew(name)
            if now is None:
                raise HypervisorError(f"VM {name!r} is gone; look at /listvm")
            try:
                await self._start(now)
            except RefusedError as problem:
                raise HypervisorError(
                    f"VM {name!r} was shut down to be rebooted and could not start again: {problem}"
                ) from problem
        elif force:
            await self._link.reset(name)
        else:
            await self._link.reboot(name)

    async def _is_active(self, name: str) -> bool:
        try:
            return await self._link.is_active(name)
        except LinkError as problem:
            if problem.why is Why.GONE:
                return False
            raise

    async def _destroy(self, name: str) -> None:
        try:
            await self._link.destroy(name)
        except LinkError as problem:
            if problem.why not in (Why.WRONG_STATE, Why.GONE):
                raise


def _size(known: Known) -> tuple[int, int]:
    return known.live.max_vcpus, known.live.max_memory_mib


def _next_size(known: Known) -> tuple[int, int]:
    return known.config.max_vcpus, known.config.max_memory_mib
