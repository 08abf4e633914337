"""SQLite stores for tests: one with a promise in it, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.ports import Contents, PutPromise
from tests.storecontract import opened, promise


def at(path: Path, patience_s: float = 0.05) -> Callable[[], SqliteStore]:
    return lambda: SqliteStore(path, patience_s)


def keys(contents: Contents) -> list[str]:
    return [each.key for each in contents.promises]


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with one promise."""
    path = tmp_path / "store.db"
    async with opened(at(path)) as (store, _):
        await store.write(PutPromise(promise("first")))
    return path
