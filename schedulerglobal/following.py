"""Knowing the cluster as the store does: at the start, while another global scheduler leads, and at
the moment the lead is taken over."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schedulerglobal.book import Book
from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Status
from schedulerglobal.core.view import shape_of
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.polling import Poller
from schedulerglobal.ports import HostRecord, News
from schedulerglobal.settling import Settler

_MAY_BE_THERE = frozenset((Status.UNKNOWN, Status.PLACED, Status.REMOVING))


class Following:
    """Keeps fleet and book in step with what another writes."""

    def __init__(
        self,
        fleet: Fleet,
        book: Book,
        poller: Poller,
        settler: Settler,
        arrivals: Arrivals,
        urls: Collection[str],
        *,
        shared: bool,
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._poller = poller
        self._settler = settler
        self._arrivals = arrivals
        self._urls = urls
        self._shared = shared
        """Whether others write, so that no record may be left out: it could come to matter."""

    def begin(self, records: Sequence[HostRecord]) -> list[str]:
        """Expect the hosts of the list, and those of the store; returns the names of those that
        need not be remembered."""
        at = {record.url: record for record in records}
        for url in self._urls:
            known = at.get(url)
            self._fleet.expect(url, self._fleet.add(known) if known is not None else None)
        for record in records:
            if self._fleet.find(record.name) is None and (self._shared or self._matters(record)):
                self._settle_in(self._fleet.add(record))
        return [record.name for record in records if self._fleet.find(record.name) is None]

    def learn(self, news: News) -> None:
        """Take over what changed in the store."""
        self._book.learn(news)
        for promise in news.promises:
            host = self._fleet.find(promise.host)
            if host is not None and promise.status is not Status.UNKNOWN:
                self._fleet.release(host, promise.attempt)
        if news.hosts is None:
            return
        there = {record.name for record in news.hosts}
        for host in [host for host in self._fleet if host.name not in there]:
            self._fleet.drop(host)
            self._book.see(host.name, frozenset())
        for record in news.hosts:
            known = self._fleet.find(record.name)
            if known is not None and known.record != record:
                self._renew(known, record)
        # all have left where they were
        for record in news.hosts:
            host = self._fleet.find(record.name)
            if host is None:
                host = self._introduce(record)
            if self._fleet.address_of(host) is None:
                self._settle_in(host)
                self._poller.soon(host)

    def take_over(self) -> None:
        """Lead from now on, all having been learnt."""
        self._book.take_over()
        self._arrivals.begin_anew(self._book.shares)
        for host in self._fleet:
            self._fleet.release_all(host)
        for promise in self._book:
            there = self._fleet.find(promise.host)
            if there is None or there.report is None:
                continue
            seen = promise.name in self._book.seen(there.name)
            if promise.status in _MAY_BE_THERE and not seen:
                # until a look shows whether it is
                self._fleet.reserve(there, promise.attempt, promise.name, shape_of(promise.spec))
                if promise.status is not Status.UNKNOWN:
                    self._fleet.hold(there, promise.attempt)
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

    def _introduce(self, record: HostRecord) -> Host:
        """A host the store knows and we do not."""
        address = self._fleet.addresses.get(record.url)
        free = address is not None and address.host is None
        return self._fleet.add(record, address if free else None)

    def _renew(self, host: Host, record: HostRecord) -> None:
        """A host that is labelled otherwise, drained, found elsewhere …"""
        address = self._fleet.address_of(host)
        self._fleet.set_record(host, record)
        if address is not None and address.url != record.url:
            address.host = None
            if address.added:
                self._fleet.forget(address)

    def _settle_in(self, host: Host) -> None:
        """Look for *host* where it was found, unless somebody else is there."""
        record = host.record
        address = self._fleet.addresses.get(record.url)
        if address is None and record.added:
            self._poller.expect(self._fleet.expect(record.url, host, added=True))
        elif address is not None and address.host is None:
            address.host = host
            address.problem = ""
        elif address is not None and address.host is not None:
            self._fleet.away(host, f"its address {record.url} is answered by {address.host.name}")
        else:
            self._fleet.away(host, "it is on the list of hosts no longer")

    def _matters(self, record: HostRecord) -> bool:
        """Whether anything would be lost with *record*: its host may turn up elsewhere."""
        said = record.added or record.fenced or record.labels or record.wanted is not Wanted.OPEN
        return bool(said or self._book.count_of_host(record.name))
