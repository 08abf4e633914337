"""Several global schedulers on one store: one leads, the others follow and are ready to.

The leader renews its lease several times while it lasts. The others ask as often who leads, take
over what the leader wrote, and take the lead once its lease ran out or it gave up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from schedulercommon.errors import InputError, StoreUnavailable
from schedulerglobal.office import Leader, Office
from schedulerglobal.ports import News, SharedStore, Standing
from schedulerprocess.events import EventLog

TRIES_A_LEASE = 6
CATCH_UP_S = 1.0
ANEW_S = 600.0
"""Who did not hear from the store for so long reads it anew: what was gone may be forgotten."""

_log = logging.getLogger(__name__)


class Follower(Protocol):
    """Who knows the cluster as the store does."""

    def learn(self, news: News) -> None: ...

    def take_over(self) -> None:
        """Lead from now on, all having been learnt."""
        ...

    async def step_down(self) -> None:
        """Lead no longer."""
        ...


class Leadership:
    """Campaigns and follows until cancelled."""

    def __init__(
        self,
        store: SharedStore,
        office: Office,
        follower: Follower,
        events: EventLog,
        *,
        url: str,
        lease_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._office = office
        self._follower = follower
        self._events = events
        self._url = url
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._since: int | None = None
        """What of the store is known; None: nothing that can be built on."""
        self._heard_s = float("-inf")
        self._over = 0
        """The epoch of our last term that is over: another begins under another."""
        self._namesake: tuple[int, float] | None = None
        """The epoch of another that leads under our address, and since when that is seen."""
        self._changing = asyncio.Lock()
        """Held by who begins a term, or ends one, and by who follows."""
        self.tried = asyncio.Event()
        """Set once we tried to lead, and know who does if the store says it."""
        self._asked = self._answered = 0
        """How many wanted to know what was written until then, and how many of them do."""

    async def run(self) -> None:
        every_s = self._lease_s / TRIES_A_LEASE
        watch = asyncio.create_task(self._watch(), name="watch the lease")
        try:
            while True:
                begun_s = self._monotonic_s()
                try:
                    await self._try(begun_s)
                    self._note("")
                except (StoreUnavailable, InputError) as problem:
                    self._note(str(problem))
                except Exception:  # noqa: BLE001  # one odd answer must not end the campaigning
                    _log.exception("campaigning failed; it is tried again")
                    self._note("what the store says cannot be understood; see the log here")
                    async with self._changing:
                        if self._office.began:
                            await self._lost("campaigning failed")
                await self._end_if_over()
                self.tried.set()
                wait_s = every_s - (self._monotonic_s() - begun_s)
                await self._store.leaderless(max(wait_s, every_s / 4))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def caught_up(self) -> None:
        """Know what was written until now, if the store says it within a moment."""
        self._asked += 1
        asked = self._asked
        with suppress(StoreUnavailable, InputError, TimeoutError):
            async with asyncio.timeout(CATCH_UP_S), self._changing:
                if self._answered < asked and not self._office.began and self._since is not None:
                    answering = self._asked
                    await self._follow()
                    self._answered = answering

    async def _try(self, begun_s: float) -> None:
        if not await self._campaign(begun_s):
            await self._campaign(begun_s)

    async def _campaign(self, begun_s: float) -> bool:
        """Whether it is decided who leads: it is not where a term of ours had to end first."""
        standing = await self._store.campaign(
            self._url,
            self._lease_s,
            anew=self._over == self._office.leader.epoch,
            leading=self._office.began,
        )
        leader = Leader(standing.epoch, standing.url)
        async with self._changing:
            if standing.renewed and self._office.held and leader == self._office.leader:
                self._office.extend(begun_s + self._lease_s)
                return True
            if self._office.began:
                why = "whether it wrote is not known" if standing.mine else f"{leader.url} leads"
                await self._lost(why)
            if standing.mine and standing.epoch == self._over:
                return False
            if leader != self._office.leader:
                self._office.follow(leader)
                self._events.record("leader", url=leader.url, epoch=leader.epoch)
            await self._follow()
            if standing.mine and self._monotonic_s() < begun_s + self._lease_s:
                self._office.begin(begun_s + self._lease_s)
                self._follower.take_over()
                _log.info("leading the cluster; epoch %d", leader.epoch)
        self._check_alone(standing)
        return True

    def _check_alone(self, standing: Standing) -> None:
        """Raise InputError if another leads under our address. One that was killed and started
        again finds its own lease there, but not for long."""
        if standing.mine or standing.url != self._url or standing.left_s <= 0:
            self._namesake = None
            return
        now_s = self._monotonic_s()
        if self._namesake is None or self._namesake[0] != standing.epoch:
            self._namesake = standing.epoch, now_s
        if now_s - self._namesake[1] > 2 * self._lease_s:
            raise InputError(
                f"another global scheduler leads the cluster as {self._url}, which is this one's"
                " address; give each an SCG_OWN_URL of its own"
            )

    async def _follow(self) -> None:
        now_s = self._monotonic_s()
        if now_s - self._heard_s > ANEW_S:
            self._since = None
        news = await self._store.news(self._since)
        self._follower.learn(news)
        self._since, self._heard_s = news.upto, now_s

    async def _watch(self) -> None:
        """Ends our term in time even while the store lets us wait."""
        while True:
            await asyncio.sleep(self._lease_s / TRIES_A_LEASE / 2)
            await self._end_if_over()

    async def _end_if_over(self) -> None:
        if self._office.outlived:
            async with self._changing:
                await self._end_outlived()

    async def _end_outlived(self) -> None:
        if self._office.outlived:
            await self._lost("its lease ran out")

    async def _lost(self, why: str) -> None:
        self._since = None
        self._over = self._office.leader.epoch
        self._events.record("leader-lost", epoch=self._over, reason=why)
        await self._office.end()
        await self._follower.step_down()

    def _note(self, problem: str) -> None:
        if problem and problem != self._office.problem:
            _log.warning("who leads is not known: %s", problem)
        if self._office.problem and not problem:
            _log.info("the store answers again")
        self._office.problem = problem
