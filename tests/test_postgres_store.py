"""What PostgreSQL adds to the contract of stores: who leads, and what is new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from schedulercommon.errors import (
    InputError,
    NameTaken,
    NotLeader,
    RefusedError,
    StoreUnavailable,
    VmStackError,
)
from schedulerglobal.adapters.postgresstore import PostgresStore
from schedulerglobal.core.promises import Status
from schedulerglobal.ports import DropHost, ForgetGone, PutHost, PutPromise, RenameHost
from tests.pgproxy import wire
from tests.postgres import Postgres
from tests.storecontract import host, promise

LEASE_S = 30.0
BRIEFLY_S = 0.3
ONE, OTHER = "http://one:1", "http://other:1"


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.database()


@asynccontextmanager
async def stores(url: str, number: int = 2) -> AsyncIterator[list[PostgresStore]]:
    """Open ones, as several global schedulers have them."""
    async with AsyncExitStack() as stack:
        those = []
        for _ in range(number):
            store = PostgresStore(url, "test", patience_s=1.0)
            await store.open()
            stack.push_async_callback(store.close)
            those.append(store)
        yield those


async def fault(doing: object) -> VmStackError:
    with pytest.raises(VmStackError) as caught:
        await doing  # type: ignore[misc]
    return caught.value


async def test_one_leads_until_its_lease_runs_out(url: str) -> None:
    async with stores(url) as (one, other):
        assert (await one.campaign(ONE, LEASE_S)).mine
        first = await other.campaign(OTHER, LEASE_S)
        assert (first.mine, first.url) == (False, ONE)
        assert 0 < first.left_s <= LEASE_S
        again = await one.campaign(ONE, BRIEFLY_S)  # renewed, if not for long
        assert (again.mine, again.epoch) == (True, first.epoch)
        while not (second := await other.campaign(OTHER, LEASE_S)).mine:
            assert 0 < second.left_s <= BRIEFLY_S
            await one.write(PutPromise(promise("a")))
        assert second.epoch > first.epoch
        assert isinstance(await fault(one.write(PutPromise(promise("b")))), NotLeader)
        assert (await one.campaign(ONE, LEASE_S)).url == OTHER
        await other.write(PutPromise(promise("c")))
        assert {each.key for each in (await one.news(None)).promises} == {"a", "c"}


@pytest.mark.alone
async def test_who_gives_up_is_succeeded_at_once(url: str) -> None:
    async with stores(url) as (one, other):
        assert (await one.campaign(ONE, LEASE_S)).mine
        assert not (await other.campaign(OTHER, LEASE_S)).mine
        waiting = asyncio.create_task(other.leaderless(LEASE_S))
        await other.leaderless(BRIEFLY_S)  # until it listens
        begun_s = time.monotonic()
        await one.resign()
        await waiting
        assert (await other.campaign(OTHER, LEASE_S)).mine
        assert time.monotonic() - begun_s < 1.0


async def test_every_term_has_an_epoch_of_its_own(url: str) -> None:
    async with stores(url, 1) as (store,):
        first = await store.campaign(ONE, LEASE_S)
        second = await store.campaign(ONE, LEASE_S, anew=True)
        assert second.mine
        assert second.epoch > first.epoch
        assert (await store.campaign(ONE, LEASE_S)).epoch == second.epoch
    async with stores(url, 1) as (store,):
        assert (await store.campaign(ONE, LEASE_S)).epoch > second.epoch


async def test_epochs_rise_from_one_database_to_the_next(postgres: Postgres, url: str) -> None:
    """Hosts remember the epoch of whoever led them."""
    async with stores(url, 1) as (store,):
        before = await store.campaign(ONE, LEASE_S)
    await asyncio.to_thread(postgres.database)
    async with stores(url, 1) as (store,):
        assert (await store.campaign(ONE, LEASE_S)).epoch >= before.epoch


async def test_nobody_is_told_what_became_of_a_write_of_a_former_term(url: str) -> None:
    """Whoever was told would remember what may have changed since."""
    async with wire(url) as (line, over), stores(over, 1) as (store,):
        assert (await store.campaign(ONE, LEASE_S)).mine
        await store.write(PutPromise(promise("a")))
        line.hold()
        writing = asyncio.create_task(store.write(PutPromise(promise("a", Status.PLACED))))
        waiting = asyncio.create_task(store.write(PutPromise(promise("b"))))
        await asyncio.sleep(0)
        campaign = asyncio.create_task(store.campaign(ONE, LEASE_S, anew=True))
        line.let_go()
        assert (await campaign).mine
        await asyncio.wait([writing, waiting])
        there = {each.key: each.status for each in (await store.news(None)).promises}
        for write, key, status in (
            (writing, "a", Status.PLACED),
            (waiting, "b", Status.PENDING),
        ):
            problem = write.exception()
            if problem is None:
                assert there[key] is status
            else:
                assert isinstance(problem, RefusedError)
        await store.write(PutPromise(promise("a", Status.REMOVING)))


@pytest.mark.alone
async def test_a_write_that_is_not_answered_may_have_been_taken(url: str) -> None:
    async with wire(url) as (line, over), stores(over, 1) as (store,):
        assert (await store.campaign(ONE, LEASE_S)).mine
        await store.write(PutPromise(promise("a")))
        line.hold()
        begun_s = time.monotonic()
        problem = await fault(store.write(PutPromise(promise("b"))))
        assert 0.9 < time.monotonic() - begun_s < 1.5
        assert isinstance(problem, StoreUnavailable)
        assert problem.details == {"outcome": "unknown"}
        # the lead is given up, and what comes now is refused at once
        begun_s = time.monotonic()
        assert isinstance(await fault(store.write(PutPromise(promise("c")))), StoreUnavailable)
        assert time.monotonic() - begun_s < 0.5
        line.let_go()
        assert (await store.campaign(ONE, LEASE_S)).mine
        assert "a" in {each.key for each in (await store.news(None)).promises}
        await store.write(PutPromise(promise("c")))


@pytest.mark.alone
async def test_a_new_term_does_not_wait_for_a_write_of_the_last(url: str) -> None:
    async with stores(url, 1) as (store,), wire(url) as (line, over):
        slow = PostgresStore(over, "test", patience_s=20.0)
        await slow.open()
        assert (await slow.campaign(ONE, LEASE_S)).mine
        await slow.write(PutPromise(promise("a")))
        line.strand()
        writing = asyncio.create_task(slow.write(PutPromise(promise("b"))))
        await asyncio.sleep(0)  # it is on its way
        with pytest.raises(StoreUnavailable):
            await slow.campaign(ONE, 0.5, anew=True)
        begun_s = time.monotonic()
        assert (await slow.campaign(ONE, LEASE_S, anew=True)).mine
        await slow.write(PutPromise(promise("c")))
        assert time.monotonic() - begun_s < 2.0
        await asyncio.wait([writing])
        keys = {each.key for each in (await store.news(None)).promises}
        assert keys - {"b"} == {"a", "c"}
        await slow.close()


@pytest.mark.alone
@pytest.mark.parametrize("held", [False, True], ids=["broken", "held"])
async def test_a_wire_that_fails_is_not_waited_for(url: str, held: bool) -> None:
    async with wire(url) as (line, over), stores(over, 1) as (store,):
        assert (await store.campaign(ONE, LEASE_S)).mine
        line.hold() if held else line.cut()
        for asking in (
            store.campaign(ONE, 0.6),
            store.news(None),
            store.write(PutPromise(promise("a"))),
        ):
            begun_s = time.monotonic()
            assert isinstance(await fault(asking), StoreUnavailable)
            assert time.monotonic() - begun_s < 1.5
        line.let_go()
        assert (await store.campaign(ONE, LEASE_S)).mine
        await store.write(PutPromise(promise("a")))


async def test_news_are_what_changed(url: str) -> None:
    async with stores(url) as (one, other):
        assert (await one.campaign(ONE, LEASE_S)).mine
        news = await other.news(None)
        assert (news.whole, news.promises, news.hosts) == (True, (), ())

        async def told() -> tuple[dict[str, Status], list[str] | None]:
            nonlocal news
            news = await other.news(news.upto)
            assert not news.whole
            hosts = None if news.hosts is None else [each.name for each in news.hosts]
            return {each.key: each.status for each in news.promises}, hosts

        assert await told() == ({}, None)
        await one.write(PutPromise(promise("a")), PutHost(host("h1")))
        await one.write(PutPromise(promise("b")))
        assert await told() == ({"a": Status.PENDING, "b": Status.PENDING}, ["h1"])
        await one.write(PutPromise(promise("a", Status.GONE)))
        assert await told() == ({"a": Status.GONE}, None)
        await one.write(RenameHost("h1", "h2"))
        # its promises with it
        assert await told() == ({"a": Status.GONE, "b": Status.PENDING}, ["h2"])
        assert {each.host for each in news.promises} == {"h2"}
        await one.write(ForgetGone(2.0))
        assert await told() == ({}, None)
        await one.write(DropHost("h2"))
        assert await told() == ({}, [])
        assert await told() == ({}, None)


async def test_one_of_many_writes_that_is_wrong_spoils_none_of_the_others(url: str) -> None:
    async with stores(url, 1) as (store,):
        assert (await store.campaign(ONE, LEASE_S)).mine
        await store.write(PutPromise(promise("there", name="taken")))
        changes = [PutPromise(promise(f"p{number}")) for number in range(40)]
        changes.insert(20, PutPromise(promise("second", name="taken")))
        said = await asyncio.gather(
            *[store.write(change) for change in changes], return_exceptions=True
        )
        assert [type(each) for each in said if each is not None] == [NameTaken]
        assert len((await store.news(None)).promises) == 41


async def test_a_store_that_does_not_say_who_leads(postgres: Postgres, url: str) -> None:
    async with stores(url, 1) as (store,):
        await asyncio.to_thread(postgres.run, url, "DELETE FROM vmstack.lease")
        for asking in (store.campaign(ONE, LEASE_S), store.news(None)):
            problem = await fault(asking)
            assert isinstance(problem, InputError)
            assert "damaged" in str(problem)


def test_a_promise_is_read_as_it_was_written(url: str) -> None:
    """Many at once go another way than one."""
    odd = replace(
        promise("odd"), reason='it\'s "quoted", {braced}, \\ and ünïcödé; \n\0', settled=False
    )

    async def written() -> list[str]:
        async with stores(url, 1) as (store,):
            assert (await store.campaign(ONE, LEASE_S)).mine
            many = [replace(odd, key=f"{n}", spec=promise(f"{n}").spec) for n in range(5)]
            await asyncio.gather(*[store.write(PutPromise(each)) for each in many])
            await store.write(PutPromise(odd))
            return [each.reason for each in (await store.news(None)).promises]

    assert asyncio.run(written()) == [odd.reason.replace("\0", "\ufffd")] * 6
