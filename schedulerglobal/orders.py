"""Where a VM may go: what its user asked for, worked out for the hosts and VMs there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from schedulercommon.errors import BadRequest
from schedulercommon.model import VmSpec
from schedulerglobal.book import Book
from schedulerglobal.core.wishes import Wishes
from schedulerglobal.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How a VM is to be placed, in its user's words."""

    policy: str = ""
    """Empty: as set for the cluster."""
    host: str = ""
    avoid: tuple[str, ...] = ()
    affinity: tuple[str, ...] = ()
    """Names of VMs, or ``key=value`` of their labels."""
    anti_affinity: tuple[str, ...] = ()
    spread: str = ""
    """A label of hosts."""

    @property
    def plain(self) -> bool:
        """Whether any host will do."""
        return not (self.host or self.avoid or self.affinity or self.anti_affinity or self.spread)


def resolved(order: Order, spec: VmSpec, fleet: Fleet, book: Book) -> Wishes | None:
    """*order* as rows of the cluster's view; None if any host will do.

    Raises UnknownHost, or BadRequest for a VM that there is not.
    """
    old_fashioned = _needs_new(spec)
    if order.plain and not old_fashioned:
        return None
    only = frozenset((fleet.named(order.host).row,)) if order.host else None
    refused: dict[int, str] = {}
    for name in order.avoid:
        refused[fleet.named(name).row] = "is to be avoided"
    for selector in order.anti_affinity:
        for name in _hosts_of(selector, book):
            apart = fleet.find(name)
            if apart is not None:
                refused.setdefault(apart.row, f"has {selector}, to keep away from")
    for selector in order.affinity:
        together = _hosts_of(selector, book)
        if not together:
            continue  # the first of its group may go anywhere
        for host in fleet:
            if host.name not in together:
                refused.setdefault(host.row, f"has no VM {selector}")
    if old_fashioned:
        for host in fleet:
            if host.report is not None and not host.typed:
                refused.setdefault(host.row, f"has a local scheduler too old for {old_fashioned}")
    return Wishes(only=only, refused=refused, tiers=_tiers(order, spec, fleet, book))


def _hosts_of(selector: str, book: Book) -> Collection[str]:
    """Hosts of the VMs meant; one that was only found counts too."""
    key, is_label, value = selector.partition("=")
    if is_label:
        return book.hosts_of(((key, value),))
    promise = book.find(selector)
    hosts = [promise.host] if promise is not None else book.seen_on(selector)
    if not hosts:
        raise BadRequest(
            f"{selector!r} is no VM of the cluster; name one of /v1/vms, or a label as key=value"
        )
    return hosts


def _tiers(order: Order, spec: VmSpec, fleet: Fleet, book: Book) -> dict[int, int] | None:
    """How many VMs of the same labels there are under each host's value of the spread label."""
    if not order.spread:
        return None
    values = {
        host.name: host.record.labels[order.spread]
        for host in fleet
        if order.spread in host.record.labels
    }
    counts = dict.fromkeys(values.values(), 0)
    for name, vms in book.hosts_of(spec.labels).items():
        if name in values:
            counts[values[name]] += vms
    return {fleet.named(name).row: counts[value] for name, value in values.items()}


def _needs_new(spec: VmSpec) -> str:
    """What of *spec* the published routes cannot say; empty if they can say it all."""
    if not spec.start:
        return "start=false"
    if spec.disk != "overlay":
        return f"disk={spec.disk}"
    if spec.max_vcpus != spec.vcpus or spec.max_memory_mib != spec.memory_mib:
        return "a maximum size"
    return ""
