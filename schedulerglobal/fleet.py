"""The hosts as they are known right now: what they last said, whether they answer, what is on its
way to them. Keeps the cluster's view in step; whoever decides looks at the view alone.

A reservation is counted from the moment its host is asked until the host's own status shows it:
a status whose asking began before the answer to the deploy may or may not have it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from schedulercommon.errors import UnknownHost
from schedulerglobal.core.health import DOWN_AFTER, Health, HostState, Wanted, health, shown_state
from schedulerglobal.core.view import ClusterView, Shape
from schedulerglobal.ports import HostRecord, Report, Site

DOUBT_S = 60.0
"""How long a host that refused what its status has room for is left alone, unless that moves."""
MANY_CALLS = 32
"""Changes asked of one host at once above which others are preferred: it makes one at a time."""
UNSURE_REFUSALS = 3
UNSURE_DOUBT_S = 10.0
"""The same for one that refused several in a row without saying for what reason."""


@dataclass(slots=True)
class _Reservation:
    name: str
    """Of the VM."""
    shape: Shape
    held_s: float | None = None
    """When the host said it has it."""


@dataclass(slots=True, eq=False)
class Host:
    """One host at run time."""

    record: HostRecord
    row: int
    report: Report | None = None
    """The newest; None until it answered."""
    missed: int = 0
    """Polls in a row."""
    missed_s: float = 0.0
    """When the last of them was."""
    seen_s: float | None = None
    """When it last answered, by the monotonic clock."""
    problem: str = ""
    """Why the last poll failed."""
    refusing: bool = False
    """It refused a connection since the last poll."""
    refusals: int = 0
    """In a row, of what its status has room for."""
    doubted_until_s: float = 0.0
    calls: int = 0
    """Changes it is being asked for."""
    slow: int = 0
    """Those of them that are taking long, or were given up a moment ago."""
    held_back: bool = False
    """Nothing new is to go there for the moment."""
    look_anew: bool = False
    """Ask for everything next time, moved or not."""
    reserved: dict[str, _Reservation] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def url(self) -> str:
        return self.record.url

    @property
    def typed(self) -> bool:
        return self.report is not None and self.report.typed

    @property
    def site(self) -> Site:
        return Site(self.url, self.name, self.typed)

    @property
    def health(self) -> Health:
        return health(self.missed, ever_seen=self.report is not None)

    @property
    def state(self) -> HostState:
        return shown_state(self.health, self.record.wanted)

    @property
    def answers(self) -> bool:
        """Whether asking it something makes sense."""
        return self.health is not Health.DOWN and not self.refusing


@dataclass(slots=True, eq=False)
class Address:
    """Where a local scheduler is expected to listen; polled, whoever answers."""

    url: str
    host: Host | None = None
    """Who answered there last."""
    labels: Mapping[str, str] = field(default_factory=dict)
    added: bool = False
    """By a request; the others are from the list of hosts."""
    looked: bool = False
    """Whether it was polled at all, with whatever result."""
    problem: str = ""
    """Why nobody is known there."""
    looks: int = 0
    row: int | None = None
    """Kept in the view for the host that will answer, so that hosts come in the order they were
    listed in, not in which they answered first."""

    @property
    def label(self) -> str:
        """How a host that has no name of its own is known."""
        return self.url.partition("://")[2]


class Fleet:
    """All hosts by name, the addresses they answer at, and the view of them. Not safe for
    threads."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.view = ClusterView()
        self._now_s = now_s
        """Monotonic."""
        self.addresses: dict[str, Address] = {}
        self.slow = 0
        """Calls of all hosts that are taking long."""
        self._hosts: dict[str, Host] = {}
        self._by_row: dict[int, Host] = {}
        self._in_order: list[Host] = []
        self._dropped: set[int] = set()

    def __iter__(self) -> Iterator[Host]:
        """By row, which is the order of the list of hosts."""
        return iter(self._in_order)

    def __len__(self) -> int:
        return len(self._hosts)

    def find(self, name: str) -> Host | None:
        return self._hosts.get(name)

    def named(self, name: str) -> Host:
        """Raises UnknownHost."""
        host = self._hosts.get(name)
        if host is None:
            raise UnknownHost(name)
        return host

    def expect(self, url: str, host: Host | None = None, **about: Any) -> Address:
        """The address *url*, from now on one to poll; *host* is who answered there before."""
        address = self.addresses[url] = Address(url, host, **about)
        if host is None and not address.added and address.label not in self.view.rows:
            address.row = self.view.add(address.label)
        return address

    def forget(self, address: Address) -> None:
        """Poll *address* no longer."""
        self.addresses.pop(address.url, None)

    def address_of(self, host: Host) -> Address | None:
        """Where *host* answers, or answered last; None if somebody else does there now."""
        address = self.addresses.get(host.url)
        return address if address is not None and address.host is host else None

    def of_row(self, row: int) -> Host:
        return self._by_row[row]

    def add(self, record: HostRecord, address: Address | None = None) -> Host:
        """A host that has not said anything yet; it takes the row kept for *address*."""
        row = address.row if address is not None else None
        if address is not None:
            address.row = None
        if row is None or record.name in self.view.rows:  # of one that is back
            row = self.view.add(record.name)
        else:
            self.view.rename(row, record.name)
        host = Host(record, row)
        self._hosts[record.name] = host
        self._by_row[host.row] = host
        self._dropped.discard(host.row)
        insort(self._in_order, host, key=lambda each: each.row)
        self.refresh(host)
        return host

    def set_record(self, host: Host, record: HostRecord) -> None:
        """Take over what is remembered of *host*, its name too."""
        before = host.record
        if record.name != before.name:
            del self._hosts[before.name]
            self._hosts[record.name] = host
            self.view.rename(host.row, record.name)
        host.record = record
        self.refresh(host)

    def knows(self, name: str) -> bool:
        """Whether *name* is a host's, or an address's that is waited for."""
        return name in self._hosts or any(
            each.row is not None and each.label == name for each in self.addresses.values()
        )

    def drop(self, host: Host) -> None:
        """There is no such host any more; its row stays, closed, should it come back."""
        address = self.addresses.get(host.url)
        if address is not None and address.host is host:
            address.host = None
            if address.added:
                self.forget(address)
        self.view.set_open(host.row, False)
        self._dropped.add(host.row)
        del self._hosts[host.name]
        del self._by_row[host.row]
        self._in_order.remove(host)

    def hold_back(self, host: Host, is_held_back: bool) -> None:
        """Let nothing new go to *host* for a moment, or let it again."""
        host.held_back = is_held_back
        self.refresh(host)

    def away(self, host: Host, problem: str) -> None:
        """*host* is nowhere to be found."""
        host.missed = max(host.missed, DOWN_AFTER)
        host.problem = problem
        self.refresh(host)

    def take_in(self, host: Host, report: Report | None, begun_s: float) -> None:
        """What *host* answered to a poll begun then; None if nothing moved."""
        moved = host.report is None or (report is not None and report.status != host.report.status)
        if moved:
            host.doubted_until_s = 0.0
        if report is not None:
            host.report = report
        host.missed = 0
        host.refusing = False
        host.problem = ""
        host.seen_s = self._now_s()
        known = [
            key
            for key, each in host.reserved.items()
            if (each.held_s is not None and each.held_s < begun_s)
            or (report is not None and each.name in report.names)
        ]
        for key in known:
            del host.reserved[key]
        if moved or known:
            self._recount(host)
        self.refresh(host)

    def missed(self, host: Host, problem: str, apart_s: float) -> None:
        """*host* did not answer a poll; one that comes within *apart_s* of the last that was missed
        says nothing new."""
        now_s = self._now_s()
        if not host.missed or now_s - host.missed_s >= apart_s:
            host.missed += 1
            host.missed_s = now_s
        host.problem = problem
        self.refresh(host)

    def refused_connection(self, host: Host, problem: str) -> None:
        """Nothing goes to *host* until a poll finds it again."""
        host.refusing = True
        host.problem = problem
        self.refresh(host)

    def refused(self, host: Host, *, sure: bool) -> None:
        """*host* refused what its status has room for; unless *sure*, perhaps for another reason,
        which a few times in a row may mean."""
        host.refusals += 1
        if sure or host.refusals >= UNSURE_REFUSALS:
            host.doubted_until_s = self._now_s() + (DOUBT_S if sure else UNSURE_DOUBT_S)
        self.refresh(host)

    def busy(self, host: Host, *, calls: int = 0, slow: int = 0) -> None:
        """So many more (or fewer) changes are asked of *host*, or take long there; others are
        preferred while they do, or while there are many."""
        host.calls += calls
        host.slow += slow
        self.slow += slow
        self.view.set_preferred(host.row, not host.slow and host.calls < MANY_CALLS)

    def reserve(self, host: Host, key: str, name: str, shape: Shape) -> None:
        """Count the VM called *name* on *host*, which is about to be asked for it under *key*."""
        host.reserved[key] = _Reservation(name, shape)
        self.view.reserve(host.row, shape)

    def hold(self, host: Host, key: str) -> None:
        """The host has what was reserved."""
        reservation = host.reserved.get(key)
        if reservation is not None:
            reservation.held_s = self._now_s()

    def release(self, host: Host, key: str) -> None:
        """What was reserved did not come to be."""
        if host.reserved.pop(key, None) is not None:
            self._recount(host)

    def release_all(self, host: Host) -> None:
        """Whoever reserved anything on *host* is gone."""
        if host.reserved:
            host.reserved.clear()
            self._recount(host)

    def refresh(self, host: Host) -> None:
        """Let new VMs go to *host* or not, by what is known of it."""
        self.view.set_open(host.row, self.closed(host) == "")

    def closed(self, host: Host) -> str:
        """Why nothing new goes to *host*, as a clause about it; empty if it may."""
        record = host.record
        if host.held_back:
            return "is about to be fenced"
        if record.wanted is Wanted.MAINTENANCE:
            return "is in maintenance"
        if host.report is None:
            return "has not answered yet" + (f" ({host.problem})" if host.problem else "")
        if host.health is not Health.UP:
            return f"is {host.health} ({host.problem})"
        if host.refusing:
            return f"has refused a connection ({host.problem})"
        if record.wanted is Wanted.DRAINING:
            return "is draining"
        if self._now_s() < host.doubted_until_s:
            return "has refused what it says it has room for"
        return ""

    @property
    def reasons(self) -> Mapping[int, str]:
        """Why each closed host is, by row."""
        reasons = dict.fromkeys(self._dropped, "is forgotten")
        reasons |= {host.row: reason for host in self if (reason := self.closed(host))}
        for address in self.addresses.values():
            if address.row is not None:
                problem = f" ({address.problem})" if address.problem else ""
                reasons[address.row] = f"has not answered yet{problem}"
        return reasons

    @property
    def anyone_up(self) -> bool:
        return any(host.state is HostState.UP and not host.refusing for host in self)

    def _recount(self, host: Host) -> None:
        if host.report is not None:
            self.view.set_status(
                host.row, host.report.status, [each.shape for each in host.reserved.values()]
            )
