"""A database that stops, hangs, or hangs up on several global schedulers; clocks that differ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from signal import SIGQUIT

import asyncpg
import pytest

from tests.clusterrig import (
    BRIEF,
    PATIENCE_S,
    Member,
    deployed,
    empty,
    lists,
    member,
    members,
    refused,
    until,
)
from tests.fakehost import FakeHost, fake_hosts
from tests.postgres import Postgres, postgres_server

LEASE_S = BRIEF.lease_s
AT_ONCE_S = 1.0
"""What takes no time, on a machine that is busy with something else."""


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """One that may be stopped, as long as it is started again."""
    with postgres_server() as server:
        yield server


@pytest.mark.alone
async def test_a_database_that_is_stopped(own_postgres: Postgres) -> None:
    url = await empty(own_postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=BRIEF) as both:
        assert (await both[1].deploy("one")).status == 201
        await asyncio.to_thread(own_postgres.stop, SIGQUIT)
        for _ in range(3):
            for each in both:
                begun_s = time.monotonic()
                status, code = await refused(each, "two")
                assert status == 503
                assert code in ("store-unavailable", "not-leader", "host-unreachable")
                assert time.monotonic() - begun_s < AT_ONCE_S
                for target in ("/v1/vms/one", "/listvm", "/v1/hosts", "/status", "/metrics"):
                    assert (await each.get(target)).status == 200
        await until(lambda: nobody_leads(*both))
        for each in both:
            assert await refused(each, "two") == (503, "store-unavailable")
            assert (await each.get("/readyz")).refusal == (503, "store-unavailable")
        assert list(host.vms) == ["one"]
        await asyncio.to_thread(own_postgres.start)
        assert (await deployed(both[0], "two")).status in (200, 201)
        assert (await deployed(both[1], "one")).status == 200
        assert await both[0].document("/listvm") == {"one": "a", "two": "a"}
        assert sum(each.office.held for each in both) == 1


async def nobody_leads(*those: Member) -> bool:
    return not any(each.office.held for each in those)


@pytest.mark.alone
async def test_a_database_that_answers_nobody(own_postgres: Postgres) -> None:
    url = await empty(own_postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=BRIEF) as both:
        assert (await both[1].deploy("one")).status == 201
        own_postgres.pause()
        try:
            begun_s = time.monotonic()
            answers = await asyncio.gather(
                *[each.deploy(f"vm-{number}") for number, each in enumerate(both * 3)]
            )
            assert time.monotonic() - begun_s < LEASE_S + PATIENCE_S
            assert {answer.status for answer in answers} == {503}
            for each in both:
                assert (await each.vm("one"))["status"] == "placed"
                begun_s = time.monotonic()
                assert (await each.deploy("more")).status == 503
                assert time.monotonic() - begun_s < AT_ONCE_S
        finally:
            own_postgres.go_on()
        assert (await deployed(both[0], "two")).status in (200, 201)
        # what was written down late came to nothing, and is told so by its host
        await until(lambda: lists(both[0], "one", "two"))
        assert sorted(host.vms) == ["one", "two"]


async def test_connections_to_the_database_that_are_cut_under_load(own_postgres: Postgres) -> None:
    url = await empty(own_postgres)
    hosts = [FakeHost("a"), FakeHost("b"), FakeHost("c")]
    names = [f"vm-{number}" for number in range(36)]
    async with fake_hosts(*hosts) as urls, members(url, 2, *urls, settings=BRIEF) as both:
        ending = asyncio.Event()

        async def cut() -> int:
            cuts = 0
            control = await asyncpg.connect(own_postgres.url("postgres"))
            while not ending.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(ending.wait(), 0.05)
                cuts += await control.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'vmstack'"
                )
            await control.close()
            return cuts

        cutting = asyncio.create_task(cut())
        lively = asyncio.Semaphore(6)

        async def load(number: int) -> None:
            async with lively:
                await deployed(both[number % 2], names[number], vcpus=1)

        await asyncio.wait(
            [asyncio.create_task(load(number)) for number in range(len(names))], timeout=1.0
        )
        ending.set()
        assert await cutting > 5
        # whoever repeats the request has it, and has it once
        for name in names:
            await deployed(both[0], name, vcpus=1)
        there = await both[0].document("/listvm")
        assert sorted(there) == sorted(names)
        on = {name: host.name for host in hosts for name in host.vms}
        assert on == there
        assert sum(len(host.vms) for host in hosts) == len(names)


async def test_clocks_an_hour_apart(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with (
        fake_hosts(host) as urls,
        member(url, *urls, settings=BRIEF, now_s=lambda: time.time() - 3600) as behind,
        member(url, *urls, settings=BRIEF, now_s=lambda: time.time() + 3600) as ahead,
    ):
        told = [each.message for each in caplog.records if "the clock here" in each.message]
        assert len(told) == 2
        assert "3600 s behind" in told[0]
        assert "3600 s ahead" in told[1]
        assert all("NTP" in each for each in told)
        await until(behind.leads)
        await ahead.follows(behind)
        assert (await ahead.deploy("one")).status == 201
        await behind.stop_campaigning()
        await until(ahead.leads)
        assert (await ahead.vm("one"))["status"] == "placed"
        assert (await deployed(ahead, "one")).status == 200
        assert (await ahead.remove("one")).status == 200
        assert (await deployed(ahead, "one", vcpus=1)).status == 201
    assert list(host.vms) == ["one"]
