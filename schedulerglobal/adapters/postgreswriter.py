"""Writing to PostgreSQL: one connection, and what waits is written together.

As one statement where it can be, so that many wait for one fsync. Each write checks in its own
transaction that we still lead. A write whose answer never came may have been taken, so that we give
up the lead rather than go on with a memory that may differ: whoever leads next, we ourselves
perhaps, begins by reading. Nobody is told after that what became of a write, or who began before
would remember what the next leader may have changed by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import asyncpg

from schedulercommon.errors import NameTaken, NotLeader, RefusedError, StoreUnavailable
from schedulerglobal.adapters.postgresfaults import AWAY, refusal
from schedulerglobal.adapters.postgresschema import IN_OFFICE, PUT_PROMISES, TEXTS
from schedulerglobal.adapters.rows import promise_values
from schedulerglobal.adapters.statements import statements
from schedulerglobal.core.promises import Promise
from schedulerglobal.doubt import ask_again
from schedulerglobal.ports import Change, PutPromise

MOST_AT_ONCE = 256
"""Writes of one transaction."""
ENDING_S = 1.0
"""What was given up may take so long to end."""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_BLAMED = (
    asyncpg.UniqueViolationError,
    asyncpg.DataError,
    UnicodeEncodeError,
    OverflowError,
)
"""What is the fault of who wanted to write, not of the database."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    changes: Sequence[Change]
    epoch: int
    done: asyncio.Future[None]

    @property
    def promise(self) -> Promise | None:
        """What it puts, if that is all it does: then it is written with others in one statement."""
        match self.changes:
            case [PutPromise(promise)]:
                return promise
        return None


class Writer:
    """Writes while we lead; *gave_up* is told when that ends by a fault."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        gave_up: Callable[[], None],
        *,
        called: str,
        holder: str,
        patience_s: float,
    ) -> None:
        self._connect = connect
        self._gave_up = gave_up
        self._called = called
        self._holder = holder
        self._patience_s = patience_s
        self.epoch: int | None = None
        """Of our lead, while we have it as far as we know."""
        self._problem = ""
        """What made us give it up."""
        self._waiting: list[_Job] = []
        self._under_way: Sequence[_Job] = ()
        self._wake = asyncio.Event()
        self._closed = False
        self._connection: Connection | None = None
        self._running = asyncio.create_task(self._run(), name="store")

    async def write(self, changes: Sequence[Change]) -> None:
        """A caller that stops waiting does not stop its write."""
        if self.epoch is None:
            raise StoreUnavailable(self._problem) if self._problem else _not_leader()
        if not any(statements(change, TEXTS) for change in changes):
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(changes, self.epoch, done))
        self._wake.set()
        await done

    def lead(self, epoch: int) -> None:
        """We lead under *epoch* from now on."""
        self.epoch, self._problem = epoch, ""

    def give_up(self, problem: str = "") -> None:
        """We lead no longer. What waits is refused, and what is under way may be taken."""
        self.epoch, self._problem = None, problem
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            _tell(job, StoreUnavailable(problem) if problem else _not_leader())
        for job in self._under_way:
            _tell(job, _unknown(problem))
        if self._under_way and self._connection is not None:
            # or who leads next, we perhaps, would wait for what nobody waits for
            self._connection.terminate()

    async def close(self) -> None:
        """Once all is written."""
        self._closed = True
        self._wake.set()
        await asyncio.wait([self._running])
        if self._connection is not None:
            with suppress(*AWAY):
                await self._connection.close(timeout=ENDING_S)

    async def _run(self) -> None:
        while not (self._closed and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = self._waiting[:MOST_AT_ONCE]
                del self._waiting[:MOST_AT_ONCE]
                self._under_way = batch
                await self._perform(batch)
                self._under_way = ()

    async def _perform(self, batch: Sequence[_Job]) -> None:
        putting = asyncio.create_task(self._put(batch))
        await asyncio.wait([putting], timeout=self._patience_s)
        problem = putting.exception() if putting.done() else TimeoutError()
        if problem is None:
            return
        if self.epoch == batch[0].epoch and not isinstance(problem, AWAY):
            _log.error("a mistake of ours, or of the database's", exc_info=problem)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        putting.cancel()
        putting.add_done_callback(_unheard)
        if self.epoch == batch[0].epoch:
            fault = str(refusal(self._called, problem))
            _log.warning("giving up the lead: %s", fault)
            self.give_up(fault)
            self._gave_up()
        await asyncio.wait([putting], timeout=ENDING_S)

    async def _put(self, batch: Sequence[_Job]) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        for alone, jobs in groupby(batch, key=lambda job: job.promise is not None):
            if alone:
                for some in _without_repeats(list(jobs)):
                    await self._put_together(self._connection, some)
            else:
                for job in jobs:
                    await self._put_apart(self._connection, job)

    async def _put_together(self, connection: Connection, jobs: Sequence[_Job]) -> None:
        """Promises of different keys, in one statement; one by one if one of them is refused."""
        rows = [promise_values(promise) for job in jobs if (promise := job.promise)]
        columns = [list(column) for column in zip(*rows, strict=True)]
        epoch = jobs[0].epoch
        try:
            leading = await connection.fetchval(PUT_PROMISES, epoch, self._holder, *columns)
        except _BLAMED as problem:
            if len(jobs) == 1:
                _tell(jobs[0], _blame(problem, rows[0][1]))
                return
            for job in jobs:
                await self._put_together(connection, [job])
        else:
            if not leading:
                self._overtaken(epoch)
            for job in jobs:
                _tell(job, None if leading else _not_leader())

    async def _put_apart(self, connection: Connection, job: _Job) -> None:
        work = [each for change in job.changes for each in statements(change, TEXTS)]
        wanted = ""
        try:
            async with connection.transaction():
                if await connection.fetchval(IN_OFFICE, job.epoch, self._holder) is None:
                    raise _not_leader()
                for text, values, name in work:
                    wanted = name
                    await connection.execute(text, *values)
        except _BLAMED as problem:
            _tell(job, _blame(problem, wanted))
        except NotLeader as problem:
            self._overtaken(job.epoch)
            _tell(job, problem)
        else:
            _tell(job, None)

    def _overtaken(self, epoch: int) -> None:
        """Another leads."""
        if self.epoch == epoch:
            self.epoch = None
            self._gave_up()


def _unheard(putting: asyncio.Task[None]) -> None:
    """Whatever it says now is late."""
    if not putting.cancelled():
        putting.exception()


def _without_repeats(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """*jobs* in order, cut wherever a promise comes again."""
    some: list[_Job] = []
    keys: set[str | None] = set()
    for job in jobs:
        key = job.promise.key if job.promise else None
        if key in keys:
            yield some
            some, keys = [], set()
        some.append(job)
        keys.add(key)
    if some:
        yield some


def _tell(job: _Job, problem: RefusedError | None) -> None:
    if job.done.done():
        return  # cancelled, or told before
    if problem is None:
        job.done.set_result(None)
    else:
        job.done.set_exception(problem)


def _blame(problem: BaseException, name: str) -> RefusedError:
    if isinstance(problem, asyncpg.UniqueViolationError):
        return NameTaken(name)
    return StoreUnavailable(f"no store can keep this ({problem}); ask for something else")


def _unknown(problem: str) -> RefusedError:
    why = problem or "this global scheduler lost the lead meanwhile"
    return ask_again(StoreUnavailable, why)


def _not_leader() -> NotLeader:
    return NotLeader(
        "this global scheduler does not lead the cluster; repeat the request, or send it to the"
        " one /v1/leader names"
    )
