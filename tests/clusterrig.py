"""Global schedulers in this process, on real ports, over whatever hosts a test gives them: one on
a store of its own, or several on one PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from benchmarks.ports import free_port
from schedulerglobal.adapters.api import SHUTDOWN_S, create_app, serve
from schedulerglobal.adapters.forwarding import Forwarder
from schedulerglobal.adapters.hostclient import HttpHosts
from schedulerglobal.adapters.postgresstore import PostgresStore
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.config import GlobalSettings
from schedulerglobal.office import Office
from schedulerglobal.ports import HostClient, SharedStore, Store
from schedulerglobal.scheduler import ClusterScheduler, Sharing, Surroundings
from schedulerglobal.service import poll_timeout_s
from schedulerprocess.lifetime import ended
from schedulerweb.guard import read_tokens
from schedulerweb.server import Runner
from tests.postgres import Postgres
from tests.webrig import Answer, Client

T = TypeVar("T")

POLL_S = 0.08
LOCK_S = 0.2
WITHIN_S = 20.0
SETTINGS = replace(GlobalSettings.from_env({}), port=0, delay_s=POLL_S, call_timeout_s=WITHIN_S)
SELDOM = replace(SETTINGS, delay_s=60.0)
"""Hosts are polled at the start, and then when something changed there."""
IMPATIENT = replace(SETTINGS, call_timeout_s=0.3)
SHARED = replace(SETTINGS, cluster="test", lease_s=20.0)
"""The lead does not run out while a test lasts."""
BRIEF = replace(SHARED, lease_s=1.0)
PATIENCE_S = 1.0
"""With a database that does not answer."""


class Cluster(Client):
    """A client of the global scheduler, which can be looked into."""

    def __init__(self, scheduler: ClusterScheduler, port: int, store: Path) -> None:
        super().__init__(port)
        self.scheduler = scheduler
        self.store = store

    async def document(self, target: str) -> Any:
        answer = await self.get(target)
        assert answer.status == 200, answer.body
        return answer.json

    async def vm(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.document(f"/v1/vms/{name}")
        return found

    async def host(self, name: str) -> dict[str, Any]:
        """By its name or, if it has none, its address; empty if there is none such."""
        hosts = await self.document("/v1/hosts")
        return next((host for host in hosts if host["name"] == name), {})

    async def hosts(self) -> dict[str, str]:
        """The state of each."""
        return {host["name"]: host["state"] for host in await self.document("/v1/hosts")}

    async def addresses(self) -> list[tuple[str, str]]:
        """The URL of each."""
        return [(host["name"], host["url"]) for host in await self.document("/v1/hosts")]

    async def on(self, host: str, name: str, **more: object) -> Answer:
        """Deploy on the host called so."""
        return await self.deploy(name, host=host, **more)

    async def remove(self, name: str) -> Answer:
        return await self.ask("DELETE", f"/v1/vms/{name}")

    async def becomes(self, name: str, status: str) -> dict[str, Any]:
        """The VM, once it has that status."""

        async def there() -> dict[str, Any] | None:
            answer = await self.get(f"/v1/vms/{name}")
            return answer.json if answer.json.get("status") == status else None

        return await until(there)

    async def turns(self, host: str, **about: object) -> dict[str, Any]:
        """The host, once that is so *about* it."""

        async def there() -> dict[str, Any] | None:
            found = await self.host(host)
            return found if found and about.items() <= found.items() else None

        return await until(there)

    async def looks_again(self, host: str) -> None:
        """The host was polled once more, from beginning to end."""
        found = self.scheduler.fleet.named(host)
        address = self.scheduler.fleet.address_of(found)
        assert address is not None
        looks, seen_s = address.looks, found.seen_s
        self.scheduler.poller.soon(found)

        async def looked() -> bool:
            nonlocal seen_s
            if address.looks == looks:
                seen_s = found.seen_s  # a look that had begun may have ended
                return False
            return found.seen_s != seen_s

        await until(looked)

    def told(self, kind: str, **data: object) -> bool:
        """Whether such an event was recorded."""
        return any(
            event.kind == kind and data.items() <= event.data.items()
            for event in self.scheduler.events.since(0)
        )


async def until(condition: Callable[[], Awaitable[T]], within_s: float = WITHIN_S) -> T:
    """What *condition* answers once that is true of it; fails if it takes too long."""
    deadline_s = time.monotonic() + within_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        await asyncio.sleep(0.01)
    return answer


@asynccontextmanager
async def cluster(
    directory: Path,
    *urls: str,
    settings: GlobalSettings = SETTINGS,
    now_s: Callable[[], float] = time.time,
    monotonic_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    through: Callable[[HostClient], HostClient] = lambda client: client,
    kept_by: Callable[[Store], Store] = lambda store: store,
) -> AsyncIterator[Cluster]:
    """Over the hosts at *urls*, its store under *directory*; every host was looked at. Hosts are
    talked to *through* what a test puts between, and the store is *kept_by* what it likes."""
    settings = replace(settings, urls=urls)
    tokens = read_tokens(settings.local_token_file)
    path = directory / "cluster.db"
    async with AsyncExitStack() as stack:
        client = HttpHosts(
            token=tokens[0].decode() if tokens else "",
            poll_timeout_s=poll_timeout_s(settings.delay_s),
            call_timeout_s=settings.call_timeout_s,
        )
        stack.push_async_callback(client.close)
        scheduler = ClusterScheduler(
            kept_by(SqliteStore(path, patience_s=LOCK_S)),
            through(client),
            Surroundings(now_s, monotonic_s, sleep, Random(7)),
            urls=settings.urls,
            policy=settings.policy,
            delay_s=settings.delay_s,
        )
        runner = await _listening(stack, scheduler, settings)
        stack.push_async_callback(runner.cleanup)
        polling = asyncio.create_task(scheduler.run())
        stack.push_async_callback(ended, polling)
        await scheduler.poller.first_round.wait()
        yield Cluster(scheduler, runner.addresses[0][1], path)


async def _listening(
    stack: AsyncExitStack,
    scheduler: ClusterScheduler,
    settings: GlobalSettings,
    own_url: str = "",
    shutdown_timeout_s: float = SHUTDOWN_S,
) -> Runner:
    """*scheduler* opened and listening. *stack* closes it in the end; the caller, the port."""
    # idle where nobody else leads, but between the guard and the handlers as it is in life
    forwarder = Forwarder(
        scheduler.office,
        own_url=own_url,
        timeout_s=settings.call_timeout_s,
        caught_up=scheduler.caught_up,
    )
    stack.push_async_callback(forwarder.close)
    app = create_app(scheduler, settings, time.monotonic, forwarder)
    stack.push_async_callback(scheduler.close)
    await scheduler.open()
    return await serve(app, settings.address, settings.port, shutdown_timeout_s)


class Member(Cluster):
    """One of several global schedulers, which can be looked into and cut off."""

    def __init__(self, scheduler: ClusterScheduler, port: int, running: asyncio.Task[None]) -> None:
        super().__init__(scheduler, port, Path())
        self._running = running

    @property
    def office(self) -> Office:
        return self.scheduler.office

    async def leads(self) -> bool:
        return self.office.held

    async def follows(self, leader: Member) -> None:
        """Return once it knows that *leader* leads."""

        async def known() -> bool:
            return not self.office.held and self.office.leader == leader.office.leader

        await until(known)

    async def stop_campaigning(self) -> None:
        """It does nothing of its own any more, as if it were dead, but still answers."""
        await ended(self._running)


@asynccontextmanager
async def member(
    database: str,
    *urls: str,
    settings: GlobalSettings = SHARED,
    now_s: Callable[[], float] = time.time,
    monotonic_s: Callable[[], float] = time.monotonic,
    through: Callable[[HostClient], HostClient] = lambda client: client,
    kept_by: Callable[[SharedStore], SharedStore] = lambda store: store,
    port: int = 0,
    own_url: str = "",
) -> AsyncIterator[Member]:
    """One of the global schedulers that share *database*; every host was looked at."""
    port = port or free_port()
    own_url = own_url or f"http://127.0.0.1:{port}"
    settings = replace(settings, urls=urls, port=port, own_url=own_url)
    async with AsyncExitStack() as stack:
        office = Office(monotonic_s, shared=True)
        client = HttpHosts(
            poll_timeout_s=poll_timeout_s(settings.delay_s),
            call_timeout_s=settings.call_timeout_s,
            office=office,
        )
        stack.push_async_callback(client.close)
        store = kept_by(PostgresStore(database, settings.cluster, PATIENCE_S, now_s))
        scheduler = ClusterScheduler(
            store,
            through(client),
            Surroundings(now_s, monotonic_s, asyncio.sleep, Random(7)),
            urls=settings.urls,
            policy=settings.policy,
            delay_s=settings.delay_s,
            office=office,
            sharing=Sharing(store, own_url, settings.lease_s),
        )
        runner = await _listening(stack, scheduler, settings, own_url, settings.lease_s)
        running = asyncio.create_task(scheduler.run())
        stack.push_async_callback(ended, running)
        stack.push_async_callback(runner.cleanup)
        await scheduler.poller.first_round.wait()
        yield Member(scheduler, port, running)


@asynccontextmanager
async def members(
    database: str, number: int, *urls: str, settings: GlobalSettings = SHARED
) -> AsyncIterator[list[Member]]:
    """So many of them; the first leads, and the others know."""
    async with AsyncExitStack() as stack:
        all_of_them: list[Member] = []
        for _ in range(number):
            one = await stack.enter_async_context(member(database, *urls, settings=settings))
            if not all_of_them:
                await until(one.leads)
            else:
                await one.follows(all_of_them[0])
            all_of_them.append(one)
        yield all_of_them


async def empty(postgres: Postgres) -> str:
    return await asyncio.to_thread(postgres.database)


async def deployed(web: Member, name: str, **more: object) -> Answer:
    """The answer to a deploy that is repeated until it is done."""

    async def done() -> Answer | None:
        answer = await web.deploy(name, **more)
        assert answer.status < 300 or answer.status == 503, answer.body
        return answer if answer.status < 300 else None

    return await until(done)


async def refused(web: Member, name: str) -> tuple[int, str]:
    """How a deploy is answered that is not done."""
    answer = await web.deploy(name)
    assert answer.json["success"] is False
    return answer.status, answer.json["code"]


async def lists(web: Member, *names: str) -> bool:
    return sorted(await web.document("/listvm")) == sorted(names)


async def missing(web: Member, name: str) -> bool:
    return (await web.get(f"/v1/vms/{name}")).status == 404
