"""Asking hosts for changes: each answer becomes an outcome, and how a host behaved is noted.

A host that takes long, or whose answer was lost, is not preferred until that is over; one that
refuses a connection gets nothing new until a poll finds it again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import replace

from schedulercommon.model import VmSpec
from schedulerglobal.core.outcomes import (
    Meaning,
    Outcome,
    Reply,
    deploy_outcome,
    remove_outcome,
)
from schedulerglobal.core.promises import Promise
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.ports import HostClient, NoAnswer, NotAllowed, NotSent

SLOW_S = 2.0
SETTLE_S = 10.0
"""Whoever repeats a request of unknown outcome waits at most so long for it to be settled."""
LOST_TRACK_S = 10.0
"""How long others are preferred to a host that did not say what became of a deploy."""
MOST_CALLS = 96
"""Changes asked of one host at once, beyond which it is asked for no more: were it to hang, those
are all that hang with it."""
MOST_SLOW = 128
"""Calls of all hosts that take long, beyond which slow hosts are asked for no more: half of the
changes that may be under way at all are for the others."""
PUBLISHED = "published:"
"""Begins the ids of attempts made by the published routes, which carry none to the host."""

_CONGESTED = Outcome(
    Meaning.ELSEWHERE, "overloaded", "too many changes are asked of it already; try again later"
)
_THERE = {"deployed": True, "removed": False, "undone": False, "cancelled": False}


class HostCalls:
    """Changes asked of hosts. None of these raises."""

    def __init__(
        self,
        client: HostClient,
        fleet: Fleet,
        *,
        moved: Callable[[Host], None],
        freed: Callable[[Host], None],
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._moved = moved
        """Told of a host that is worth another poll soon."""
        self._freed = freed
        """Told of one that has more room now than its status says."""

    async def deploy(self, host: Host, spec: VmSpec, attempt: str) -> Outcome:
        """Ask *host* for *spec*; never ``ASK``."""
        if self._congested(host):
            return _CONGESTED
        with _Watch(self._fleet, host):
            try:
                reply = await self._client.deploy(host.site, replace(spec, request_id=attempt))
            except NotSent as problem:
                return self._not_sent(host, problem)
            except NoAnswer as problem:
                self._lost_track(host)
                return self._no_answer(host, problem)
            outcome = deploy_outcome(reply, spec.name)
            if outcome.meaning is Meaning.ASK:
                self._fleet.refused(host, sure=False)
                outcome = await self._asked(host, spec.name, outcome.reason)
            elif outcome.code == "no-capacity":
                self._fleet.refused(host, sure=True)
            if outcome.meaning is Meaning.DONE:
                host.refusals = 0
                return outcome
            if outcome.meaning is Meaning.UNKNOWN:
                self._lost_track(host)
            self._moved(host)
            return outcome

    async def remove(self, host: Host, name: str, attempt: str = "") -> Outcome:
        """Have *host* remove the VM called *name*, which *attempt* made; never ``ASK``."""
        if self._congested(host):
            return _CONGESTED
        with _Watch(self._fleet, host):
            try:
                reply = await self._client.remove(host.site, name, attempt)
            except NotSent as problem:
                return self._not_sent(host, problem)
            except NoAnswer as problem:
                return self._no_answer(host, problem)
            outcome = remove_outcome(reply)
            if outcome.meaning is Meaning.ASK:
                there = await self._has(host, name)
                reason = outcome.reason
                if there is None:
                    return Outcome(Meaning.UNKNOWN, reason=reason)
                if there:
                    return Outcome(Meaning.REFUSED, "hypervisor-failed", reason)
                return Outcome(Meaning.DONE)
            if outcome.meaning is Meaning.DONE:
                self._freed(host)
            return outcome

    async def settle(self, host: Host, promise: Promise) -> bool | None:
        """Whether the VM of *promise*'s attempt is on *host*; None if that cannot be told yet.

        False means also that it never will be.
        """
        if not host.typed:
            # an older local scheduler may still be at work on it
            return await self._has(host, promise.name) or None
        if promise.attempt.startswith(PUBLISHED):
            # it knows the typed routes by now, so it was started anew and is at work on nothing
            return await self._has(host, promise.name)
        try:
            async with asyncio.timeout(SETTLE_S):
                reply = await self._client.cancel(host.site, promise.attempt)
        except NotSent as problem:
            self._not_sent(host, problem)
            return None
        except (NoAnswer, TimeoutError):
            return None
        document = reply.document
        outcome = document.get("outcome") if isinstance(document, dict) else None
        return _THERE.get(outcome) if isinstance(outcome, str) else None

    async def pass_on(
        self, host: Host, method: str, path: str, document: dict[str, object] | None = None
    ) -> Reply | Outcome:
        """The host's own answer, or why there is none."""
        if method == "GET":
            return await self._passed_on(host, method, path, document)
        if self._congested(host):
            return _CONGESTED
        with _Watch(self._fleet, host):
            return await self._passed_on(host, method, path, document)

    async def _passed_on(
        self, host: Host, method: str, path: str, document: dict[str, object] | None
    ) -> Reply | Outcome:
        try:
            return await self._client.ask(host.site, method, path, document)
        except NotSent as problem:
            return self._not_sent(host, problem)
        except NoAnswer as problem:
            return Outcome(Meaning.UNKNOWN, "host-unreachable", str(problem))

    def _congested(self, host: Host) -> bool:
        return host.calls >= MOST_CALLS or (host.slow > 0 and self._fleet.slow >= MOST_SLOW)

    def _lost_track(self, host: Host) -> None:
        """*host* did not say what became of a deploy, and may go on like this."""
        self._fleet.busy(host, slow=1)
        later = functools.partial(self._fleet.busy, host, slow=-1)
        asyncio.get_running_loop().call_later(LOST_TRACK_S, later)

    async def _asked(self, host: Host, name: str, reason: str) -> Outcome:
        """What a refusal without a code means, by the host's list of VMs. Such a host says in
        words alone what it lacks; most often that is room."""
        there = await self._has(host, name)
        if there is None:
            return Outcome(Meaning.UNKNOWN, reason=reason)
        if there:
            return Outcome(Meaning.DONE)
        return Outcome(Meaning.ELSEWHERE, "no-capacity", reason)

    async def _has(self, host: Host, name: str) -> bool | None:
        try:
            return name in await self._client.names(host.site)
        except (NotSent, NoAnswer):
            return None

    def _not_sent(self, host: Host, problem: NotSent) -> Outcome:
        if isinstance(problem, NotAllowed):
            return Outcome(Meaning.ELSEWHERE, "host-unreachable", str(problem))
        self._fleet.refused_connection(host, str(problem))
        self._moved(host)
        return Outcome(Meaning.ELSEWHERE, "host-unreachable", str(problem))

    def _no_answer(self, host: Host, problem: NoAnswer) -> Outcome:
        self._moved(host)
        return Outcome(Meaning.UNKNOWN, "host-unreachable", str(problem))


class _Watch:
    """Notes that a host takes long, for as long as it does."""

    __slots__ = ("_fleet", "_host", "_noted", "_timer")

    def __init__(self, fleet: Fleet, host: Host) -> None:
        self._fleet = fleet
        self._host = host
        self._noted = False

    def __enter__(self) -> None:
        self._fleet.busy(self._host, calls=1)
        self._timer = asyncio.get_running_loop().call_later(SLOW_S, self._note)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._fleet.busy(self._host, calls=-1, slow=-1 if self._noted else 0)

    def _note(self) -> None:
        self._noted = True
        self._fleet.busy(self._host, slow=1)
