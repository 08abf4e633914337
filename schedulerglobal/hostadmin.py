"""What an operator does with hosts: add, label, drain, resume, take into maintenance, fence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from schedulercommon.errors import HostUnreachable, NameTaken, WrongState
from schedulerglobal.book import Book
from schedulerglobal.core.health import Health, Wanted
from schedulerglobal.core.promises import Status
from schedulerglobal.core.reconcile import fenced_promises
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.polling import Poller
from schedulerglobal.ports import DropHost, HostClient, HostRecord, NoAnswer, NotSent, PutHost
from schedulerglobal.settling import Settler
from schedulerprocess.events import EventLog


class HostAdmin:
    """Changes of hosts; every refusal is a RefusedError, and nothing has changed."""

    def __init__(
        self,
        fleet: Fleet,
        book: Book,
        client: HostClient,
        poller: Poller,
        settler: Settler,
        events: EventLog,
        *,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._client = client
        self._poller = poller
        self._settler = settler
        self._events = events
        self._monotonic_s = monotonic_s

    async def add(self, url: str, labels: Mapping[str, str]) -> tuple[Host, bool]:
        """The host at *url*, from now on one of the cluster, and whether it is new."""
        address = self._fleet.addresses.get(url)
        if address is not None and address.host is not None:
            return await self._record(address.host, added=True, labels=labels or None), False
        begun_s, changes = self._monotonic_s(), self._book.changes
        try:
            report = await self._client.look(url, None)
        except (NotSent, NoAnswer) as problem:
            raise HostUnreachable(
                f"no local scheduler answers at {url}: {problem}; start it, then add it"
            ) from problem
        assert report is not None, "asked without anything to compare with"
        is_known = self._fleet.find(report.status.name) is not None
        address = self._fleet.addresses.get(url)
        new = address is None
        if address is None:
            address = self._fleet.expect(url, labels=labels, added=True)
        try:
            await self._poller.take_in(address, report, begun_s, changes, self._settler)
        finally:
            if new and address.host is None:
                self._fleet.forget(address)
        host = address.host
        if host is None:
            raise NameTaken(report.status.name, f"{url} is left out: {address.problem}")
        if new:
            self._poller.expect(address)
        return await self._record(host, added=True, labels=labels or None), not is_known

    async def label(self, name: str, labels: Mapping[str, str]) -> Host:
        """Give the host called *name* these labels instead of those it has."""
        host = await self._record(self._fleet.named(name), labels=labels)
        self._events.record("host", host=name, state=host.state, labels=dict(labels))
        return host

    async def drain(self, name: str) -> Host:
        """Place nothing new on the host called *name*."""
        return await self._want(name, Wanted.DRAINING)

    async def maintain(self, name: str) -> Host:
        """Place nothing new on the host called *name*, which may be away."""
        return await self._want(name, Wanted.MAINTENANCE)

    async def resume(self, name: str) -> Host:
        """Place VMs on the host called *name* again, fenced or not before."""
        return await self._want(name, Wanted.OPEN)

    async def fence(self, name: str) -> Host:
        """Take the operator's word that nothing runs on the host called *name*."""
        host = self._fleet.named(name)
        _check_silent(host)
        self._fleet.hold_back(host, True)
        try:
            while not await self._fenced(host):
                pass  # something began there meanwhile
        finally:
            self._fleet.hold_back(host, False)
        return host

    async def _fenced(self, host: Host) -> bool:
        """Fence *host*, unless a promise came there while those there were waited for."""
        names = sorted(promise.name for promise in self._book.of_host(host.name))
        async with AsyncExitStack() as turns:
            for each in names:  # always in the same order, so that nobody waits in a circle
                await turns.enter_async_context(self._book.turn(each))
            _check_silent(host)
            before = self._book.of_host(host.name)
            if not {promise.name for promise in before} <= set(names):
                return False
            after = fenced_promises(before)
            record = replace(host.record, wanted=Wanted.MAINTENANCE, fenced=True)
            await self._book.put_all(after, PutHost(record))
            self._fleet.set_record(host, record)
            host.look_anew = True
            self._book.see(host.name, frozenset())
            for promise in after:
                self._fleet.release(host, promise.attempt)
                self._events.record(
                    "lost" if promise.status is Status.LOST else "removed",
                    vm=promise.name,
                    host=host.name,
                    reason="its host was fenced",
                )
        self._events.record("host", host=host.name, state=host.state, fenced=True, vms=len(after))
        return True

    async def remove(self, name: str) -> None:
        """Forget the host called *name*, which is away, or empty and in maintenance."""
        host = self._fleet.named(name)
        promised, there = self._book.count_of_host(name), len(self._book.seen(name))
        if promised:
            raise WrongState(
                f"{promised} VMs are promised on host {name!r}; remove them first, or fence it and"
                " remove them then"
            )
        address = self._fleet.address_of(host)
        if host.health is not Health.DOWN and (
            host.record.wanted is not Wanted.MAINTENANCE or there or address is None
        ):
            raise WrongState(
                f"host {name!r} answers; take it into maintenance empty, or switch it off, before"
                " it is forgotten"
            )
        if host.health is not Health.DOWN and address is not None and not address.added:
            raise WrongState(
                f"host {name!r} answers and is on the list of hosts, so it would come back at once;"
                " take it off the list first"
            )
        await self._book.write(DropHost(name))
        self._fleet.drop(host)
        self._book.see(name, frozenset())
        self._events.record("host", host=name, state="forgotten")

    async def _want(self, name: str, wanted: Wanted) -> Host:
        host = self._fleet.named(name)
        if host.record.fenced and wanted is not Wanted.OPEN:
            return host
        host.look_anew = True
        before = host.record
        host = await self._record(host, wanted=wanted, fenced=False)
        if host.record != before:
            self._events.record("host", host=name, state=host.state, wanted=wanted)
        self._poller.soon(host)
        return host

    async def _record(self, host: Host, **changes: Any) -> Host:
        changes = {name: value for name, value in changes.items() if value is not None}
        record: HostRecord = replace(host.record, **changes)
        if record != host.record:
            await self._book.write(PutHost(record))
            self._fleet.set_record(host, record)
        return host


def _check_silent(host: Host) -> None:
    if host.health is Health.UP and not host.refusing:
        raise WrongState(
            f"host {host.name!r} answers, so its VMs may well run; switch it off before fencing it"
        )
