"""Knowing the cluster as the store does: at the start, while another global scheduler leads, and at
the moment the lead is taken over."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schedulerglobal.book import Book
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Status
from schedulerglobal.core.view import shape_of
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.polling import Poller
from schedulerglobal.ports import HostRecord, News
from schedulerglobal.settling import Settler


class Following:
    """Keeps fleet and book in step with what another writes."""

    def __init__(
        self,
        fleet: Fleet,
        book: Book,
        poller: Poller,
        settler: Settler,
        urls: Collection[str],
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._poller = poller
        self._settler = settler
        self._urls = urls

    def begin(self, records: Sequence[HostRecord]) -> list[str]:
        """Expect the hosts of the list, and those of the store; returns the names of those that
        need not be remembered."""
        at = {record.url: record for record in records}
        for url in self._urls:
            known = at.get(url)
            self._fleet.expect(url, self._fleet.add(known) if known is not None else None)
        for record in records:
            if self._fleet.find(record.name) is None:
                self._introduce(record)
        return [record.name for record in records if self._fleet.find(record.name) is None]

    def learn(self, news: News) -> None:
        """Take over what changed in the store."""
        self._book.learn(news)
        if news.hosts is None:
            return
        there = {record.name for record in news.hosts}
        for host in [host for host in self._fleet if host.name not in there]:
            self._fleet.drop(host)
            self._book.see(host.name, frozenset())
        for record in news.hosts:
            known = self._fleet.find(record.name)
            if known is None:
                self._introduce(record)
            elif known.record != record:
                self._renew(known, record)

    def take_over(self) -> None:
        """Lead from now on, all having been learnt."""
        self._book.take_over()
        for promise in self._book:
            host = self._fleet.find(promise.host)
            if host is None or host.report is None or promise.name in self._book.seen(host.name):
                continue
            if promise.status in (Status.UNKNOWN, Status.PLACED, Status.REMOVING):
                # until a look shows whether it is there
                self._fleet.reserve(host, promise.attempt, promise.name, shape_of(promise.spec))
                if promise.status is not Status.UNKNOWN:
                    self._fleet.hold(host, promise.attempt)
        self._poller.strangers_soon()
        for host in self._fleet:
            if host.answers:
                self._settler.pursue_all(host)
                self._poller.soon(host)

    async def step_down(self) -> None:
        """Leave the rest to whoever leads next."""
        await self._settler.leave_off()
        for host in self._fleet:
            self._fleet.release_all(host)

    def _introduce(self, record: HostRecord) -> None:
        """A host the store knows and we do not."""
        address = self._fleet.addresses.get(record.url)
        if address is not None and address.host is None:
            address.host = self._fleet.add(record, address)
            address.problem = ""
        elif address is None and record.added:
            self._poller.expect(self._fleet.expect(record.url, self._fleet.add(record), added=True))
        elif self._matters(record):
            self._fleet.away(self._fleet.add(record), "it is on the list of hosts no longer")

    def _renew(self, host: Host, record: HostRecord) -> None:
        """A host that is labelled otherwise, drained, found elsewhere …"""
        before = self._fleet.address_of(host)
        self._fleet.set_record(host, record)
        if before is not None and before.url == record.url:
            return
        if before is not None:
            before.host = None
        address = self._fleet.addresses.get(record.url)
        if address is not None and address.host is None:
            address.host = host
            address.problem = ""

    def _matters(self, record: HostRecord) -> bool:
        """Whether anything would be lost with *record*: its host may turn up elsewhere."""
        said = record.added or record.fenced or record.labels or record.wanted is not Wanted.OPEN
        return bool(said or self._book.count_of_host(record.name))
