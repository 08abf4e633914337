"""A shared store for one user alone: leads while it is open, as who copies a store has to."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from schedulercommon.errors import StoreUnavailable
from schedulerglobal.ports import Change, Contents, SharedStore, Standing

LEASE_S = 10.0


class SoleStore:
    """*store* with its lead taken on opening and given back on closing."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._renewing: asyncio.Task[None] | None = None

    async def open(self) -> Contents:
        """Raises StoreUnavailable also if a global scheduler leads there."""
        await self._store.open()
        try:
            standing = await self._campaign()
            if not standing.mine:
                raise StoreUnavailable(
                    f"the global scheduler at {standing.url} is using that store; stop it first"
                )
            news = await self._store.news(None)
        except BaseException:
            await self._store.close()
            raise
        self._renewing = asyncio.create_task(self._renew(), name="renew")
        assert news.hosts is not None
        return Contents(news.hosts, news.promises, news.shares or ())

    async def write(self, *changes: Change) -> None:
        await self._store.write(*changes)

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._store.close()

    async def _campaign(self) -> Standing:
        return await self._store.campaign("", LEASE_S)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(StoreUnavailable):
                await self._campaign()
