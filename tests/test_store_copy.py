"""``python -m schedulerglobal store copy``: a cluster moves to another store, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from schedulercommon.levels import parse_level
from schedulerglobal.adapters.stores import sole_store_for
from schedulerglobal.core.promises import Status
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import Contents, PutHost, PutPromise, PutShares
from tests.postgres import Postgres
from tests.storecontract import host, promise

CLUSTER = "here"
SHARES = ((Shape(2, 2048, parse_level("3/2")), 70), (Shape(1, 1024, parse_level("1")), 31))
HELD = Contents(
    (host("h1", labels={"rack": "r1"}), host("h2", fenced=True, added=True)),
    tuple(
        promise(f"{number}", status, reason="why not")
        for number, status in enumerate(list(Status) * 250)
        if status is not Status.GONE
    ),
    SHARES,
)
"""More than are written at once."""


def sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


def copy(source: str, target: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schedulerglobal", "store", "copy", source, target, *more]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ}
    )


def fill(url: str, contents: Contents = HELD) -> None:
    async def filled() -> None:
        store = sole_store_for(url, CLUSTER, "SCG_STORE")
        await store.open()
        await store.write(
            *map(PutHost, contents.hosts),
            *map(PutPromise, contents.promises),
            PutShares(contents.shares),
        )
        await store.close()

    asyncio.run(filled())


def held(url: str) -> Contents:
    async def read() -> Contents:
        store = sole_store_for(url, CLUSTER, "SCG_STORE")
        try:
            return await store.open()
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_cluster_moves_to_postgresql_and_back(tmp_path: Path, postgres: Postgres) -> None:
    first, second = sqlite(tmp_path / "first.db"), sqlite(tmp_path / "second.db")
    shared = postgres.database()
    fill(first)
    there = copy(first, shared, f"--cluster={CLUSTER}")
    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout == f"copied 2 hosts and {len(HELD.promises)} VMs\n"
    back = copy(shared, second, f"--cluster={CLUSTER}", "--json")
    assert json.loads(back.stdout) == {"hosts": 2, "vms": len(HELD.promises)}
    assert held(first) == held(shared) == held(second) == HELD


def test_what_is_there_already_is_not_mixed_up(tmp_path: Path) -> None:
    source, target = sqlite(tmp_path / "source.db"), sqlite(tmp_path / "target.db")
    fill(source)
    there = Contents((host("other"),), (), ())
    fill(target, there)
    done = copy(source, target)
    assert done.returncode == 1
    assert done.stderr == (
        "the store to copy to holds 1 hosts and 0 VMs already; name one that is new or empty\n"
    )
    assert held(target) == there


@pytest.mark.parametrize("made", [False, True], ids=["no file", "an empty store"])
def test_nothing_is_not_copied(made: bool, tmp_path: Path) -> None:
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    if made:
        fill(sqlite(source), Contents((), ()))
    done = copy(sqlite(source), sqlite(target))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "name the one that is in use" in done.stderr
    assert source.exists() == made
    assert not target.exists()


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        ((), 2, "name this one with --cluster or SCG_CLUSTER"),
        (("--cluster=another",), 1, "belongs to cluster 'here', and this one is called 'another'"),
    ],
    ids=["no cluster", "another cluster"],
)
def test_whose_database_it_is_must_be_said(
    more: tuple[str, ...], code: int, told: str, tmp_path: Path, postgres: Postgres
) -> None:
    shared = postgres.database()
    fill(shared)
    done = copy(shared, sqlite(tmp_path / "target.db"), *more)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert told in done.stderr


def test_a_store_in_use_is_left_alone(tmp_path: Path, postgres: Postgres) -> None:
    shared, file = postgres.database(), sqlite(tmp_path / "in-use.db")

    async def used() -> list[subprocess.CompletedProcess[str]]:
        stores = [sole_store_for(url, CLUSTER, "SCG_STORE") for url in (shared, file)]
        for store in stores:
            await store.open()
        try:
            pairs = ((shared, file + "2"), (file, file + "3"))
            return [
                await asyncio.to_thread(copy, source, target, f"--cluster={CLUSTER}")
                for source, target in pairs
            ]
        finally:
            for store in stores:
                await store.close()

    for done in asyncio.run(used()):
        assert done.returncode == 1
        assert "using" in done.stderr
        assert "stop it" in done.stderr
