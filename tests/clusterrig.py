"""A global scheduler in this process, on a real port, over whatever hosts a test gives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from schedulerglobal.adapters.api import create_app, serve
from schedulerglobal.adapters.hostclient import HttpHosts
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.config import GlobalSettings
from schedulerglobal.ports import HostClient, Store
from schedulerglobal.scheduler import ClusterScheduler, Surroundings
from schedulerglobal.service import poll_timeout_s
from schedulerprocess.lifetime import ended
from schedulerweb.guard import read_tokens
from tests.webrig import Answer, Client

T = TypeVar("T")

POLL_S = 0.08
LOCK_S = 0.2
WITHIN_S = 20.0
SETTINGS = replace(GlobalSettings.from_env({}), port=0, delay_s=POLL_S, call_timeout_s=WITHIN_S)
SELDOM = replace(SETTINGS, delay_s=60.0)
"""Hosts are polled at the start, and then when something changed there."""
IMPATIENT = replace(SETTINGS, call_timeout_s=0.3)


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
        app = create_app(scheduler, settings, time.monotonic)
        stack.push_async_callback(scheduler.close)
        await scheduler.open()
        runner = await serve(app, settings.address, settings.port)
        stack.push_async_callback(runner.cleanup)
        polling = asyncio.create_task(scheduler.run())
        stack.push_async_callback(ended, polling)
        await scheduler.poller.first_round.wait()
        yield Cluster(scheduler, runner.addresses[0][1], path)
