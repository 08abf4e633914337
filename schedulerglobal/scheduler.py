"""The global scheduler as its routes see it: what may be asked of a cluster.

Puts the parts together and passes verbs on; deploys, removals and the care of hosts have modules
of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from schedulercommon.errors import (
    BadRequest,
    HostRefused,
    HostUnreachable,
    NotLeader,
    NotReady,
    StoreUnavailable,
    WrongState,
)
from schedulercommon.model import VmSpec
from schedulerglobal.book import Book
from schedulerglobal.calls import HostCalls
from schedulerglobal.core.capacity import fits
from schedulerglobal.core.outcomes import Meaning, Outcome, one_line
from schedulerglobal.core.policies import Policy
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.core.ranking import Ranker, Turn
from schedulerglobal.core.view import Shape
from schedulerglobal.doubt import in_doubt
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.following import Following
from schedulerglobal.hostadmin import HostAdmin
from schedulerglobal.leadership import Leadership
from schedulerglobal.office import Office, lead_lost
from schedulerglobal.orders import Order
from schedulerglobal.placement import Placement, Placer
from schedulerglobal.polling import Poller
from schedulerglobal.ports import (
    DropHost,
    ForgetGone,
    HostClient,
    PutShares,
    SharedStore,
    Store,
)
from schedulerglobal.removal import Removal, Remover, placed
from schedulerglobal.settling import Settler
from schedulerprocess.events import EventLog

GONE_KEPT_S = 86_400.0
"""How long the store remembers what is gone."""
FORGET_EVERY_S = 3600.0
KEEP_SHARES_EVERY_S = 300.0
"""What was asked for since is all that a crash loses of what was learnt."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a store is shared with other global schedulers."""

    store: SharedStore
    url: str
    """Where the others find us."""
    lease_s: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance, handed in."""

    now_s: Callable[[], float]
    """Since the epoch."""
    monotonic_s: Callable[[], float]
    sleep: Callable[[float], Coroutine[Any, Any, None]]
    rng: Random


class ClusterScheduler:
    """One cluster; every refusal is a RefusedError, and nothing has changed."""

    def __init__(
        self,
        store: Store,
        client: HostClient,
        around: Surroundings,
        *,
        urls: tuple[str, ...],
        policy: Policy,
        delay_s: float,
        office: Office | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """Without *office* and *sharing* the store is ours alone."""
        self.events = EventLog(around.now_s)
        self.fleet = Fleet(around.monotonic_s)
        self.office = office or Office(around.monotonic_s, shared=sharing is not None)
        self.book = Book(store, self.office, around.now_s)
        self.policy = policy
        self._client = client
        self._around = around
        self.poller = Poller(
            self.fleet,
            self.book,
            client,
            self.events,
            delay_s=delay_s,
            monotonic_s=around.monotonic_s,
            rng=around.rng,
        )
        self._calls = HostCalls(client, self.fleet, moved=self.poller.soon, freed=self.poller.freed)
        self.settler = Settler(
            self.fleet,
            self.book,
            self._calls,
            self.events,
            self.office,
            sleep=around.sleep,
            monotonic_s=around.monotonic_s,
            rng=around.rng,
        )
        self._ranker = Ranker(self.fleet.view, Turn(around.rng))
        unique = uuid4().hex
        ids = (f"{unique}-{number}" for number in count(1))
        self.placer = Placer(
            self.fleet,
            self.book,
            self._calls,
            self.settler,
            self._ranker,
            self.events,
            policy=policy,
            fresh_id=lambda: next(ids),
            caught_up=self.poller.caught_up,
        )
        self.admin = HostAdmin(
            self.fleet,
            self.book,
            client,
            self.poller,
            self.settler,
            self.events,
            monotonic_s=around.monotonic_s,
        )
        self._remover = Remover(self.fleet, self.book, self._calls, self.settler, self.events)
        self._following = Following(
            self.fleet,
            self.book,
            self.poller,
            self.settler,
            self._ranker.arrivals,
            urls,
            shared=self.office.shared,
        )
        self._leadership = sharing is not None and Leadership(
            sharing.store,
            self.office,
            self._following,
            self.events,
            url=sharing.url,
            lease_s=sharing.lease_s,
            monotonic_s=around.monotonic_s,
        )
        self.opened = False
        """Whether the store was read."""
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether every address was looked at, and the end has not begun."""
        return self.opened and self.poller.first_round.is_set() and not self._closing

    async def open(self) -> None:
        """Read the store; raises as :meth:`schedulerglobal.ports.Store.open` does."""
        needless = self._following.begin(await self.book.open())
        if not self.office.shared:
            self._following.take_over()
            await self._tidy()
            await self.book.write(*map(DropHost, needless))
        self.opened = True

    async def run(self) -> None:
        """Poll, keep what is learnt and forget what is long gone, until cancelled; campaign, where
        others may lead."""
        async with asyncio.TaskGroup() as all_of_it:
            if self._leadership:
                all_of_it.create_task(self._leadership.run(), name="leadership")
                # who leads writes down the hosts it finds
                await self._leadership.tried.wait()
            all_of_it.create_task(self.poller.run(self.settler), name="poller")
            all_of_it.create_task(self._forget(), name="forget")
            all_of_it.create_task(self._learn(), name="learn")

    async def _forget(self) -> None:
        while True:
            await self._around.sleep(FORGET_EVERY_S)
            try:
                await self._tidy()
            except NotLeader:
                pass  # whoever leads does
            except StoreUnavailable as problem:
                _log.warning("forgetting what is long gone is put off: %s", problem)

    async def _tidy(self) -> None:
        """Forget what nobody will ask for."""
        await self.book.write(ForgetGone(self._around.now_s() - GONE_KEPT_S))

    async def _learn(self) -> None:
        while True:
            await self._around.sleep(KEEP_SHARES_EVERY_S)
            try:
                await self._keep_shares()
            except StoreUnavailable as problem:
                _log.warning("keeping what is asked for most is put off: %s", problem)

    async def _keep_shares(self) -> None:
        """Nothing is learnt where another leads."""
        shares = self._ranker.arrivals.shares
        if shares != self.book.shares and self.office.held:
            with suppress(NotLeader):
                await self.book.write(PutShares(shares))
                self.book.shares = shares

    async def close(self) -> None:
        """Take nothing new, and leave the rest to the next start, or to whoever leads next."""
        self._closing = True
        with suppress(StoreUnavailable):  # what was kept before is as good
            await self._keep_shares()
        if self.office.shared:
            await self.office.end()
        await self.settler.leave_off()
        await self.book.close()

    async def caught_up(self) -> None:
        """Know what whoever leads wrote until now, if the store says it within a moment."""
        if self._leadership:
            await self._leadership.caught_up()

    def check_ready(self) -> None:
        """Raise NotReady before the hosts are known, and once the end has begun."""
        if not self.ready:
            raise NotReady("this global scheduler is starting or stopping; try again in a moment")

    async def under_office(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work*, which changes something, if we may; see :meth:`Office.under`."""
        if not self.ready:
            work.close()
        self.check_ready()
        return await self.office.under(work)

    async def deploy(self, spec: VmSpec, order: Order | None = None) -> Placement:
        """Place *spec*, or find it placed already."""
        return await self.under_office(self.placer.deploy(spec, order or Order()))

    async def remove(self, name: str) -> Removal:
        """Stop the VM called *name* by force and forget it."""
        return await self.under_office(self._remover.remove(name))

    async def act(
        self, name: str, method: str, rest: str, document: dict[str, object]
    ) -> tuple[Promise | None, Host, Mapping[str, Any]]:
        """Pass a verb on to the host of the VM called *name*; returns its answer."""
        return await self.under_office(self._act(name, method, rest, document))

    async def _act(
        self, name: str, method: str, rest: str, document: dict[str, object]
    ) -> tuple[Promise | None, Host, Mapping[str, Any]]:
        # without the name's turn: a guest may take long to shut down, and may be removed meanwhile
        promise, host = self._there(name)
        reply = await self._calls.pass_on(host, method, f"{_path(name)}{rest}", document)
        if isinstance(reply, Outcome):
            problem = HostUnreachable(
                f"host {host.name} did not answer ({reply.reason}); look at the VM, then"
                " repeat the request"
            )
            raise in_doubt(problem) if reply.meaning is Meaning.UNKNOWN else problem
        answer = _understood(host, reply.status, reply.document)
        self.events.record(rest.strip("/"), vm=name, host=host.name)
        self.poller.soon(host)
        if promise is not None:
            try:
                promise = await self._resized(promise, answer)
            except NotLeader as problem:
                raise lead_lost() from problem
        return promise, host, answer

    async def console(self, name: str, query: str) -> str:
        """The end of what the guest of the VM called *name* wrote to its console."""
        _, host = self._there(name)
        reply = await self._calls.pass_on(host, "GET", f"{_path(name)}/console?{query}")
        if isinstance(reply, Outcome):
            raise HostUnreachable(
                f"host {host.name} did not answer ({reply.reason}); repeat the request"
            )
        text = _understood(host, reply.status, reply.document).get("console")
        if not isinstance(text, str):
            raise HostUnreachable(
                f"the answer of host {host.name} has no console in it; look at its log"
            )
        return text

    def _there(self, name: str) -> tuple[Promise | None, Host]:
        """Where the VM called *name* is, if that host can be told more than the published."""
        promise = placed(self.book, name)
        host = self.host_of(name, promise)
        if not host.typed:
            raise WrongState(
                f"the local scheduler of host {host.name} is too old for that; renew it"
            )
        return promise, host

    async def _resized(self, promise: Promise, answer: Mapping[str, Any]) -> Promise:
        """Take over the size the host says the VM has now."""
        vcpus, memory_mib = answer.get("vcpus"), answer.get("memory_mib")
        spec = promise.spec
        if not isinstance(vcpus, int) or not isinstance(memory_mib, int):
            return promise
        if (vcpus, memory_mib) == (spec.vcpus, spec.memory_mib) or min(vcpus, memory_mib) < 1:
            return promise
        return await self._rewritten(promise, vcpus, memory_mib)

    async def _rewritten(self, promise: Promise, vcpus: int, memory_mib: int) -> Promise:
        async with self.book.turn(promise.name):
            now = self.book.find(promise.name)
            if now is None or now.key != promise.key or now.status is not Status.PLACED:
                return promise
            return await self.book.put(now, spec=_sized(now.spec, vcpus, memory_mib))

    def host_of(self, name: str, promise: Promise | None) -> Host:
        """Where the VM called *name* is."""
        return self.fleet.named(promise.host if promise else self.book.seen_on(name)[0])

    async def detail(self, name: str) -> Mapping[str, Any] | None:
        """What its host says of the VM called *name*; None if it cannot be asked."""
        promise = self.book.find(name)
        host = self.fleet.find(promise.host if promise else self.book.seen_on(name)[0])
        if host is None or not host.typed or not host.answers:
            return None
        reply = await self._calls.pass_on(host, "GET", _path(name))
        if isinstance(reply, Outcome) or reply.status != 200:
            return None
        document = reply.document
        if not isinstance(document, dict):
            return None
        if promise is not None and promise.status is Status.PLACED and self.office.held:
            with suppress(StoreUnavailable, NotLeader):  # then the next who asks
                await self._resized(promise, document)  # the host is right about its VMs
        return document

    def capacity(self, shape: Shape) -> list[tuple[str, int]]:
        """How many more VMs of *shape* each host could take."""
        counts = fits(self.fleet.view, shape)
        return [(host.name, int(counts[host.row])) for host in self.fleet]


def _sized(spec: VmSpec, vcpus: int, memory_mib: int) -> VmSpec:
    """*spec* in another size; a maximum that was asked for apart from the size stays."""
    most_vcpus = spec.max_vcpus if spec.max_vcpus > spec.vcpus else 0
    most_mib = spec.max_memory_mib if spec.max_memory_mib > spec.memory_mib else 0
    return replace(
        spec,
        vcpus=vcpus,
        memory_mib=memory_mib,
        max_vcpus=max(vcpus, most_vcpus),
        max_memory_mib=max(memory_mib, most_mib),
    )


def _path(name: str) -> str:
    """Where its host has the VM called *name*; one that was found may have any name."""
    return f"/v1/vms/{quote(name, safe='')}"


def _understood(host: Host, status: int, document: Any) -> Mapping[str, Any]:
    """The host's answer to a verb, if it is one; raises HostRefused or BadRequest."""
    if isinstance(document, dict):
        if status < 300 and document.get("success", True) is True:
            return document
        code, reason = document.get("code"), document.get("reason")
        if isinstance(code, str) and isinstance(reason, str):
            if code == "bad-request":
                raise BadRequest(one_line(reason))
            raise HostRefused(host.name, code, one_line(reason))
    raise HostUnreachable(
        f"the answer of host {host.name} makes no sense (status {status}); look at its log"
    )
