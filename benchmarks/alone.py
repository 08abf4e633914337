"""What libvirt and ``qemu-img`` cost by themselves: a request's calls, made again from bare code.

Calls to libvirt are taken down as the real adapter makes them, and then made once more in turns
with it, one after another in one thread, on a connection that has the same VMs and tells of events
nobody listens to.
``qemu-img`` is started in the cheapest way there is in the middle of a request that needs none:
what that request costs more is the start, and the caches it leaves cold.

All that the adapter adds to that is its own: what it builds and reads, its threads and how they
get in each other's way, and what it does about events.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt

from benchmarks.undisturbed import Probe, Round
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.libvirt import EVENTS
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.adapters.vmdisk import Disk


@dataclass(slots=True)
class Laps:
    """The CPU time of this process, all its threads, from one look to the next."""

    seen_ns: int = field(default_factory=time.process_time_ns)

    def lap_ms(self) -> float:
        before_ns, self.seen_ns = self.seen_ns, time.process_time_ns()
        return (self.seen_ns - before_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Call:
    """One call to libvirt."""

    domain: str
    """Which one it was made on; empty for the connection."""
    method: str
    args: tuple[Any, ...]
    gives: str
    """The domain it returned, if it did."""


@dataclass(slots=True)
class Tape:
    """Takes down the calls made over connections that :meth:`open` opened."""

    calls: list[Call] = field(default_factory=list)

    def open(self, uri: str) -> Any:
        return _Recorded(libvirt.open(uri), "", self.calls)

    def take(self) -> tuple[Call, ...]:
        """What was taken down since the last time."""
        taken = tuple(self.calls)
        self.calls.clear()
        return taken


class _Recorded:
    """A connection or a domain."""

    def __init__(self, real: Any, name: str, calls: list[Call]) -> None:
        self._real, self._name, self._calls = real, name, calls

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            gives = ""
            try:
                result = getattr(self._real, method)(*args)
                if isinstance(result, libvirt.virDomain):
                    gives = result.name()
                    result = _Recorded(result, gives, self._calls)
                return result
            finally:
                self._calls.append(Call(self._name, method, args, gives))

        return call


class Bare:
    """A connection of its own, with the domains of *xmls* running."""

    def __init__(self, uri: str, xmls: Iterable[str], probe: Probe, clock: Laps) -> None:
        self._probe = probe
        self._clock = clock
        self._connection = libvirt.open(uri)
        self._domains: dict[str, Any] = {}
        for xml in xmls:
            domain = self._connection.defineXML(xml)
            domain.create()
            self._domains[domain.name()] = domain
        for event in EVENTS:
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{event}")
            self._connection.domainEventRegisterAny(None, number, _nothing, None)

    def cost(self, calls: Sequence[Call]) -> Round:
        """Milliseconds of CPU since the last one, for making *calls*."""
        before = self._probe.last
        for call in calls:
            target = self._domains[call.domain] if call.domain else self._connection
            try:
                result = getattr(target, call.method)(*call.args)
            except libvirt.libvirtError:
                continue  # as it did then
            if call.gives:
                self._domains[call.gives] = result
        after = self._probe.work()
        return Round(self._clock.lap_ms() - after[1] / 1e6, (before, after))

    def close(self) -> None:
        self._domains.clear()
        self._connection.close()


class BareStart:
    """Storage that starts ``qemu-img`` for nothing while it prepares a disk, if told to."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.command: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def prepare(self, spec: VmSpec) -> Disk:
        if self.command:
            _spawned(self.command)
        return await self._storage.prepare(spec)


def _spawned(command: list[str]) -> None:
    nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=nothing)
    os.waitpid(process, 0)


def overlay_command(image: Path, overlay: Path, disk_bytes: int) -> list[str]:
    """What makes an overlay."""
    program = shutil.which("qemu-img") or ""
    options = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(image)]
    return [program, *options, "--", str(overlay), str(disk_bytes)]


def _nothing(*_: object) -> None:
    pass
