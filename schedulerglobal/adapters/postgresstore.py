"""The store as a PostgreSQL database that several global schedulers share.

One connection writes, and what waits is written together, as one statement where it can be: many
wait for one fsync. Each write checks in its own transaction that we still lead. A write whose
answer never came may have been taken, so that we give up the lead rather than go on with a memory
that may differ: whoever leads next, we ourselves perhaps, begins by reading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from uuid import uuid4

import asyncpg

from schedulercommon.errors import NameTaken, NotLeader, StoreUnavailable, VmStackError
from schedulerglobal.adapters.postgresfaults import AWAY, opening_fault, refusal, shown_address
from schedulerglobal.adapters.postgresschema import (
    HOSTS,
    IN_OFFICE,
    LATEST,
    LEASE,
    LEASE_TO_CHANGE,
    PROMISES,
    PROMISES_SINCE,
    PUT_PROMISES,
    RENEW,
    RESIGN,
    RESIGNED,
    TAKE,
    statements,
)
from schedulerglobal.adapters.postgressetup import prepare
from schedulerglobal.adapters.rows import promise_values, read_hosts, read_promises
from schedulerglobal.ports import Change, Contents, News, PutPromise, Standing

POOL = 4
"""Connections that read and campaign; one more writes, one more listens."""
MOST_AT_ONCE = 256
"""Writes of one transaction."""

_Waiting = asyncio.Future[None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    changes: Sequence[Change]
    epoch: int
    done: _Waiting

    @property
    def simple(self) -> bool:
        """Whether it can be written with others in one statement."""
        return len(self.changes) == 1 and isinstance(self.changes[0], PutPromise)


class PostgresStore:
    """The store at *url*, of the cluster called *cluster*.

    *patience_s* is how long any answer of the database is waited for.
    """

    def __init__(self, url: str, cluster: str, patience_s: float = 5.0) -> None:
        self._url = url
        self._cluster = cluster
        self._patience_s = patience_s
        self._called = shown_address(url)
        self._holder = uuid4().hex
        self._epoch: int | None = None
        """Of our lead, while we have it as far as we know."""
        self._problem = ""
        """What made us give it up."""
        self._waiting: list[_Job] = []
        self._wake = asyncio.Event()
        self._resigned = asyncio.Event()
        self._closed = False
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._writer: asyncpg.Connection[asyncpg.Record] | None = None
        self._listener: asyncpg.Connection[asyncpg.Record] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def open(self) -> Contents:
        assert self._pool is None, "a store is opened once"
        try:
            connection = await self._connect()
            try:
                await prepare(connection, self._called, self._cluster)
            finally:
                await connection.close()
            self._pool = asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=POOL,
                timeout=self._patience_s,
                command_timeout=self._patience_s,
            )
            await self._pool
        except AWAY as problem:
            raise opening_fault(self._called, problem) from problem
        self._writing = asyncio.create_task(self._write_on(), name="store")
        news = await self.news(None)
        assert news.hosts is not None
        return Contents(news.hosts, news.promises)

    async def write(self, *changes: Change) -> None:
        """A caller that stops waiting does not stop its write."""
        if self._closed:
            raise StoreUnavailable(f"the store {self._called} is closed; start again")
        assert self._writing is not None, "a store is opened before it is written"
        if self._epoch is None:
            raise StoreUnavailable(self._problem) if self._problem else _not_leader()
        if not any(statements(change) for change in changes):
            return
        done: _Waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(changes, self._epoch, done))
        self._wake.set()
        await done

    async def close(self) -> None:
        """Gives up the lead once all is written."""
        self._closed = True
        self._wake.set()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        with suppress(StoreUnavailable):  # then the lease runs out
            await self.resign()
        for connection in (self._writer, self._listener):
            if connection is not None:
                await _ended(connection)
        if self._pool is not None:
            with suppress(*AWAY):
                await asyncio.wait_for(self._pool.close(), self._patience_s)

    # --- who leads ---

    async def campaign(self, url: str, lease_s: float) -> Standing:
        async with self._reading() as connection:
            if (epoch := self._epoch) is not None:
                renewed = await connection.execute(RENEW, epoch, self._holder, lease_s, url)
                # a write may have lost touch meanwhile
                if renewed == "UPDATE 1" and self._epoch == epoch:
                    return Standing(epoch, True, url, lease_s)
                self._epoch = None
            standing = await self._standing(connection, LEASE)
            if not standing.mine and standing.left_s > 0:
                return standing
            async with connection.transaction():
                standing = await self._standing(connection, LEASE_TO_CHANGE)
                if not standing.mine and standing.left_s > 0:
                    return standing
                # from ourselves too, and at once: to begin anew
                epoch = await connection.fetchval(TAKE, self._holder, url, lease_s)
            assert epoch is not None, "it was updated"
            self._epoch, self._problem = epoch, ""
            return Standing(epoch, True, url, lease_s)

    async def _standing(
        self, connection: asyncpg.Connection[asyncpg.Record], text: str
    ) -> Standing:
        row = await connection.fetchrow(text)
        assert row is not None, "the lease has a row from the beginning"
        epoch, holder, url, left_s = row
        return Standing(epoch, holder == self._holder, url, left_s)

    async def resign(self) -> None:
        if self._epoch is None:
            return
        epoch, self._epoch = self._epoch, None
        async with self._reading() as connection:
            await connection.execute(RESIGN, epoch, self._holder)
            await connection.execute(f"NOTIFY {RESIGNED}")

    async def leaderless(self, within_s: float) -> None:
        if self._listener is None or self._listener.is_closed():
            with suppress(*AWAY):
                self._listener = await self._connect()
                await self._listener.add_listener(RESIGNED, lambda *_: self._resigned.set())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._resigned.wait(), within_s)
        self._resigned.clear()

    async def news(self, since: int | None) -> News:
        async with self._reading() as connection:
            # all as of one moment
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                upto, hosts_change = await connection.fetchrow(LATEST)
                if since is None:
                    promises = await connection.fetch(PROMISES)
                elif upto > since:
                    promises = await connection.fetch(PROMISES_SINCE, since)
                else:
                    promises = []
                hosts = None
                if since is None or hosts_change > since:
                    hosts = read_hosts(await connection.fetch(HOSTS), self._called)
            read = read_promises(promises, self._called)
            return News(upto, read, hosts, whole=since is None)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        assert self._pool is not None, "a store is opened before it is used"
        try:
            async with self._pool.acquire(timeout=self._patience_s) as connection:
                yield connection
        except AWAY as problem:
            raise refusal(self._called, problem) from problem

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            self._url, timeout=self._patience_s, command_timeout=self._patience_s
        )

    # --- writing ---

    async def _write_on(self) -> None:
        while not (self._closed and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = self._waiting[:MOST_AT_ONCE]
                del self._waiting[:MOST_AT_ONCE]
                await self._perform(batch)

    async def _perform(self, batch: Sequence[_Job]) -> None:
        try:
            connection = await self._write_connection()
            for simple, jobs in groupby(batch, key=lambda job: job.simple):
                if simple:
                    for some in _without_repeats(list(jobs)):
                        await self._put_together(connection, some)
                else:
                    for job in jobs:
                        await self._put_apart(connection, job)
        except AWAY as problem:
            self._lose_touch(problem)
            fault = refusal(self._called, problem)
            for job in batch:
                _tell(job, fault)
            if self._writer is not None:
                await _ended(self._writer)
                self._writer = None

    async def _write_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._writer is None or self._writer.is_closed():
            self._writer = await self._connect()
        return self._writer

    async def _put_together(
        self, connection: asyncpg.Connection[asyncpg.Record], jobs: Sequence[_Job]
    ) -> None:
        """Promises of different keys, in one statement; one by one if one of them is refused."""
        if len(jobs) > 1 and len({job.epoch for job in jobs}) == 1:
            rows = [promise_values(job.changes[0].promise) for job in jobs]  # type: ignore[union-attr]
            columns = [list(column) for column in zip(*rows, strict=True)]
            try:
                leading = await connection.fetchval(
                    PUT_PROMISES, jobs[0].epoch, self._holder, *columns
                )
            except (asyncpg.UniqueViolationError, asyncpg.DataError, UnicodeEncodeError):
                pass  # one of them is to blame
            else:
                for job in jobs:
                    _tell(job, None if leading else _not_leader())
                if not leading:
                    self._epoch = None
                return
        for job in jobs:
            await self._put_apart(connection, job)

    async def _put_apart(self, connection: asyncpg.Connection[asyncpg.Record], job: _Job) -> None:
        work = [each for change in job.changes for each in statements(change)]
        wanted = ""
        try:
            async with connection.transaction():
                if await connection.fetchval(IN_OFFICE, job.epoch, self._holder) is None:
                    raise _not_leader()
                for text, values, name in work:
                    wanted = name
                    await connection.execute(text, *values)
        except asyncpg.UniqueViolationError:
            _tell(job, NameTaken(wanted))
        except (asyncpg.DataError, UnicodeEncodeError, OverflowError) as problem:
            _tell(
                job,
                StoreUnavailable(f"no store can keep this ({problem}); ask for something else"),
            )
        except NotLeader as problem:
            self._epoch = None
            _tell(job, problem)
        else:
            _tell(job, None)

    def _lose_touch(self, problem: BaseException) -> None:
        self._problem = str(refusal(self._called, problem))
        if self._epoch is not None:
            _log.warning("giving up the lead: %s", self._problem)
        self._epoch = None


def _without_repeats(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """*jobs* in order, cut wherever a promise comes again."""
    some: list[_Job] = []
    keys: set[str] = set()
    for job in jobs:
        key = job.changes[0].promise.key  # type: ignore[union-attr]
        if key in keys:
            yield some
            some, keys = [], set()
        some.append(job)
        keys.add(key)
    if some:
        yield some


def _tell(job: _Job, problem: VmStackError | None) -> None:
    if job.done.done():
        return  # cancelled, or told before what failed later
    if problem is None:
        job.done.set_result(None)
    else:
        job.done.set_exception(problem)


def _not_leader() -> NotLeader:
    return NotLeader(
        "this global scheduler does not lead the cluster; repeat the request, or send it to the"
        " one /v1/leader names"
    )


async def _ended(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """*connection* is closed, politely if the server still answers."""
    with suppress(*AWAY):
        await connection.close(timeout=1.0)
