"""The cluster as JSON documents: what the routes show of promises and hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from schedulercommon.levels import Level, format_level
from schedulerglobal.book import Book
from schedulerglobal.core.health import Health
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.fleet import Address, Fleet, Host

_FROM_HOST = ("runs_at", "state", "pinned_cpus", "memory_nodes")


def vm_document(
    promise: Promise, book: Book, fleet: Fleet, detail: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A VM that was promised; *detail* is what its host says of it."""
    spec = promise.spec
    conflicts = book.conflicts(promise)
    host = fleet.find(promise.host)
    if host is not None and host.record.fenced and promise.name in book.seen(host.name):
        conflicts.append(host.name)
    return {
        "name": spec.name,
        "host": promise.host,
        "status": promise.status,
        "level": format_level(spec.level),
        "vcpus": spec.vcpus,
        "memory_mib": spec.memory_mib,
        "image": spec.image,
        "labels": dict(spec.labels),
        "owner": spec.owner,
        "request_id": spec.request_id,
        "reason": promise.reason or None,
        "conflicts": conflicts,
        **{field: (detail or {}).get(field) for field in _FROM_HOST},
    }


def stranger_document(
    name: str, hosts: list[str], detail: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A VM that was found on a host and never promised."""
    known = detail or {}
    return {
        "name": name,
        "host": hosts[0],
        "status": Status.PLACED,
        "level": known.get("level"),
        "vcpus": known.get("vcpus"),
        "memory_mib": known.get("memory_mib"),
        "image": known.get("image"),
        "labels": known.get("labels") or {},
        "owner": known.get("owner") or "",
        "request_id": "",
        "reason": "found there; it was not placed from here",
        "conflicts": hosts[1:],
        **{field: known.get(field) for field in _FROM_HOST},
    }


def vm_documents(book: Book, fleet: Fleet) -> Iterator[dict[str, Any]]:
    """All VMs there are now, in order of arrival; those found come last."""
    promises, strangers = list(book), list(book.strangers())
    return chain(
        (vm_document(promise, book, fleet) for promise in promises),
        (stranger_document(name, hosts) for name, hosts in strangers),
    )


def vm_hosts(book: Book) -> dict[str, str]:
    """The host of every VM, by name."""
    hosts = {promise.name: promise.host for promise in book}
    for name, found in book.strangers():
        hosts[name] = found[0]
    return hosts


def host_document(host: Host, book: Book, fleet: Fleet, now_s: float) -> dict[str, Any]:
    """A host; *now_s* by the monotonic clock."""
    status = host.report.status if host.report else None
    free_cpus, free_mib = fleet.view.free(host.row) if status else (0, 0)
    conflicts = set(book.conflicts_on(host.name))
    if host.record.fenced:
        conflicts |= book.seen(host.name)
    return {
        "name": host.name,
        "url": host.url,
        "state": host.state,
        "reachable": host.answers and host.report is not None,
        "problem": host.problem or None,
        "seen_s_ago": None if host.seen_s is None else round(now_s - host.seen_s, 3),
        "typed": host.typed,
        "fenced": host.record.fenced,
        "labels": dict(host.record.labels),
        "cpus": {"total": status.capacity_cpus if status else 0, "free": free_cpus},
        "memory_mib": {"total": status.capacity_memory_mib if status else 0, "free": free_mib},
        "levels": [
            {"level": format_level(level), "cpus": cpus, "vcpus": vcpus}
            for level, cpus, vcpus in sorted(fleet.view.levels_of(host.row))
        ],
        "vms": len(book.seen(host.name).union(p.name for p in book.of_host(host.name))),
        "conflicts": sorted(conflicts),
    }


def address_document(address: Address) -> dict[str, Any]:
    """An address where nobody is known to listen."""
    nothing = {"total": 0, "free": 0}
    return {
        "name": address.label,
        "url": address.url,
        "state": "down",
        "reachable": False,
        "problem": address.problem or "it has not answered yet",
        "seen_s_ago": None,
        "typed": False,
        "fenced": False,
        "labels": dict(address.labels),
        "cpus": nothing,
        "memory_mib": nothing,
        "levels": [],
        "vms": 0,
        "conflicts": [],
    }


def host_documents(book: Book, fleet: Fleet, now_s: float) -> Iterator[dict[str, Any]]:
    """All hosts, and the addresses where nobody is known."""
    hosts, addresses = list(fleet), list(fleet.addresses.values())
    return chain(
        (host_document(host, book, fleet, now_s) for host in hosts),
        (address_document(address) for address in addresses if address.host is None),
    )


def status_document(fleet: Fleet) -> dict[str, Any]:
    """The published status of every host that answers, by name; what a host had that is down
    would be summed up by whoever asks."""
    return {host.name: _published(host, fleet) for host in fleet if host.health is not Health.DOWN}


def _published(host: Host, fleet: Fleet) -> dict[str, Any]:
    free_cpus, free_mib = fleet.view.free(host.row)
    levels = sorted(fleet.view.levels_of(host.row))
    assert host.report is not None
    memory = host.report.status.capacity_memory_mib - free_mib
    pool = {"pcap": memory, "palloc": memory, "vavail": 0, "vpotential": free_mib}
    return {
        "cpu": {
            "avail": free_cpus,
            "subset": {
                format_level(level): _level(level, cpus, vcpus, free_cpus)
                for level, cpus, vcpus in levels
            },
        },
        "mem": {"avail": free_mib, "subset": {"1": pool} if levels else {}},
    }


def _level(level: Level, cpus: int, vcpus: int, free_cpus: int) -> dict[str, Any]:
    over, under = level.numerator, level.denominator
    return {
        "pcap": cpus,
        "palloc": vcpus,
        "vavail": (cpus * over - vcpus * under) / under,
        "vpotential": free_cpus * over / under,
    }
