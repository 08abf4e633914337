"""Every store there is, held against every clause of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given

from schedulerglobal.adapters.stores import store_for
from tests.memorystore import Disk, MemoryStore
from tests.storecontract import CLAUSES, ROUNDS, Place, Rounds, check_alike


def in_memory(_: Path) -> Place:
    disk = Disk()
    return lambda: MemoryStore(disk)


def in_sqlite(directory: Path) -> Place:
    return lambda: store_for(f"sqlite:///{directory}/store.db")


STORES: dict[str, Callable[[Path], Place]] = {"memory": in_memory, "sqlite": in_sqlite}
"""An empty place for each kind of store; the folder is its own."""


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("store", STORES)
async def test_stores_keep_the_contract(store: str, clause: str, tmp_path: Path) -> None:
    await CLAUSES[clause](STORES[store](tmp_path))


@pytest.mark.parametrize("store", sorted(STORES.keys() - {"memory"}))
def test_stores_do_as_the_one_in_memory(store: str, tmp_path: Path) -> None:
    number = count()

    @given(ROUNDS)
    def check(rounds: Rounds) -> None:
        directory = tmp_path / f"{next(number)}"
        directory.mkdir()
        asyncio.run(check_alike(STORES[store](directory), in_memory(directory), rounds))

    check()
    assert next(number) > 10
