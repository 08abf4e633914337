"""The promises of the cluster, in memory as in the store, and what hosts were seen to have.

The store comes first: memory follows what it acknowledged. Whoever changes a promise holds the
name's turn, so that a deploy, a removal, a settlement and a poll never work on one VM at once.
Changes are counted, so that what a host was asked for can be told to be older than one: clocks
may be set back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from schedulerglobal.core.arrivals import Shares
from schedulerglobal.core.labels import Label, LabelIndex
from schedulerglobal.core.promises import NEXT, Promise, Status, as_found
from schedulerglobal.office import Office
from schedulerglobal.ports import Change, HostRecord, News, PutPromise, Store

_NOTHING: frozenset[str] = frozenset()


class Book:
    """All promises that are not gone, by name, by host and by label."""

    def __init__(self, store: Store, office: Office, now_s: Callable[[], float]) -> None:
        self._store = store
        self._office = office
        self._now_s = now_s
        """Since the epoch."""
        self._promises: dict[str, Promise] = {}
        self._of_host: dict[str, dict[str, None]] = {}
        self._labels = LabelIndex()
        self._intended: dict[str, Promise] = {}
        self._renamed: dict[str, str] = {}
        """Names hosts had, and have now, for those who began before."""
        self._changes = 0
        self._changed: dict[str, int] = {}
        self._seen: dict[str, frozenset[str]] = {}
        self._seen_on: dict[str, dict[str, None]] = {}
        self._taken_away: dict[str, dict[str, int]] = {}
        """By host, names removed there since it was looked at, and at which change."""
        self._turns: dict[str, _Turn] = {}
        self.shares: Shares = ()
        """Of the requests of earlier runs."""

    async def open(self) -> tuple[HostRecord, ...]:
        """Read the store.

        Returns the hosts it knows. Raises as :meth:`schedulerglobal.ports.Store.open` does.
        """
        contents = await self._store.open()
        for promise in contents.promises:
            self._keep(promise)
        self.shares = contents.shares
        return contents.hosts

    def learn(self, news: News) -> None:
        """Take over what another wrote, in the order it did."""
        if news.whole:
            there = {promise.name for promise in news.promises}
            for promise in [each for each in self if each.name not in there]:
                self._keep(replace(promise, status=Status.GONE))
        for promise in news.promises:
            known = self._promises.get(promise.name)
            # the name of what is gone may be another's by now
            if promise.status is Status.GONE:
                if known is None or known.key != promise.key:
                    continue
                # no look of ours shows it yet
                self.take_away(known.host, promise.name)
            if promise != known:
                self._keep(promise)
        if news.shares is not None:
            self.shares = news.shares

    def take_over(self) -> None:
        """The last run is over, and whoever began under it: what was pending when it ended is
        unknown now."""
        self._renamed.clear()
        for promise in [each for each in self if each.status is Status.PENDING]:
            self._keep(as_found(promise))

    async def close(self) -> None:
        await self._store.close()

    def __iter__(self) -> Iterator[Promise]:
        return iter(self._promises.values())

    def __len__(self) -> int:
        return len(self._promises)

    def find(self, name: str) -> Promise | None:
        return self._promises.get(name)

    def of_host(self, host: str) -> list[Promise]:
        return [self._promises[name] for name in self._of_host.get(host, ())]

    def count_of_host(self, host: str) -> int:
        return len(self._of_host.get(host, ()))

    def hosts_of(self, labels: tuple[Label, ...]) -> Mapping[str, int]:
        """How many VMs that have all of *labels* each host has, those about to be tried there too;
        without labels, all VMs."""
        if labels:
            return self._labels.hosts_of_all(labels)
        counts = {host: len(names) for host, names in self._of_host.items()}
        for promise in self._intended.values():
            if not self._stands(promise):
                counts[promise.host] = counts.get(promise.host, 0) + 1
        return counts

    def intend(self, promise: Promise) -> None:
        """*promise* is about to be written down: who chooses a host now is to know of it."""
        self._intended[promise.name] = promise
        self._labels.add(promise)

    def drop_intent(self, promise: Promise) -> None:
        """It was written down, or came to nothing."""
        if self._intended.pop(promise.name, None) is not None and not self._stands(promise):
            self._labels.discard(promise)

    def _stands(self, promise: Promise) -> bool:
        there = self._promises.get(promise.name)
        return there is not None and there.host == promise.host

    @property
    def changes(self) -> int:
        """How many changes there were."""
        return self._changes

    def changed_after(self, name: str, changes: int) -> bool:
        """Whether the promise of *name* changed since there were so many *changes*."""
        return self._changed.get(name, 0) > changes

    def seen(self, host: str) -> frozenset[str]:
        """The names *host* was last seen to have."""
        return self._seen.get(host, _NOTHING)

    def seen_on(self, name: str) -> list[str]:
        """The hosts that were last seen to have a VM called *name*."""
        return list(self._seen_on.get(name, ()))

    def strangers(self) -> Iterator[tuple[str, list[str]]]:
        """Names of VMs that hosts have and nobody promised, with those hosts."""
        for name, hosts in self._seen_on.items():
            if name not in self._promises:
                yield name, list(hosts)

    def take_away(self, host: str, name: str) -> None:
        """*host* has *name* no longer, whatever a look begun before now says."""
        self._changes += 1
        self._taken_away.setdefault(host, {})[name] = self._changes
        seen = self.seen(host)
        if name in seen:
            self.see(host, seen - {name})

    def left_of(self, host: str, names: frozenset[str], changes: int) -> frozenset[str]:
        """Of *names*, which *host* was asked for after so many *changes*, those not removed
        since."""
        removed = self._taken_away.pop(host, None)
        if not removed:
            return names
        later = {name: change for name, change in removed.items() if change > changes}
        if not later:
            return names
        self._taken_away[host] = later
        return names - later.keys()

    def see(self, host: str, names: frozenset[str]) -> frozenset[str]:
        """*host* has *names*; returns those it did not have before."""
        before = self._seen.get(host, _NOTHING)
        if names is before:
            return _NOTHING
        for name in before - names:
            hosts = self._seen_on[name]
            del hosts[host]
            if not hosts:
                del self._seen_on[name]
        new = names - before
        for name in new:
            self._seen_on.setdefault(name, {})[host] = None
        self._seen[host] = names
        return new

    def conflicts(self, promise: Promise) -> list[str]:
        """The other hosts that have a VM of that name."""
        return [host for host in self._seen_on.get(promise.name, ()) if host != promise.host]

    def conflicts_on(self, host: str) -> list[str]:
        """Names of VMs that *host* has and that are promised elsewhere."""
        return [
            name
            for name in self._seen.get(host, ())
            if (promise := self._promises.get(name)) is not None and promise.host != host
        ]

    def renamed(self, old: str, new: str) -> None:
        """The host called *old* is called *new*; the store knows already."""
        self._renamed[old] = new
        for promise in self.of_host(old):
            self._keep(replace(promise, host=new))
        names = self._seen.get(old, _NOTHING)
        self.see(old, _NOTHING)
        self.see(new, names)

    def introduced(self, host: str) -> None:
        """There is a new host called *host*: whatever was called so before, it is meant now."""
        self._renamed.pop(host, None)

    async def put(self, promise: Promise, *more: Change, **changes: Any) -> Promise:
        """Write *promise* with *changes* and the time, and *more* with it; returns it as written.

        Raises NameTaken, StoreUnavailable or NotLeader, and nothing has changed.
        """
        self._office.check()
        promise = self._placed_anew(replace(promise, **changes, changed_s=self._now_s()))
        before = self._promises.get(promise.name)
        assert before is None or before.key != promise.key or promise.status in NEXT[before.status]
        await self._store.write(PutPromise(promise), *more)
        self._keep(promise)
        return promise

    async def put_all(self, promises: Iterable[Promise], *more: Change) -> None:
        """Write all of *promises* with the time, and *more*, or nothing."""
        self._office.check()
        now_s = self._now_s()
        written = [self._placed_anew(replace(promise, changed_s=now_s)) for promise in promises]
        await self._store.write(*map(PutPromise, written), *more)
        for promise in written:
            self._keep(promise)

    async def write(self, *changes: Change) -> None:
        """Write what is no promise."""
        self._office.check()
        await self._store.write(*changes)

    def believe(self, promise: Promise) -> Promise:
        """Take *promise* for true though the store could not be told; it is when it is settled."""
        promise = self._placed_anew(promise)
        self._keep(promise)
        return promise

    def _placed_anew(self, promise: Promise) -> Promise:
        """*promise* with its host's name of today."""
        host = self._renamed.get(promise.host)
        return promise if host is None else replace(promise, host=host)

    def busy(self, name: str) -> bool:
        """Whether somebody has the turn of *name*."""
        return name in self._turns

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """The right to change what is promised under *name*."""
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = _Turn()
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[name]

    def _keep(self, promise: Promise) -> None:
        name = promise.name
        self._changes += 1
        before = self._promises.get(name)
        if before is not None:
            _drop(self._of_host, before.host, name)
            self._labels.discard(before)
        if promise.status is Status.GONE:
            self._promises.pop(name, None)
            self._changed.pop(name, None)
            return
        self._changed[name] = self._changes
        self._promises[name] = promise
        self._of_host.setdefault(promise.host, {})[name] = None
        self._labels.add(promise)


class _Turn:
    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


def _drop(index: dict[Any, dict[str, None]], key: Any, name: str) -> None:
    names = index.get(key)
    if names is not None:
        names.pop(name, None)
        if not names:
            del index[key]


def count_by_status(promises: Iterable[Promise]) -> Mapping[Status, int]:
    """How many promises are in each status."""
    counts = dict.fromkeys(Status, 0)
    for promise in promises:
        counts[promise.status] += 1
    return counts
