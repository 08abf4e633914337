"""What PostgreSQL adds to the contract of stores: who leads, what is new, and all that can be wrong
with a database, as the operator is told of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from schedulercommon.errors import (
    InputError,
    NameTaken,
    NotLeader,
    RefusedError,
    StoreUnavailable,
    VmStackError,
)
from schedulerglobal.adapters.addresses import shown_address
from schedulerglobal.adapters.postgresstore import PostgresStore
from schedulerglobal.core.promises import Status
from schedulerglobal.ports import DropHost, ForgetGone, PutHost, PutPromise, RenameHost
from tests.pgproxy import wire
from tests.postgres import Postgres
from tests.servers import run_global
from tests.storecontract import host, promise

LEASE_S = 30.0
BRIEFLY_S = 0.3
SECRET = "tops3cret"
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


# --- what the operator is told ---

ADDRESSES = {
    "postgresql://db:5432/vms": "postgresql://db:5432/vms",
    f"postgresql://me:{SECRET}@db:5432/vms": "postgresql://db:5432/vms",
    f"postgres://me:{SECRET}@db/vms?sslmode=require": "postgres://db/vms",
    f"postgresql://me:{SECRET}@[::1]:5432/vms": "postgresql://[::1]:5432/vms",
    f"postgresql://me:{SECRET}@h1:1,h2:2/vms": "postgresql://h1:1,h2:2/vms",
    f"postgresql://db/vms?password={SECRET}": "postgresql://db/vms",
    f"postgresql://me:a@b{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:a/{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:a?{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:a#{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:{SECRET}": "postgresql://…",
    f"postgresql://me:{SECRET}/vms": "postgresql://…",
    f"postgresql+asyncpg://me:{SECRET}@db/vms": "postgresql+asyncpg://db/vms",
    f"{SECRET}": "…",
    f"{SECRET} ://db": "…",
    "": "…",
}


@pytest.mark.parametrize(("url", "shown"), ADDRESSES.items(), ids=range(len(ADDRESSES)))
def test_addresses_are_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert shown_address(url) == shown


class Starter:
    """Starts ``python -m schedulerglobal``, which is not to come up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def refuses(self, code: int, store: str, **settings: str) -> str:
        """The one line it says when it ends with *code*."""
        ours = {"SCG_CLUSTER": "test", "SCG_OWN_URL": "127.0.0.1:8100"}
        given = {"SCG_STORE": store, **ours, **settings}
        done = run_global(
            self._directory, settings={name: text for name, text in given.items() if text}
        )
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.returncode == code, done.stderr
        assert len(done.stderr) < 450
        assert SECRET not in done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def start(tmp_path: Path) -> Starter:
    return Starter(tmp_path)


FAILED, WRONG_USAGE = 1, 2


def test_a_wrong_password(start: Starter, postgres: Postgres, url: str) -> None:
    with postgres.password("scram", "right"):
        said = start.refuses(FAILED, url.replace("postgres@", f"scram:{SECRET}@"))
        assert "does not let this user in" in said
        assert "password" in said
        assert "SCG_STORE" in said
        missing = start.refuses(FAILED, url.replace("postgres@", "scram@"))
        assert "127.0.0.1" in missing


def test_an_unknown_database(start: Starter, postgres: Postgres) -> None:
    said = start.refuses(FAILED, postgres.url("nowhere"))
    assert 'database "nowhere" does not exist' in said
    assert "createdb" in said


def test_nobody_there(start: Starter) -> None:
    said = start.refuses(FAILED, f"postgresql://me:{SECRET}@127.0.0.1:1/vms")
    assert "cannot be reached" in said
    assert "start the server" in said


def test_too_old_a_server(start: Starter, url: str) -> None:
    def older(said: bytes) -> bytes:
        before, found, after = said.partition(b"server_version\0")
        if not found:
            return said
        version, _, rest = after.partition(b"\0")
        # of the same length, as the message tells it
        return before + found + b"9.6.24".ljust(len(version))[: len(version)] + b"\0" + rest

    with wired(url, older) as over:
        said = start.refuses(FAILED, over)
    assert "PostgreSQL 9" in said
    assert "needs 13 or newer" in said


def test_a_schema_of_a_newer_version(start: Starter, postgres: Postgres, url: str) -> None:
    prepare(url)
    postgres.run(url, "UPDATE vmstack.cluster SET schema = 9")
    said = start.refuses(FAILED, url)
    assert "written by a newer version (schema 9" in said


def test_two_clusters_on_one_database(start: Starter, url: str) -> None:
    prepare(url)
    said = start.refuses(FAILED, url, SCG_CLUSTER="another")
    assert "belongs to cluster 'test'" in said
    assert "'another'" in said
    assert "SCG_CLUSTER" in said


def test_a_role_that_may_create_nothing(start: Starter, postgres: Postgres, url: str) -> None:
    with postgres.role("poor"):
        said = start.refuses(FAILED, url.replace("postgres@", "poor@"))
    assert "permission denied" in said
    assert "OWNER TO" in said


@pytest.mark.parametrize("rights", ["", "SELECT", "SELECT, INSERT, UPDATE"])
def test_a_role_that_may_not_write(
    start: Starter, postgres: Postgres, url: str, rights: str
) -> None:
    prepare(url)
    with postgres.role("poor"):
        postgres.run(url, "GRANT USAGE ON SCHEMA vmstack TO poor")
        if rights:
            postgres.run(url, f"GRANT {rights} ON ALL TABLES IN SCHEMA vmstack TO poor")
        said = start.refuses(FAILED, url.replace("postgres@", "poor@"))
    assert "does not let this user" in said


@pytest.mark.parametrize("prepared", [True, False], ids=["there", "new"])
def test_a_server_that_is_read_only(
    start: Starter, postgres: Postgres, url: str, prepared: bool
) -> None:
    if prepared:
        prepare(url)
    with postgres.role("reader", "SUPERUSER"):
        postgres.run(url, "ALTER ROLE reader SET default_transaction_read_only = on")
        said = start.refuses(FAILED, url.replace("postgres@", "reader@"))
    assert "is read-only" in said
    assert "primary" in said


GARBAGE = {
    "kind": f"mysql://me:{SECRET}@db/vms",
    "driver": f"postgresql+asyncpg://me:{SECRET}@db/vms",
    "port": f"postgresql://me:{SECRET}@db:port/vms",
    "large port": f"postgresql://me:{SECRET}@db:99999999/vms",
    "no host": f"postgresql://me:{SECRET}",
    "bracket": f"postgresql://me:{SECRET}@[::1/vms",
    "slash in the password": f"postgresql://me:1/{SECRET}@db:1/vms",
    "long host": f"postgresql://me:{SECRET}@{'a' * 70}:1/vms",
    "option": f"postgresql://me:{SECRET}@127.0.0.1:1/vms?sslmode=perhaps",
    "nothing": "postgresql://",
}


@pytest.mark.parametrize("store", GARBAGE.values(), ids=GARBAGE)
def test_garbage_for_an_address(start: Starter, store: str) -> None:
    said = start.refuses(WRONG_USAGE, store)
    assert said.startswith("SCG_STORE: ")
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"SCG_CLUSTER": ""}, "SCG_CLUSTER"),
        ({"SCG_CLUSTER": "two words"}, "SCG_CLUSTER"),
        ({"SCG_OWN_URL": "", "SCG_URL": "0.0.0.0"}, "SCG_OWN_URL"),
        ({"SCG_OWN_URL": "", "SCG_URL": "::"}, "SCG_OWN_URL"),
        ({"SCG_OWN_URL": ""}, "SCG_OWN_URL"),  # the port is whichever is free
        ({"SCG_OWN_URL": "https://here:1"}, "SCG_OWN_URL"),
        ({"SCG_OWN_URL": "here"}, "SCG_OWN_URL"),
        ({"SCG_NODE_URL_LIST": "127.0.0.1:8100"}, "SCG_NODE_URL_LIST"),
        ({"SCG_LEASE": "0"}, "SCG_LEASE"),
        ({"SCG_LEASE": "0.1"}, "SCG_LEASE"),
        ({"SCG_LEASE": "soon"}, "SCG_LEASE"),
    ],
    ids=lambda value: (
        "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_settings_of_several(start: Starter, settings: dict[str, str], named: str) -> None:
    said = start.refuses(WRONG_USAGE, f"postgresql://me:{SECRET}@db/vms", **settings)
    assert said.startswith(f"{named}: ")


def prepare(url: str) -> None:
    """Have the tables made."""

    async def opened() -> None:
        async with stores(url, 1):
            pass

    asyncio.run(opened())


@contextmanager
def wired(url: str, rewrite: Callable[[bytes], bytes]) -> Iterator[str]:
    """The address of the database at *url*, over a wire in a thread of its own."""
    ready, ending = Event(), Event()
    addresses: list[str] = []

    async def serve() -> None:
        async with wire(url, rewrite) as (_, over):
            addresses.append(over)
            ready.set()
            await asyncio.to_thread(ending.wait)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield addresses[0]
    finally:
        ending.set()
        thread.join()


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
