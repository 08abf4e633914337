"""Who answers at an address: the host known there, one that moved, a new one, or a double.

A host goes by the name it gives itself, an older one by its address. Two that give the same name
are told apart by nobody, so whoever comes second is refused, unless the first is down for sure and
the second has some of the VMs it should: a cloned machine must not pass for the one it was made
from, or that one's VMs would seem lost.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from schedulerglobal.book import Book
from schedulerglobal.core.health import DOWN_AFTER
from schedulerglobal.core.promises import Status
from schedulerglobal.fleet import Address, Fleet, Host
from schedulerglobal.ports import Change, HostRecord, PutHost, RenameHost, Report
from schedulerprocess.events import EventLog

_log = logging.getLogger(__name__)


async def identified(
    address: Address, report: Report, fleet: Fleet, book: Book, events: EventLog
) -> Host | None:
    """The host that gave *report* at *address*; None for a double, which ``address.problem``
    explains. Raises StoreUnavailable."""
    name = report.status.name
    if address.host is not None and address.host.name == name:
        return address.host
    # one at a time, or two that say the same name at once would both be new
    async with book.turn(f"host {name}"):
        return await _introduced(address, report, fleet, book, events)


async def _introduced(
    address: Address, report: Report, fleet: Fleet, book: Book, events: EventLog
) -> Host | None:
    host, name = address.host, report.status.name
    if host is not None and host.name == name:
        return host
    if host is not None and host.name == address.label and fleet.find(name) is None:
        return await _named(host, name, fleet, book, events)
    if host is not None:
        address.host = None
        problem = f"its address {address.url} is answered by {name} now"
        fleet.away(host, problem)
        events.record("host", host=host.name, state=host.state, reason=problem)
    known = fleet.find(name)
    if known is None:
        return await _new(address, name, fleet, book, events)
    problem = _mistaken(known, report, fleet, book)
    if problem:
        if address.problem != problem:
            _log.error("%s is left out: %s", address.url, problem)
        address.problem = problem
        return None
    return await _moved(address, known, fleet, book, events)


def _mistaken(known: Host, report: Report, fleet: Fleet, book: Book) -> str:
    """Why who gives *report* cannot be taken for *known*; empty if it can."""
    other = fleet.address_of(known)
    if other is not None and known.missed < DOWN_AFTER:
        return (
            f"it calls itself {known.name}, as the host at {other.url} does; give each its own"
            " SCL_NAME, or take one of the two addresses off the list"
        )
    placed = [each.name for each in book.of_host(known.name) if each.status is Status.PLACED]
    if placed and report.names.isdisjoint(placed):
        return (
            f"it calls itself {known.name} and has none of the {len(placed)} VMs placed there;"
            f" give it its own SCL_NAME, or fence {known.name} if it is the same host"
        )
    return ""


async def _named(host: Host, name: str, fleet: Fleet, book: Book, events: EventLog) -> Host:
    """An older host was renewed and has a name of its own now."""
    old = host.name
    record = replace(host.record, name=name)
    await book.write(RenameHost(old, name), PutHost(record))
    fleet.set_record(host, record)
    book.renamed(old, name)
    events.record("host", host=name, state=host.state, was_called=old)
    return host


async def _new(address: Address, name: str, fleet: Fleet, book: Book, events: EventLog) -> Host:
    record = HostRecord(name=name, url=address.url, labels=address.labels, added=address.added)
    await book.write(PutHost(record))
    host = fleet.add(record, address)
    address.host = host
    address.problem = ""
    events.record("host", host=name, state="new", url=address.url)
    return host


async def _moved(address: Address, host: Host, fleet: Fleet, book: Book, events: EventLog) -> Host:
    """A host known from before, at another address or after a while."""
    other = fleet.address_of(host)
    changes: list[Change] = []
    record = replace(
        host.record,
        url=address.url,
        added=host.record.added or address.added,
        labels={**host.record.labels, **address.labels},
    )
    if record != host.record:
        changes.append(PutHost(record))
        await book.write(*changes)
    if other is not None:
        other.host = None
        other.problem = f"{host.name} answers at {address.url} now"
    fleet.set_record(host, record)
    address.host = host
    address.problem = ""
    events.record("host", host=host.name, state="moved", url=address.url)
    return host
