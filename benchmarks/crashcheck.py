"""What must hold of a cluster whose global scheduler was killed: at that moment, by its store and
its hosts alone, and at the end, when everything has settled, by what it says itself.

Each finding is a VM's name and a clause about it. A host that knows the published routes only
cannot say that a request will never be carried out, so there, and only while the VM is not there,
a deploy or a removal may stay undecided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from benchmarks.crashcluster import Row
from benchmarks.crashload import Known, Tale

Finding = tuple[str, str]
OnHosts = Mapping[str, Collection[str]]
"""The names of the VMs on each host."""


def at_death(idle: Iterable[Tale], rows: Mapping[str, Row], there: OnHosts) -> Iterator[Finding]:
    """*idle* are the names nobody was asking for anything about."""
    where = _where(there)
    for name, hosts in where.items():
        row = rows.get(name)
        if len(hosts) > 1:
            yield name, f"is on {' and '.join(hosts)} at once"
        elif row is None:
            yield name, f"is on host {hosts[0]}, and the store knows nothing of it"
        elif row.host != hosts[0]:
            yield name, f"is on host {hosts[0]}, and the store has it {row.status} on {row.host}"
    for tale in idle:
        row = rows.get(tale.name)
        written = row.status if row is not None else "gone"
        yield from _expected(tale, where)
        if tale.known is Known.PLACED and written != "placed":
            yield tale.name, f"was acknowledged, and is {written} in the store"
        elif tale.known is Known.NOWHERE and written != "gone":
            yield tale.name, f"was refused or removed, and is {written} in the store"
        elif tale.known is Known.REMOVING and written not in ("removing", "gone"):
            yield tale.name, f"was being removed, and is {written} in the store"


def settled(
    tales: Iterable[Tale],
    vms: Iterable[Mapping[str, Any]],
    listed: Mapping[str, str],
    there: OnHosts,
    older: Collection[str],
) -> Iterator[Finding]:
    """*vms* and *listed* are what ``/v1/vms`` and ``/listvm`` show; *older* are the hosts that know
    the published routes only."""
    where = _where(there)
    shown = {str(vm["name"]): vm for vm in vms}
    for name, hosts in where.items():
        if len(hosts) > 1:
            yield name, f"is on {' and '.join(hosts)} at once"
        if name not in shown:
            yield name, f"is on host {hosts[0]}, and nobody knows it"
    undecided = _doubted(vms, older) - where.keys()
    for name, vm in shown.items():
        if name not in undecided:
            yield from _shown_right(vm, where.get(name, []))
    for name in listed.keys() | shown.keys():
        host = shown[name]["host"] if name in shown else None
        if listed.get(name) != host:
            yield name, f"is shown on host {host}, and listed on {listed.get(name)}"
    for tale in tales:
        yield from _expected(tale, where)
        if tale.known is Known.PLACED and tale.name not in shown:
            yield tale.name, "was acknowledged, and is not shown"
        elif tale.known is Known.NOWHERE and tale.name in shown:
            yield tale.name, f"was refused or removed, and is {shown[tale.name]['status']}"
        elif tale.known is Known.REMOVING and tale.name in shown.keys() - undecided:
            yield tale.name, f"was being removed, and is {shown[tale.name]['status']}"


def kept(
    vms: Iterable[Mapping[str, Any]], rows: Mapping[str, Row], older: Collection[str] = ()
) -> Iterator[Finding]:
    """Whether the store, left in peace, has what was shown.

    What was undecided at one of the *older* hosts may be known to be gone by the time it is.
    """
    settled_since = _doubted(vms, older) - rows.keys()
    shown = {str(vm["name"]): (vm["status"], vm["host"]) for vm in vms}
    # what is pending when a run ends is unknown to the next, which need not write that down
    written = {
        name: ("unknown" if row.status == "pending" else row.status, row.host)
        for name, row in rows.items()
    }
    for name in sorted(shown.keys() | written.keys()):
        if shown.get(name) != written.get(name) and name not in settled_since:
            yield name, f"is shown as {shown.get(name)}, and kept as {written.get(name)}"


def _doubted(vms: Iterable[Mapping[str, Any]], older: Collection[str]) -> set[str]:
    return {
        str(vm["name"])
        for vm in vms
        if vm["status"] in ("unknown", "removing") and vm["host"] in older
    }


def _shown_right(vm: Mapping[str, Any], hosts: list[str]) -> Iterator[Finding]:
    """*hosts* have a VM of that name."""
    name, host, status = vm["name"], vm["host"], vm["status"]
    found = " and ".join(hosts) or "none"
    if status != "placed":
        yield name, f"is still {status} on host {host}, and is on {found}"
    elif host not in hosts:
        yield name, f"is shown on host {host}, and is on {found}"
    elif str(vm["reason"]).startswith("found there"):
        yield name, f"is on host {host}, and was promised to nobody"
    if vm["conflicts"]:
        yield name, f"is shown on host {host}, and in conflict with {' and '.join(vm['conflicts'])}"


def _expected(tale: Tale, where: Mapping[str, list[str]]) -> Iterator[Finding]:
    hosts = where.get(tale.name, [])
    if tale.known is Known.PLACED and not hosts:
        yield tale.name, "was acknowledged, and is on no host"
    elif tale.known is Known.PLACED and tale.host and tale.host not in hosts:
        yield tale.name, f"was acknowledged on host {tale.host}, and is on {hosts[0]}"
    elif tale.known is Known.NOWHERE and hosts:
        yield tale.name, f"was refused or removed, and is on host {hosts[0]}"


def _where(there: OnHosts) -> dict[str, list[str]]:
    where: dict[str, list[str]] = {}
    for host, names in there.items():
        for name in names:
            where.setdefault(name, []).append(host)
    return where
