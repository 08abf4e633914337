"""Looking at every host again and again: how it is, who it is, and whether it has what it should.

Each address has a time of its own; a few workers do the asking, so that a thousand hosts are not
asked at once and a hundred that hang take only a hundred places.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

from schedulercommon.errors import NotLeader, RefusedError
from schedulerglobal.book import Book
from schedulerglobal.core.health import Health
from schedulerglobal.core.promises import Status
from schedulerglobal.core.reconcile import corrected
from schedulerglobal.core.view import shape_of
from schedulerglobal.fleet import Address, Fleet, Host
from schedulerglobal.identity import identified
from schedulerglobal.ports import HostClient, NoAnswer, NotSent, Report
from schedulerglobal.settling import Settler
from schedulerprocess.events import EventLog

WORKERS = 256
EARLIEST, LATEST = 0.8, 0.97
"""A host is polled again after this part of the delay, by chance, so that hosts begun together do
not stay together, and none waits for longer than the delay."""
SOON_S = 0.1
"""A host that changed is looked at after so long, which gathers changes that come together."""
CATCH_UP_S = 0.3
"""Who wants to know where room came free waits for those looks at most so long."""
FIRST_WAIT_S = 0.5
"""Where nobody answered yet, the second look comes after about twice that, then ever later."""
ANEW_EVERY = 40
"""Every so many looks an older host is asked for the typed routes: it may have been renewed."""

_log = logging.getLogger(__name__)


class Poller:
    """Polls the addresses of a fleet until cancelled."""

    def __init__(
        self,
        fleet: Fleet,
        book: Book,
        client: HostClient,
        events: EventLog,
        *,
        delay_s: float,
        monotonic_s: Callable[[], float],
        rng: Random,
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._client = client
        self._events = events
        self._delay_s = delay_s
        self._monotonic_s = monotonic_s
        self._rng = rng
        self._due: asyncio.Queue[Address] = asyncio.Queue()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._soon: set[str] = set()
        """Addresses that are to be looked at because something changed there, until they are."""
        self._freed: dict[str, asyncio.Future[None]] = {}
        """Those where room came free, until they were looked at."""
        self.first_round = asyncio.Event()
        """Set once every address was looked at."""
        self.polls = 0

    async def run(self, settler: Settler) -> None:
        """Look at all addresses now, and then each after its delay."""
        async with asyncio.TaskGroup() as workers:
            for address in self._fleet.addresses.values():
                self._due.put_nowait(address)
            self._note_round()
            for number in range(WORKERS):
                workers.create_task(self._work(settler), name=f"poll {number}")

    def expect(self, address: Address) -> None:
        """Poll *address* from now on."""
        self._arm(address, self._delay_s)

    def soon(self, host: Host) -> None:
        """Look at *host* in a moment: something changed there."""
        address = self._fleet.address_of(host)
        if address is None or address.url in self._soon:
            return
        self._soon.add(address.url)
        if address.url in self._timers:
            self._arm(address, SOON_S)

    def strangers_soon(self) -> None:
        """Look in a moment at the addresses where nobody is known: somebody may be new there, and
        could not be written down before."""
        for address in self._fleet.addresses.values():
            if address.host is None and address.url in self._timers:
                self._arm(address, SOON_S)

    def freed(self, host: Host) -> None:
        """Look at *host* in a moment: it has more room than it said."""
        self.soon(host)
        if host.url in self._soon and not host.slow and not host.missed:
            self._freed.setdefault(host.url, asyncio.get_running_loop().create_future())

    async def caught_up(self) -> None:
        """Wait a moment for the hosts where room came free to have been looked at."""
        if self._freed:
            await asyncio.wait(self._freed.values(), timeout=CATCH_UP_S)

    def _arm(self, address: Address, after_s: float) -> None:
        timer = self._timers.pop(address.url, None)
        if timer is not None:
            timer.cancel()
        self._timers[address.url] = asyncio.get_running_loop().call_later(
            after_s, self._fall_due, address
        )

    def _fall_due(self, address: Address) -> None:
        self._timers.pop(address.url, None)
        if self._fleet.addresses.get(address.url) is address:
            self._due.put_nowait(address)

    async def _work(self, settler: Settler) -> None:
        while True:
            address = await self._due.get()
            self._soon.discard(address.url)
            freed = self._freed.pop(address.url, None)
            try:
                await self._look(address, settler)
            except Exception:  # noqa: BLE001  # one host's oddity must not end the polling
                _log.exception("polling %s failed; it is tried again", address.url)
                self._missed(address, address.host, "its answer could not be taken in")
            finally:
                if freed is not None:
                    freed.set_result(None)
            address.looked = True
            self._note_round()
            jitter = self._rng.uniform(EARLIEST, LATEST)
            wait_s = SOON_S if address.url in self._soon else self._wait_s(address) * jitter
            self._arm(address, wait_s)

    def _wait_s(self, address: Address) -> float:
        """Until the next look; shorter at first where nobody answered yet, who may be starting."""
        if address.host is not None:
            return self._delay_s
        return min(self._delay_s, FIRST_WAIT_S * 2.0 ** min(address.looks, 16))

    def _note_round(self) -> None:
        if not self.first_round.is_set() and all(
            address.looked for address in self._fleet.addresses.values()
        ):
            self.first_round.set()

    async def _look(self, address: Address, settler: Settler) -> None:
        host = address.host
        before = host.report if host is not None else None
        address.looks += 1
        if host is not None and (
            host.look_anew or host.missed or (not host.typed and address.looks % ANEW_EVERY == 0)
        ):
            before = None
        begun_s, changes = self._monotonic_s(), self._book.changes
        self.polls += 1
        try:
            report = await self._client.look(address.url, before)
        except (NotSent, NoAnswer) as problem:
            self._missed(address, host, str(problem))
            return
        try:
            await self.take_in(address, report, begun_s, changes, settler)
        except NotLeader:
            pass  # the one that leads sees it too
        except RefusedError as problem:
            _log.warning("what %s says could not be written down: %s", address.url, problem)

    async def take_in(
        self,
        address: Address,
        report: Report | None,
        begun_s: float,
        changes: int,
        settler: Settler,
    ) -> None:
        """Believe what was answered at *address*, which was asked at *begun_s* (monotonic), after
        so many *changes* of the book; raises StoreUnavailable."""
        host = address.host
        if report is not None:
            host = await identified(address, report, self._fleet, self._book, self._events)
        if host is None:
            return
        was = host.health
        names = report.names if report is not None else self._book.seen(host.name)
        self._fleet.take_in(host, report, begun_s)
        self._note_health(host, was)
        await self._compare(host, names, changes)
        settler.pursue_all(host)

    async def _compare(self, host: Host, names: frozenset[str], changes: int) -> None:
        """Correct what was promised of *host* by the VMs it has."""
        told, names = names, self._book.left_of(host.name, names, changes)
        for name in sorted(self._book.see(host.name, names)):
            promise = self._book.find(name)
            if promise is not None and (promise.host != host.name or host.record.fenced):
                self._events.record("conflict", vm=name, host=host.name, promised_on=promise.host)
        wrong, again = corrected(
            [p for p in self._book.of_host(host.name) if not self._book.busy(p.name)],
            names,
            changed_since=lambda name: self._book.changed_after(name, changes),
            typed=host.typed,
            fenced=host.record.fenced,
        )
        host.look_anew = again or names is not told
        self._reserve_unknown(host)
        if wrong:
            await asyncio.gather(
                *[self._correct(each.name, names, changes, host) for each in wrong]
            )

    def _reserve_unknown(self, host: Host) -> None:
        """Count what may yet turn out to be on *host*, as after a restart."""
        for promise in self._book.of_host(host.name):
            counted = promise.attempt in host.reserved or promise.name in self._book.seen(host.name)
            if promise.status is Status.UNKNOWN and not counted:
                self._fleet.reserve(host, promise.attempt, promise.name, shape_of(promise.spec))

    async def _correct(self, name: str, names: frozenset[str], changes: int, host: Host) -> None:
        async with self._book.turn(name):
            promise = self._book.find(name)
            if promise is None or promise.host != host.name:
                return
            wrong, _ = corrected(
                [promise],
                names,
                changed_since=lambda each: self._book.changed_after(each, changes),
                typed=host.typed,
                fenced=host.record.fenced,
            )
            for after in wrong:
                await self._book.put(after)
                if after.status is not promise.status:
                    kind = "removed" if after.status is Status.GONE else after.status.value
                    self._events.record(kind, vm=name, host=host.name, reason=after.reason)

    def _missed(self, address: Address, host: Host | None, problem: str) -> None:
        if host is None:
            if address.problem != problem:
                _log.warning("nobody known answers at %s: %s", address.url, problem)
            address.problem = problem
            return
        was = host.health
        self._fleet.missed(host, problem, self._delay_s / 2)
        self._note_health(host, was)

    def _note_health(self, host: Host, was: Health) -> None:
        if host.health is not was:
            self._events.record(
                "host", host=host.name, state=host.state, was=was, reason=host.problem
            )
            if host.health is not Health.UP:
                _log.warning("host %s is %s: %s", host.name, host.health, host.problem)
