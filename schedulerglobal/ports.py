"""What the global scheduler needs of the world: hosts that answer, and a store that keeps; where
several global schedulers share a store, that also says which of them leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from schedulercommon.model import HostStatus, VmSpec
from schedulerglobal.core.arrivals import Shares
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.outcomes import Reply
from schedulerglobal.core.promises import Promise


class NotSent(Exception):  # says what happened
    """The connection was refused, so nothing was asked. ``str()`` of it says why."""


class NotAllowed(NotSent):
    """Nothing was asked, for we lead no longer; it is not the host's doing."""


class NoAnswer(Exception):
    """No whole answer came: too late, cut off, or none that is HTTP. What was asked may be done."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a host says of itself."""

    status: HostStatus
    names: frozenset[str]
    """Of the VMs there; all of them are counted in the status."""
    etag: str
    """To ask again with; empty if the host has none."""
    typed: bool
    """Whether it knows the routes under ``/v1/``, or only the published ones."""


@dataclass(frozen=True, slots=True)
class Site:
    """Whom a change is asked of, and where."""

    url: str
    name: str
    """A host that goes by another name takes none of it, if it is *typed*."""
    typed: bool


class HostClient(Protocol):
    """Talks to local schedulers. Every call ends within a time limit; all raise NotSent or
    NoAnswer, and none is tried twice."""

    async def look(self, url: str, before: Report | None) -> Report | None:
        """How the host is; None if nothing moved since *before*. Raises NoAnswer also for an
        answer that is not a local scheduler's."""
        ...

    async def deploy(self, site: Site, spec: VmSpec) -> Reply:
        """Ask for *spec*, whose ``request_id`` is the attempt's."""
        ...

    async def remove(self, site: Site, name: str, attempt: str = "") -> Reply:
        """*attempt* made the VM, if we had it made: whenever this arrives, no other is removed."""
        ...

    async def cancel(self, site: Site, attempt: str) -> Reply:
        """Have *attempt* refused from now on, and be told what became of it."""
        ...

    async def names(self, site: Site) -> frozenset[str]:
        """The VMs there."""
        ...

    async def ask(
        self, site: Site, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> Reply:
        """Pass a request on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """What is remembered of a host."""

    name: str
    url: str
    """``http://host:port``, nothing after it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted = Wanted.OPEN
    fenced: bool = False
    """Its operator asserted that nothing runs there."""
    added: bool = False
    """By a request, and so to be polled whether or not the list of hosts names it."""


@dataclass(frozen=True, slots=True)
class PutPromise:
    """Insert the promise of that key, or replace it."""

    promise: Promise


@dataclass(frozen=True, slots=True)
class PutHost:
    """Insert the host of that name, or replace it."""

    host: HostRecord


@dataclass(frozen=True, slots=True)
class DropHost:
    """Forget a host."""

    name: str


@dataclass(frozen=True, slots=True)
class RenameHost:
    """The host called *old*, and every promise on it, is called *new* from now on; a record that
    was called *new* before is forgotten if there is one called *old*."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ForgetGone:
    """Forget promises that were gone before that time (s since the epoch)."""

    before_s: float


@dataclass(frozen=True, slots=True)
class PutShares:
    """Keep *shares*, and what was kept of them before no longer."""

    shares: Shares


Change = PutPromise | PutHost | DropHost | RenameHost | ForgetGone | PutShares


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store held when it was opened."""

    hosts: tuple[HostRecord, ...]
    """In the order they were first put."""
    promises: tuple[Promise, ...]
    """Those that are not gone, in the order they were first put."""
    shares: Shares = ()
    """As they were put last."""


class Store(Protocol):
    """Keeps promises, hosts and shares through crashes. Used by one global scheduler at a time."""

    async def open(self) -> Contents:
        """Raises InputError for a store that is damaged, of another kind or of a newer version, and
        StoreUnavailable for one that is in use, locked, read-only, full or away."""
        ...

    async def write(self, *changes: Change) -> None:
        """All of *changes*, in this order, or none; on disk when it returns.

        Raises NameTaken if a promise's name belongs to another that is not gone (looked at after
        each change), StoreUnavailable if the store cannot take them now. A caller that is
        cancelled meanwhile does not know whether they were taken. Of a reason, what the store has
        no characters for is replaced.
        """
        ...

    async def close(self) -> None:
        """What is being written is written first; what comes later is refused."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Who leads, as the store says."""

    epoch: int
    """Rises with every change of the leader; 0 before the first."""
    mine: bool
    url: str
    """Of the one that leads or led last; empty before the first."""
    left_s: float
    """How long its lease lasts, by the store's clock; negative once it ran out."""
    renewed: bool = False
    """Whether it is ours, and was made to last longer."""


@dataclass(frozen=True, slots=True)
class News:
    """What changed in a store."""

    upto: int
    """To ask from the next time."""
    promises: tuple[Promise, ...]
    """Those that changed, the ones that are gone too."""
    hosts: tuple[HostRecord, ...] | None
    """All there are, if any changed."""
    shares: Shares | None = None
    """As they were put last, if they or hosts changed."""
    whole: bool = False
    """Whether these are all promises there are, and others are gone."""


class SharedStore(Store, Protocol):
    """A store that several global schedulers have open. One leads, for as long as it renews its
    lease; the store takes writes from no other, and raises NotLeader from theirs.

    What is here raises StoreUnavailable if the store is away.
    """

    async def campaign(
        self, url: str, lease_s: float, *, anew: bool = False, leading: bool = False
    ) -> Standing:
        """Renew our lease, take the lead if nobody has it, or learn who does.

        Once this answers that we lead under another epoch than before, no write of another leader
        can come, nor one of our own that began before; nobody is told any more what became of one.
        *anew* if our lease is not to be renewed, for our term is over. *leading* if a term is not:
        whoever began under it would write under the next one's epoch, so none is taken.
        """
        ...

    async def resign(self) -> None:
        """Give up the lead, if we have it, and let the others know."""
        ...

    async def news(self, since: int | None) -> News:
        """What changed since then; everything, if None."""
        ...

    async def leaderless(self, within_s: float) -> None:
        """Return when a leader resigned, when we lost touch and gave up the lead, or after
        *within_s*."""
        ...
