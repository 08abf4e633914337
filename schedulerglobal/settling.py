"""Finishing what was begun: unknown outcomes are settled with their host, accepted removals are
carried out, again and again until the host has answered.

One pursuit per VM, a few at a time per host, ever less often; a host that does not answer is left
alone until a poll finds it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from schedulercommon.errors import RefusedError
from schedulerglobal.book import Book
from schedulerglobal.calls import HostCalls
from schedulerglobal.core.outcomes import Meaning, Outcome
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.core.retries import RetryBudget, retry_after_s
from schedulerglobal.fleet import Fleet, Host
from schedulerglobal.office import Office
from schedulerprocess.events import EventLog

AT_ONCE_PER_HOST = 4

_log = logging.getLogger(__name__)


class Settler:
    """Settles promises; all its methods want the name's turn to be held, but for pursuits."""

    def __init__(
        self,
        fleet: Fleet,
        book: Book,
        calls: HostCalls,
        events: EventLog,
        office: Office,
        *,
        sleep: Callable[[float], Coroutine[Any, Any, None]],
        monotonic_s: Callable[[], float],
        rng: Random,
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._calls = calls
        self._events = events
        self._office = office
        self._sleep = sleep
        self._rng = rng
        self._pursuits: dict[str, asyncio.Task[None]] = {}
        self._gates: dict[int, asyncio.Semaphore] = {}
        self._budget = RetryBudget(monotonic_s)

    async def leave_off(self) -> None:
        """What is unfinished is taken up by the next start, or whoever leads next."""
        tasks = list(self._pursuits.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self, promise: Promise) -> Promise:
        """Learn what became of an unknown attempt: placed, gone, or unknown as before.

        Raises StoreUnavailable.
        """
        if promise.status is Status.UNKNOWN and promise.settled:
            return await self._book.put(promise, status=Status.GONE, reason="")
        host = self._fleet.find(promise.host)
        if host is None or not host.answers:
            return promise
        there = await self._calls.settle(host, promise)
        if there is None:
            return promise
        if there:
            self._fleet.hold(host, promise.attempt)
            settled = await self._book.put(promise, status=Status.PLACED, settled=True, reason="")
        else:
            self._fleet.release(host, promise.attempt)
            settled = await self._book.put(promise, status=Status.GONE, settled=True)
        self._events.record(
            "settled", vm=promise.name, host=host.name, status=settled.status, id=promise.attempt
        )
        return settled

    async def remove(self, promise: Promise) -> tuple[Promise, Outcome]:
        """Go on with the removal of *promise*, which was accepted: gone, or removing as before.

        Raises StoreUnavailable.
        """
        host = self._fleet.find(promise.host)
        if host is None or not host.answers:
            where = f"host {promise.host} does not answer"
            return promise, Outcome(Meaning.UNKNOWN, "host-unreachable", where)
        if not promise.settled:
            there = await self._calls.settle(host, promise)
            if there is None:
                return promise, Outcome(
                    Meaning.UNKNOWN, reason=f"host {host.name} may still be at work on its deploy"
                )
            if not there:
                return await self._gone(host, promise), Outcome(Meaning.DONE)
        outcome = await self._calls.remove(host, promise.name, promise.attempt)
        if outcome.meaning is Meaning.DONE:
            return await self._gone(host, promise), outcome
        return promise, outcome

    async def _gone(self, host: Host, promise: Promise) -> Promise:
        self._fleet.release(host, promise.attempt)
        self._book.take_away(host.name, promise.name)
        gone = await self._book.put(promise, status=Status.GONE, settled=True, reason="")
        self._events.record("removed", vm=promise.name, host=host.name)
        return gone

    def pursue_all(self, host: Host) -> None:
        """Take up what is unfinished on *host*, which answers."""
        if not self._office.held:
            return
        for promise in self._book.of_host(host.name):
            if not self._book.busy(promise.name) and self._wants_work(promise, host):
                self.pursue(promise.name)

    def pursue(self, name: str) -> None:
        """Go on with *name* until it is finished or its host is away."""
        if name not in self._pursuits:
            task = asyncio.create_task(self._pursue(name), name=f"pursue {name}")
            self._pursuits[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._pursuits.pop(name, None)
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.error("going on with %s failed unexpectedly", name, exc_info=problem)

    async def _pursue(self, name: str) -> None:
        tries = 0
        while True:
            await self._sleep(retry_after_s(tries, self._rng) + self._budget.wait_s())
            promise = self._book.find(name)
            host = self._fleet.find(promise.host) if promise is not None else None
            if host is None or not host.answers:
                return
            async with self._gate(host), self._book.turn(name):
                promise = self._book.find(name)
                if promise is None or not self._wants_work(promise, host) or not self._office.held:
                    return
                try:
                    if promise.status is Status.REMOVING:
                        await self.remove(promise)
                    else:
                        await self.settle(promise)
                except RefusedError as problem:
                    _log.warning("going on with %s failed: %s", name, problem)
            tries += 1

    def _wants_work(self, promise: Promise, host: Host) -> bool:
        """Whether asking *host* would further *promise*. What an older local scheduler is still
        at work on shows in its list of VMs, which polls look at."""
        if promise.host != host.name or (not host.typed and not promise.settled):
            return False
        # nobody is placing it, or its turn would not have been had
        return promise.status in (Status.PENDING, Status.UNKNOWN, Status.REMOVING)

    def _gate(self, host: Host) -> asyncio.Semaphore:
        return self._gates.setdefault(host.row, asyncio.Semaphore(AT_ONCE_PER_HOST))
