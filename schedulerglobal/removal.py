"""Taking VMs away: written down, then done, at once if the host is there and later if it is not."""

from __future__ import annotations

from dataclasses import dataclass

from schedulercommon.errors import (
    HostRefused,
    HostUnreachable,
    NameTaken,
    NotLeader,
    StoreUnavailable,
    UnknownVm,
    WrongState,
)
from schedulerglobal.book import Book
from schedulerglobal.calls import HostCalls
from schedulerglobal.core.outcomes import Meaning, Outcome
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.doubt import in_doubt
from schedulerglobal.fleet import Fleet
from schedulerglobal.settling import Settler
from schedulerprocess.events import EventLog

LATER = frozenset(
    {"not-ready", "overloaded", "store-unavailable", "not-leader", "host-unreachable"}
)
"""Codes after which the same removal is tried again without asking anybody."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a removal that was accepted."""

    done: bool
    reason: str = ""
    """Why it is not done yet."""


class Remover:
    """Removals; every refusal is a RefusedError, and the VM stays."""

    def __init__(
        self, fleet: Fleet, book: Book, calls: HostCalls, settler: Settler, events: EventLog
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._calls = calls
        self._settler = settler
        self._events = events

    async def remove(self, name: str) -> Removal:
        """Remove the VM called *name*, now or when its host is back."""
        async with self._book.turn(name):
            promise = self._book.find(name)
            if promise is None:
                return await self._remove_stranger(name)
            host = self._fleet.find(promise.host)
            there = name in self._book.seen(promise.host)
            if host is not None and host.record.fenced and not there:
                # its operator said that nothing runs there, and nothing speaks against it
                await self._book.put(promise, status=Status.GONE, settled=True)
                self._events.record("removed", vm=name, host=host.name)
                return Removal(done=True)
            before = promise
            if promise.status is not Status.REMOVING:
                promise = await self._book.put(promise, status=Status.REMOVING, reason="")
                self._events.record("removing", vm=name, host=promise.host)
            try:
                promise, outcome = await self._settler.remove(promise)
            except NotLeader:
                # it is written down that it was accepted
                return Removal(done=False, reason="whoever leads now goes on with it")
            except StoreUnavailable as problem:
                self._settler.pursue(name)
                in_doubt(problem)
                raise
            if promise.status is Status.GONE:
                return Removal(done=True)
            if outcome.meaning is Meaning.REFUSED or _final(outcome):
                if before.status is Status.PLACED and await self._put_back(promise):
                    raise HostRefused(promise.host, outcome.code, outcome.reason)
                self._settler.pursue(name)
                return Removal(done=False, reason=outcome.reason)
            self._settler.pursue(name)
            return Removal(done=False, reason=_later(promise, outcome))

    async def _put_back(self, promise: Promise) -> bool:
        """Take the removal of *promise* back, which its host refused; whether that is written."""
        try:
            await self._book.put(promise, status=Status.PLACED)
        except (StoreUnavailable, NotLeader):
            return False  # so it is still to be removed, and is tried again
        return True

    async def _remove_stranger(self, name: str) -> Removal:
        """Remove a VM that was found on a host and never promised."""
        hosts = self._book.seen_on(name)
        if not hosts:
            raise UnknownVm(name)
        if len(hosts) > 1:
            raise WrongState(
                f"VM {name!r} is on {' and '.join(hosts)}, and none of them was placed from here;"
                " remove the wrong one at its own host"
            )
        host = self._fleet.named(hosts[0])
        outcome = await self._calls.remove(host, name)
        if outcome.meaning is Meaning.DONE:
            self._book.take_away(host.name, name)
            return Removal(done=True)
        if outcome.meaning is Meaning.UNKNOWN or outcome.code == "host-unreachable":
            problem = HostUnreachable(
                f"host {host.name}, where {name!r} was found, does not say whether it is removed"
                f" ({outcome.reason}); repeat the request"
            )
            raise in_doubt(problem) if outcome.meaning is Meaning.UNKNOWN else problem
        raise HostRefused(host.name, outcome.code, outcome.reason)


def placed(book: Book, name: str) -> Promise | None:
    """The promise of the VM called *name*, if it is one to work with; None for one that was only
    found. Raises UnknownVm or WrongState."""
    promise = book.find(name)
    if promise is None:
        if len(book.seen_on(name)) > 1:
            raise NameTaken(name)
        if not book.seen_on(name):
            raise UnknownVm(name)
        return None
    if promise.status is not Status.PLACED:
        raise WrongState(
            f"VM {name!r} is {promise.status} on host {promise.host}; only a placed one takes verbs"
        )
    return promise


def _final(outcome: Outcome) -> bool:
    """Whether the user is to hear of it instead of its being tried again."""
    return outcome.meaning is Meaning.ELSEWHERE and outcome.code not in LATER


def _later(promise: Promise, outcome: Outcome) -> str:
    return (
        f"{outcome.reason or 'its outcome is unknown'}; {promise.name} is removed when host"
        f" {promise.host} answers"
    )
