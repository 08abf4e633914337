"""What a cluster learns of its requests, and keeps for its next start."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.core.arrivals import ENOUGH, Shares
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import PutShares
from schedulerglobal.scheduler import KEEP_SHARES_EVERY_S
from tests.clusterrig import Cluster, cluster, until
from tests.fakehost import FakeHost, fake_hosts
from tests.storecontract import kept, opened
from tests.webrig import PLAIN

PLAIN_SHAPE = Shape(2, 1_024, Fraction(2))
LARGE = Shape(11, 1_024, Fraction(1))


async def shares_in(folder: Path) -> Shares:
    return (await kept(lambda: SqliteStore(folder / "cluster.db"))).shares


async def learnt(folder: Path, shares: Shares) -> None:
    async with opened(lambda: SqliteStore(folder / "cluster.db")) as (store, _):
        await store.write(PutShares(shares))


async def explained(web: Cluster, policy: str) -> Any:
    answer = await web.post("/v1/vms?dry_run=1", {**PLAIN, "name": "any", "policy": policy})
    assert answer.status == 200, answer.body
    document = answer.json
    assert document.pop("policy") == policy
    return document


async def test_each_request_counts_once(tmp_path: Path) -> None:
    async with fake_hosts(FakeHost("h1")) as urls, cluster(tmp_path, *urls) as web:
        for policy in ("tight", "first-fit"):
            for status in (201, 200):  # the same again
                assert (await web.deploy(f"{policy}-vm", policy=policy)).status == status
        await explained(web, "tight")
        assert (await web.deploy("large", vcpus=40)).refusal == (409, "no-capacity")
        assert (await web.deploy("large", vcpus=40)).refusal == (409, "no-capacity")
    large = Shape(40, PLAIN_SHAPE.memory_mib, PLAIN_SHAPE.level)
    assert await shares_in(tmp_path) == ((PLAIN_SHAPE, 2), (large, 2))


async def test_what_was_learnt_is_used_after_a_restart(tmp_path: Path) -> None:
    # of 16 CPUs each the second has 11 left: all that a large VM needs, and nothing to spare
    async with fake_hosts(FakeHost("h1"), FakeHost("h2")) as urls:
        async with cluster(tmp_path, *urls) as web:
            assert (await web.on("h2", "there", vcpus=5, level="1")).status == 201
            before = await explained(web, "product")
            assert before["host"] == "h2"
            # nothing is expected yet
            assert await explained(web, "tight") == before
        await learnt(tmp_path, ((LARGE, ENOUGH),))
        async with cluster(tmp_path, *urls) as web:
            assert await explained(web, "product") == before
            told = await explained(web, "tight")
            assert told["host"] == "h1"
            (no_loss, loss) = (each["score"] for each in told["hosts"])
            assert no_loss == 0
            assert loss == pytest.approx(-1.08)
            assert (await web.deploy("next", policy="tight")).json["host"] == "h1"


async def test_what_is_learnt_is_kept_now_and_then(tmp_path: Path) -> None:
    async def sleep(delay_s: float) -> None:
        await asyncio.sleep(0.02 if delay_s == KEEP_SHARES_EVERY_S else delay_s)

    def in_the_file() -> list[tuple[int, int]]:
        with closing(sqlite3.connect(tmp_path / "cluster.db")) as connection:
            return connection.execute("SELECT vcpus, requests FROM shares").fetchall()

    async with fake_hosts(FakeHost("h1")) as urls, cluster(tmp_path, *urls, sleep=sleep) as web:
        for number in range(1, 4):
            assert (await web.deploy(f"vm{number}")).status == 201

            async def written(wanted: int = number) -> bool:
                return in_the_file() == [(PLAIN_SHAPE.vcpus, wanted)]

            await until(written)
