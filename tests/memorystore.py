"""A store in memory that keeps the contract of the real ones, and breaks when told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from schedulercommon.errors import NameTaken, StoreUnavailable
from schedulerglobal.core.arrivals import Shares
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.ports import (
    Change,
    Contents,
    DropHost,
    ForgetGone,
    HostRecord,
    PutHost,
    PutPromise,
    PutShares,
    RenameHost,
)


@dataclass
class Disk:
    """What outlives a store."""

    promises: dict[str, Promise] = field(default_factory=dict)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    shares: Shares = ()
    written: list[tuple[Change, ...]] = field(default_factory=list)
    """What was kept, one entry a write."""
    broken: bool = False
    """Whether nothing can be written now."""

    def promised(self, name: str) -> Promise | None:
        """The promise of that name which is not gone."""
        those = [each for each in self.promises.values() if _is_there(each) and each.name == name]
        return those[0] if those else None

    def take(self, changes: tuple[Change, ...]) -> None:
        """All of *changes*, or none; raises NameTaken."""
        promises, hosts = dict(self.promises), dict(self.hosts)
        for change in changes:
            _apply(change, promises, hosts)
        self.promises, self.hosts = promises, hosts
        for change in changes:
            if isinstance(change, PutShares):
                self.shares = change.shares
        self.written.append(changes)


class MemoryStore:
    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk if disk is not None else Disk()
        self._closed = False

    async def open(self) -> Contents:
        promises = filter(_is_there, self.disk.promises.values())
        return Contents(tuple(self.disk.hosts.values()), tuple(promises), self.disk.shares)

    async def write(self, *changes: Change) -> None:
        if self._closed or self.disk.broken:
            raise StoreUnavailable("the store in memory is closed or broken; mend it")
        if changes:
            self.disk.take(changes)
            await asyncio.sleep(0)  # as in any store, others get their turn meanwhile

    async def close(self) -> None:
        self._closed = True


def _is_there(promise: Promise) -> bool:
    return promise.status is not Status.GONE


def _apply(change: Change, promises: dict[str, Promise], hosts: dict[str, HostRecord]) -> None:
    match change:
        case PutPromise(promise):
            promises[promise.key] = promise
            others = [
                other
                for other in promises.values()
                if _is_there(other) and other.name == promise.name and other.key != promise.key
            ]
            if _is_there(promise) and others:
                raise NameTaken(promise.name)
        case PutHost(host):
            hosts[host.name] = host
        case DropHost(name):
            hosts.pop(name, None)
        case RenameHost(old, new):
            _rename(old, new, promises, hosts)
        case ForgetGone(before_s):
            forgotten = [
                key
                for key, promise in promises.items()
                if not _is_there(promise) and promise.changed_s < before_s
            ]
            for key in forgotten:
                del promises[key]


def _rename(old: str, new: str, promises: dict[str, Promise], hosts: dict[str, HostRecord]) -> None:
    if old in hosts and old != new:
        hosts.pop(new, None)
        there = list(hosts.values())
        hosts.clear()
        for host in there:
            called = replace(host, name=new) if host.name == old else host
            hosts[called.name] = called
    for key, promise in promises.items():
        if promise.host == old:
            promises[key] = replace(promise, host=new)
