"""Every store there is, held against every clause of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings

from schedulerglobal.adapters.stores import sole_store_for, store_for
from tests.memorystore import Disk, MemoryStore
from tests.postgres import Postgres
from tests.storecontract import CLAUSES, Place
from tests.storerounds import ROUNDS, Rounds, check_alike


def in_memory(_: Path, __: Postgres) -> Place:
    disk = Disk()
    return lambda: MemoryStore(disk)


def in_sqlite(directory: Path, _: Postgres) -> Place:
    return lambda: store_for(f"sqlite:///{directory}/store.db")


def in_postgresql(_: Path, server: Postgres) -> Place:
    url = server.database()
    return lambda: sole_store_for(url, "cluster", "SCG_STORE")


STORES: dict[str, Callable[[Path, Postgres], Place]] = {
    "memory": in_memory,
    "sqlite": in_sqlite,
    "postgresql": in_postgresql,
}
"""An empty place for each kind of store; the folder is its own."""
EXAMPLES = {"sqlite": 100, "postgresql": 20}


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("store", STORES)
def test_stores_keep_the_contract(
    store: str, clause: str, tmp_path: Path, postgres: Postgres
) -> None:
    place = STORES[store](tmp_path, postgres)
    asyncio.run(CLAUSES[clause](place))  # type: ignore[arg-type]


@pytest.mark.parametrize("store", sorted(STORES.keys() - {"memory"}))
def test_stores_do_as_the_one_in_memory(store: str, tmp_path: Path, postgres: Postgres) -> None:
    number = count()

    @settings(max_examples=EXAMPLES[store])
    @given(ROUNDS)
    def check(rounds: Rounds) -> None:
        directory = tmp_path / f"{next(number)}"
        directory.mkdir()
        place, model = STORES[store](directory, postgres), in_memory(directory, postgres)
        asyncio.run(check_alike(place, model, rounds))

    check()
    assert next(number) > 10
