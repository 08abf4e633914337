"""Placing a VM: filters, score, reserve, write, ask the host, commit.

At most three hosts are asked, one after another, and the next one only when it is sure that the
one before has nothing of it. The same deploy asked twice is made once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from schedulercommon.errors import (
    BadRequest,
    HostRefused,
    HostUnreachable,
    NameTaken,
    NoCapacity,
    NotLeader,
    RefusedError,
    StoreUnavailable,
    WrongState,
)
from schedulercommon.model import VmSpec, same_request
from schedulerglobal.book import Book
from schedulerglobal.calls import PUBLISHED, HostCalls
from schedulerglobal.core.outcomes import Meaning, Outcome
from schedulerglobal.core.policies import Policy, parse_policy
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.core.ranking import Ranker, Verdict
from schedulerglobal.core.view import Shape, shape_of
from schedulerglobal.doubt import ask_again, in_doubt
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.office import lead_lost
from schedulerglobal.orders import Order, resolved
from schedulerglobal.settling import Settler
from schedulerprocess.events import EventLog

MOST_HOSTS = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """What became of a deploy."""

    promise: Promise
    created: bool
    """False if it was there already, asked for in the same words."""
    said: Mapping[str, Any] | None = None
    """What its host answered, if it was asked just now."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A host that was asked and refused."""

    host: str
    code: str
    reason: str

    @property
    def document(self) -> dict[str, str]:
        return {"host": self.host, "code": self.code, "reason": self.reason}


@dataclass(slots=True)
class _Flight:
    """A deploy under way, and what its namesakes wait for."""

    spec: VmSpec
    answer: asyncio.Future[Placement | RefusedError]


class Placer:
    """Deploys; every refusal is a RefusedError."""

    def __init__(
        self,
        fleet: Fleet,
        book: Book,
        calls: HostCalls,
        settler: Settler,
        ranker: Ranker,
        events: EventLog,
        *,
        policy: Policy,
        fresh_id: Callable[[], str],
        caught_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._calls = calls
        self._settler = settler
        self._ranker = ranker
        self._events = events
        self._policy = policy
        self._fresh_id = fresh_id
        self._caught_up = caught_up
        self._flights: dict[str, _Flight] = {}
        self.outcomes: dict[str, int] = {}
        """How many deploys ended how: ``placed``, or the code of the refusal."""

    async def deploy(self, spec: VmSpec, order: Order) -> Placement:
        """Place *spec*, or find it placed already."""
        flight = self._flights.get(spec.name)
        if flight is not None:
            if not same_request(flight.spec, spec):
                raise NameTaken(spec.name)
            answer = await asyncio.shield(flight.answer)
            if isinstance(answer, RefusedError):
                raise answer
            return replace(answer, created=False)
        flight = _Flight(spec, asyncio.get_running_loop().create_future())
        self._flights[spec.name] = flight
        answer = in_doubt(HostUnreachable("the deploy was interrupted; repeat the same request"))
        try:
            async with self._book.turn(spec.name):
                answer = await self._deploy(spec, order)
        except RefusedError as problem:
            answer = problem
            raise
        finally:
            del self._flights[spec.name]
            flight.answer.set_result(answer)
            self._count("placed" if isinstance(answer, Placement) else answer.code)
        return answer

    def explain(self, spec: VmSpec, order: Order) -> tuple[Policy, str | None, list[Verdict]]:
        """The policy, the host *spec* would be tried on first, and what every host was found.

        Raises NameTaken as a deploy would.
        """
        policy = self._chosen(order)
        there = self._book.find(spec.name)
        if there is not None and not same_request(there.spec, spec):
            raise NameTaken(spec.name)
        wishes = resolved(order, spec, self._fleet, self._book)
        shape = shape_of(spec)
        row = self._ranker.best(shape, policy, wishes)
        host = None if row is None else self._fleet.of_row(row).name
        verdicts = self._ranker.explain(shape, policy, wishes, self._fleet.reasons)
        return policy, host, [each for each in verdicts if self._fleet.knows(each.host)]

    async def _deploy(self, spec: VmSpec, order: Order) -> Placement:
        policy = self._chosen(order)
        there = self._book.find(spec.name)
        if there is not None:
            there = await self._repeated(there, spec)
            if there is not None:
                return Placement(there, created=False)
        if hosts := self._book.seen_on(spec.name):
            raise _taken(spec.name, f"it was found on host {hosts[0]}")
        self._ranker.arrived(shape_of(spec))
        promise = Promise(
            key=self._fresh_id(),
            spec=spec,
            host="",
            status=Status.PENDING,
            attempt="",
            settled=False,
        )
        return await self._try_hosts(promise, policy, order)

    async def _repeated(self, there: Promise, spec: VmSpec) -> Promise | None:
        """The promise that answers *spec* already; None if it may be tried anew."""
        if not same_request(there.spec, spec):
            raise NameTaken(spec.name)
        if there.status in (Status.PENDING, Status.UNKNOWN):
            there = await self._settler.settle(there)
        match there.status:
            case Status.GONE:
                return None
            case Status.REMOVING:
                raise _taken(spec.name, f"it is still to be removed from host {there.host}")
            case Status.LOST:
                raise WrongState(
                    f"VM {spec.name!r} was placed on host {there.host} and is there no longer"
                    f" ({there.reason}); remove it, then deploy it again"
                )
            case Status.PENDING | Status.UNKNOWN:
                self._settler.pursue(spec.name)
                raise _unknown(there)
        return there

    async def _try_hosts(self, promise: Promise, policy: Policy, order: Order) -> Placement:
        shape = shape_of(promise.spec)
        tried: dict[int, Attempt] = {}
        while len(tried) < MOST_HOSTS:
            try:
                host = await self._choose(promise.spec, shape, policy, order, tried)
                if host is None:
                    break
                promise = await self._begin(promise, host, shape)
            except RefusedError:
                # what was asked before has refused, so that nobody has it
                await self._abandon(promise, tried)
                raise
            outcome = await self._asked(host, promise)
            if outcome.meaning is Meaning.UNKNOWN:
                outcome = await self._settled(host, promise, outcome)
            if outcome.meaning is Meaning.DONE:
                return await self._commit(host, promise, outcome)
            self._fleet.release(host, promise.attempt)
            tried[host.row] = Attempt(host.name, outcome.code, outcome.reason)
            if outcome.meaning is Meaning.REFUSED:
                await self._abandon(promise, tried)
                raise HostRefused(host.name, outcome.code, outcome.reason)
        await self._abandon(promise, tried)
        raise self._refusal(promise.spec, shape, order, list(tried.values()))

    async def _choose(
        self,
        spec: VmSpec,
        shape: Shape,
        policy: Policy,
        order: Order,
        tried: Mapping[int, Attempt],
    ) -> Host | None:
        """The host to try; nothing is awaited between the choice and the return."""
        wishes = resolved(order, spec, self._fleet, self._book)
        row = self._ranker.best(shape, policy, wishes, tried)
        if row is None:
            # what was removed a moment ago may have left room that no poll has seen yet
            await self._caught_up()
            wishes = resolved(order, spec, self._fleet, self._book)
            row = self._ranker.best(shape, policy, wishes, tried)
        if row is None:
            return None
        self._ranker.placed(policy, row)
        return self._fleet.of_row(row)

    async def _begin(self, promise: Promise, host: Host, shape: Shape) -> Promise:
        """*promise*, written down as being tried on *host*, whose room is reserved."""
        trying = replace(promise, host=host.name, attempt=self._attempt_id(host))
        self._fleet.reserve(host, trying.attempt, trying.name, shape)
        self._book.intend(trying)
        try:
            return await self._book.put(trying)
        except RefusedError:
            self._fleet.release(host, trying.attempt)
            raise
        finally:
            self._book.drop_intent(trying)

    async def _asked(self, host: Host, promise: Promise) -> Outcome:
        """What *host* answers, unless it was closed while *promise* was written: fenced, say."""
        if closed := self._fleet.closed(host):
            return Outcome(Meaning.ELSEWHERE, "host-unreachable", f"it {closed}")
        return await self._calls.deploy(host, promise.spec, promise.attempt)

    async def _commit(self, host: Host, promise: Promise, outcome: Outcome) -> Placement:
        self._fleet.hold(host, promise.attempt)
        try:
            placed = await self._book.put(promise, status=Status.PLACED, settled=True)
        except NotLeader as problem:
            raise lead_lost() from problem
        except StoreUnavailable as problem:
            self._leave_unknown(promise, str(problem))
            fault = StoreUnavailable(
                f"host {host.name} has it, but that could not be written down ({problem});"
                " repeat the same request"
            )
            raise in_doubt(fault) from problem
        self._events.record("deployed", vm=placed.name, host=host.name, id=placed.attempt)
        return Placement(placed, created=True, said=outcome.document)

    async def _settled(self, host: Host, promise: Promise, outcome: Outcome) -> Outcome:
        """An outcome nobody knows, settled at once if the host can tell; raises HostUnreachable
        if it cannot, and the promise stays unknown until it can."""
        there = await self._calls.settle(host, promise) if host.typed else None
        if there is not None:
            if there:
                return Outcome(Meaning.DONE)
            return Outcome(Meaning.ELSEWHERE, "host-unreachable", outcome.reason)
        promise = self._leave_unknown(promise, outcome.reason)
        # failing that it is written down as pending, which the next start takes for unknown
        with suppress(StoreUnavailable, NotLeader):
            promise = await self._book.put(promise)
        self._events.record(
            "unknown", vm=promise.name, host=host.name, reason=outcome.reason, id=promise.attempt
        )
        raise _unknown(promise)

    async def _abandon(self, promise: Promise, tried: Mapping[int, Attempt]) -> None:
        """Nobody has it: free the name, now or when the store takes it."""
        if not tried:
            return
        try:
            await self._book.put(promise, status=Status.GONE, settled=True)
        except NotLeader:
            pass  # whoever leads asks its host, and frees the name
        except StoreUnavailable as problem:
            self._leave_unknown(promise, str(problem), settled=True)

    def _leave_unknown(self, promise: Promise, reason: str, *, settled: bool = False) -> Promise:
        """*settled* if nobody has it, which only could not be written down."""
        self._settler.pursue(promise.name)
        return self._book.believe(
            replace(promise, status=Status.UNKNOWN, settled=settled, reason=reason)
        )

    def _refusal(
        self, spec: VmSpec, shape: Shape, order: Order, tried: list[Attempt]
    ) -> RefusedError:
        if not tried:
            if not self._fleet.anyone_up:
                return HostUnreachable(
                    "no host is up; look at /v1/hosts, and repeat the request when one is"
                )
            wishes = resolved(order, spec, self._fleet, self._book)
            why = self._ranker.why_none(shape, wishes, self._fleet.reasons)
            mend = "leave the host to us" if order.host else "ask for less, try later or add hosts"
            return NoCapacity(f"{why}; {mend}")
        last = tried[-1]
        codes = [each.code for each in tried]
        code = "no-capacity" if "no-capacity" in codes else last.code
        asked = "; ".join(f"host {each.host}: {each.reason}" for each in tried)
        refusal: RefusedError
        if code == "no-capacity":
            refusal = NoCapacity(f"no host had room when asked: {asked}")
        elif code == "host-unreachable":
            refusal = HostUnreachable(f"no host could be asked: {asked}")
        else:
            refusal = HostRefused(last.host, code, last.reason)
        refusal.details = {"attempts": [each.document for each in tried]}
        return refusal

    def _chosen(self, order: Order) -> Policy:
        if not order.policy:
            return self._policy
        try:
            return parse_policy(order.policy)
        except ValueError as problem:
            raise BadRequest(f"field 'policy': {problem}") from None

    def _attempt_id(self, host: Host) -> str:
        return self._fresh_id() if host.typed else PUBLISHED + self._fresh_id()

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def _taken(name: str, why: str) -> NameTaken:
    return NameTaken(name, f"the name {name!r} is taken: {why}; choose another one")


def _unknown(promise: Promise) -> HostUnreachable:
    why = promise.reason or "it cannot be reached"
    return ask_again(
        HostUnreachable,
        f"host {promise.host} did not say what became of {promise.name!r} ({why})",
    )
