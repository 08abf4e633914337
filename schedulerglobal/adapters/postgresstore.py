"""The store as a PostgreSQL database that several global schedulers share.

Who leads is a row with a lease, by the database's clock. What may be waited for is waited for with
patience, and no more: a connection that does not answer is dropped, not asked to give up. A
transaction of somebody who was cut off in the middle is ended by the database, or nobody could take
the lead from it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import asyncpg

from schedulercommon.errors import InputError, StoreUnavailable
from schedulerglobal.adapters.addresses import shown_address
from schedulerglobal.adapters.postgresfaults import AWAY, NONSENSE, opening_fault, refusal
from schedulerglobal.adapters.postgresschema import (
    CLOCK,
    HOSTS,
    LATEST,
    LEASE,
    LEASE_TO_CHANGE,
    PROMISES,
    PROMISES_SINCE,
    RENEW,
    RESIGN,
    RESIGNED,
    SHARES,
    TAKE,
)
from schedulerglobal.adapters.postgressetup import prepare
from schedulerglobal.adapters.postgreswriter import ENDING_S, Connection, Writer
from schedulerglobal.adapters.rows import read_hosts, read_promises, read_shares
from schedulerglobal.ports import Change, Contents, News, Standing

POOL = 4
"""Connections that read and campaign; one more writes, one more listens."""
CAMPAIGNS_A_LEASE = 3
"""One that takes longer is given up, and another tried while the lease lasts."""
CLOCKS_APART_S = 60.0
"""Worth a word: times that are shown would be wrong by so much. Nothing else depends on them."""

_log = logging.getLogger(__name__)


class PostgresStore:
    """The store at *url*, of the cluster called *cluster*.

    *patience_s* is how long any answer of the database is waited for.
    """

    def __init__(
        self,
        url: str,
        cluster: str,
        patience_s: float = 5.0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._cluster = cluster
        self._patience_s = patience_s
        self._now_s = now_s
        self._called = shown_address(url)
        self._holder = uuid4().hex
        self._news = asyncio.Event()
        """Somebody resigned, we perhaps."""
        self._closed = False
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._writer: Writer | None = None
        self._listener: Connection | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> Contents:
        assert self._pool is None, "a store is opened once"
        try:
            connection = await self._connect()
            try:
                await prepare(connection, self._called, self._cluster)
                self._compare_clocks(await connection.fetchval(CLOCK))
            finally:
                connection.terminate()
            self._pool = asyncpg.create_pool(self._url, min_size=0, max_size=POOL, **self._limits())
            await self._pool
        except (*AWAY, *NONSENSE) as problem:
            raise opening_fault(self._called, problem) from problem
        self._writer = Writer(
            self._connect,
            self._news.set,
            called=self._called,
            holder=self._holder,
            patience_s=self._patience_s,
        )
        news = await self.news(None)
        assert news.hosts is not None
        return Contents(news.hosts, news.promises, news.shares or ())

    async def write(self, *changes: Change) -> None:
        """A caller that stops waiting does not stop its write."""
        if self._closed:
            raise StoreUnavailable(f"the store {self._called} is closed; start again")
        await self._opened.write(changes)

    async def close(self) -> None:
        """Gives up the lead once all is written."""
        self._closed = True
        if self._writer is not None:
            await self._writer.close()
            with suppress(StoreUnavailable):  # then the lease runs out
                await self.resign()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        if self._listener is not None:
            self._listener.terminate()
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), ENDING_S)
            except AWAY:
                self._pool.terminate()

    @property
    def _opened(self) -> Writer:
        assert self._writer is not None, "a store is opened before it is used"
        return self._writer

    def _compare_clocks(self, theirs_s: float) -> None:
        apart_s = self._now_s() - theirs_s
        if abs(apart_s) > CLOCKS_APART_S:
            _log.warning(
                "the clock here is %.0f s %s that of the store %s, so times that are shown are"
                " wrong by as much; set both by NTP",
                abs(apart_s),
                "ahead of" if apart_s > 0 else "behind",
                self._called,
            )

    # --- who leads ---

    async def campaign(
        self, url: str, lease_s: float, *, anew: bool = False, leading: bool = False
    ) -> Standing:
        writer = self._opened
        within_s = min(lease_s / CAMPAIGNS_A_LEASE, self._patience_s)
        async with self._reading(within_s) as connection:
            if (epoch := writer.epoch) is not None and not anew:
                renewed = await connection.execute(RENEW, epoch, self._holder, lease_s, url)
                # a write may have lost touch meanwhile
                if renewed == "UPDATE 1" and writer.epoch == epoch:
                    return Standing(epoch, True, url, lease_s, renewed=True)
            if writer.epoch is not None:
                writer.give_up()
            standing = await self._standing(connection, LEASE)
            if leading or (not standing.mine and standing.left_s > 0):
                return standing
            async with connection.transaction():
                standing = await self._standing(connection, LEASE_TO_CHANGE)
                if not standing.mine and standing.left_s > 0:
                    return standing
                # from ourselves too, and at once: to begin anew
                epoch = await connection.fetchval(TAKE, self._holder, url, lease_s)
            assert epoch is not None, "it was updated"
            writer.lead(epoch)
            return Standing(epoch, True, url, lease_s)

    async def _standing(self, connection: Connection, text: str) -> Standing:
        row = await connection.fetchrow(text)
        if row is None:
            raise self._damaged()
        epoch, holder, url, left_s = row
        return Standing(epoch, holder == self._holder, url, left_s)

    async def resign(self) -> None:
        epoch = self._opened.epoch
        if epoch is None:
            return
        self._opened.give_up()
        async with self._reading(self._patience_s) as connection:
            await connection.execute(RESIGN, epoch, self._holder)
            await connection.execute(f"NOTIFY {RESIGNED}")

    async def leaderless(self, within_s: float) -> None:
        listened = self._listener is not None and not self._listener.is_closed()
        if not listened and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._listen(), name="listen")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), within_s)
        self._news.clear()

    async def _listen(self) -> None:
        with suppress(*AWAY):  # the next wait tries again
            listener = await self._connect()
            try:
                await listener.add_listener(RESIGNED, lambda *_: self._news.set())
            except BaseException:
                listener.terminate()
                raise
            self._listener = listener

    async def news(self, since: int | None) -> News:
        async with self._reading(self._patience_s) as connection:
            # all as of one moment
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                latest = await connection.fetchrow(LATEST)
                if latest is None:
                    raise self._damaged()
                upto, hosts_change = latest
                if since is None:
                    promises = await connection.fetch(PROMISES)
                elif upto > since:
                    promises = await connection.fetch(PROMISES_SINCE, since)
                else:
                    promises = []
                hosts, shares = None, None
                if since is None or hosts_change > since:
                    hosts = read_hosts(await connection.fetch(HOSTS), self._called)
                    shares = read_shares(await connection.fetch(SHARES), self._called)
            read = read_promises(promises, self._called)
            return News(upto, read, hosts, shares, whole=since is None)

    @asynccontextmanager
    async def _reading(self, within_s: float) -> AsyncIterator[Connection]:
        """A connection, for so long."""
        assert self._pool is not None, "a store is opened before it is used"
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            connection.terminate()

        try:
            async with asyncio.timeout(within_s):
                connection = await self._pool.acquire()
            timer = asyncio.get_running_loop().call_later(within_s, give_up)
            try:
                yield connection
            finally:
                timer.cancel()
                await self._pool.release(connection, timeout=ENDING_S)
        except AWAY as problem:
            raise refusal(self._called, TimeoutError() if late else problem) from problem
        except AttributeError as problem:
            if not late:
                raise
            # the library stumbles over a connection that was dropped between two of its steps
            raise refusal(self._called, TimeoutError()) from problem

    async def _connect(self) -> Connection:
        return await asyncpg.connect(self._url, **self._limits())

    def _limits(self) -> dict[str, object]:
        idle_ms = max(round(self._patience_s * 400), 1)
        return {
            "timeout": self._patience_s,
            "command_timeout": self._patience_s,
            "server_settings": {
                "application_name": "vmstack",
                "idle_in_transaction_session_timeout": str(idle_ms),
            },
        }

    def _damaged(self) -> InputError:
        return InputError(
            f"the store {self._called} is damaged: it does not say who leads; restore a copy of it,"
            " or drop its schema vmstack to begin anew"
        )
