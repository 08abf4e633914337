"""What an operator does with hosts: add, label, drain, resume, take into maintenance, fence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from schedulercommon.errors import HostUnreachable, NameTaken, WrongState
from schedulerglobal.book import Book
from schedulerglobal.core.health import Health, Wanted
from schedulerglobal.core.reconcile import fenced_promises
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.polling import Poller
from schedulerglobal.ports import HostClient, HostRecord, NoAnswer, NotSent, PutHost
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
        now_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._client = client
        self._poller = poller
        self._settler = settler
        self._events = events
        self._now_s = now_s
        self._monotonic_s = monotonic_s

    async def add(self, url: str, labels: Mapping[str, str]) -> tuple[Host, bool]:
        """The host at *url*, from now on one of the cluster, and whether it is new."""
        address = self._fleet.addresses.get(url)
        if address is not None and address.host is not None:
            return await self._record(address.host, added=True, labels=labels or None), False
        begun_s, begun_at_s = self._monotonic_s(), self._now_s()
        try:
            report = await self._client.look(url, None)
        except (NotSent, NoAnswer) as problem:
            raise HostUnreachable(
                f"no local scheduler answers at {url}: {problem}; start it, then add it"
            ) from problem
        assert report is not None, "asked without anything to compare with"
        known = self._fleet.find(report.status.name)
        if known is not None and known.health is Health.UP and self._fleet.address_of(known):
            raise _double(known, url)
        new = address is None
        if address is None:
            address = self._fleet.expect(url, labels=labels, added=True)
        try:
            await self._poller.take_in(address, report, begun_s, begun_at_s, self._settler)
        finally:
            if new and address.host is None:
                self._fleet.forget(address)
        host = address.host
        if host is None:
            raise _double(self._fleet.named(report.status.name), url)
        self._poller.expect(address)
        return await self._record(host, added=True, labels=labels or None), known is None

    async def label(self, name: str, labels: Mapping[str, str]) -> Host:
        """Give the host called *name* these labels instead of those it has."""
        return await self._record(self._fleet.named(name), labels=labels)

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
        if host.health is Health.UP and not host.refusing:
            raise WrongState(
                f"host {name!r} answers, so its VMs may well run; switch it off before fencing it"
            )
        # nobody may begin or settle anything there meanwhile
        names = sorted(promise.name for promise in self._book.of_host(name))
        async with AsyncExitStack() as turns:
            for each in names:  # always in the same order, so that nobody waits in a circle
                await turns.enter_async_context(self._book.turn(each))
            promises = [
                promise
                for promise in fenced_promises(self._book.of_host(name))
                if promise.name in names
            ]
            record = replace(host.record, wanted=Wanted.MAINTENANCE, fenced=True)
            await self._book.put_all(promises, PutHost(record))
            self._fleet.set_record(host, record)
            self._book.see(name, frozenset())
            for promise in promises:
                self._fleet.release(host, promise.attempt)
        self._events.record("host", host=name, state=host.state, fenced=True, vms=len(promises))
        return host

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


def _double(known: Host, url: str) -> NameTaken:
    return NameTaken(
        known.name,
        f"the host at {url} calls itself {known.name!r}, as the one at {known.url} does;"
        " give each its own SCL_NAME",
    )
