"""Several global schedulers on one PostgreSQL: one leads, another takes over, nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from tests.clusterrig import (
    BRIEF,
    PATIENCE_S,
    SHARED,
    Member,
    deployed,
    empty,
    lists,
    member,
    members,
    missing,
    refused,
    until,
)
from tests.fakehost import FakeHost, Held, fake_hosts
from tests.pgproxy import wire
from tests.postgres import Postgres

LEASE_S = BRIEF.lease_s
AT_ONCE_S = 1.0
"""What takes no time, on a machine that is busy with something else."""


async def test_one_of_three_leads_and_the_others_know(postgres: Postgres) -> None:
    url = await empty(postgres)
    hosts = [FakeHost("a"), FakeHost("b")]
    async with fake_hosts(*hosts) as urls, members(url, 3, *urls) as those:
        assert [each.office.held for each in those] == [True, False, False]
        told = [await each.document("/v1/leader") for each in those]
        assert len({(each["url"], each["epoch"]) for each in told}) == 1
        names = [f"vm-{number}" for number in range(12)]
        answers = await asyncio.gather(
            *[those[number % 3].deploy(name) for number, name in enumerate(names)]
        )
        assert [answer.status for answer in answers] == [201] * 12
        for each in those:
            await until(lambda each=each: lists(each, *names))
        assert len(hosts[0].vms) + len(hosts[1].vms) == 12


@pytest.mark.alone
async def test_an_orderly_end_hands_over_at_once(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, AsyncExitStack() as first:
        leader = await first.enter_async_context(member(url, *urls))
        await until(leader.leads)
        async with member(url, *urls) as other:
            await other.follows(leader)
            epoch = other.office.leader.epoch
            assert (await leader.deploy("one")).status == 201
            begun_s = time.monotonic()
            await first.aclose()
            await until(other.leads, AT_ONCE_S)
            assert time.monotonic() - begun_s < AT_ONCE_S < SHARED.lease_s
            assert other.office.leader.epoch > epoch
            assert (await other.vm("one"))["status"] == "placed"
            assert (await other.deploy("one")).status == 200
            assert (await other.deploy("two")).status == 201
        assert sorted(host.vms) == ["one", "two"]


@pytest.mark.alone
async def test_what_is_under_way_is_finished_before_the_lead_is_given_up(
    postgres: Postgres,
) -> None:
    url = await empty(postgres)
    host, held = FakeHost("a"), Held()
    async with fake_hosts(host) as urls, AsyncExitStack() as first:
        leader = await first.enter_async_context(member(url, *urls))
        await until(leader.leads)
        async with member(url, *urls) as other:
            await other.follows(leader)
            host.manners["deploy"] = held
            deploy = asyncio.create_task(leader.deploy("one"))
            await held.reached.wait()
            ending = asyncio.create_task(first.aclose())
            await until(lambda: refuses_connections(leader))
            assert not other.office.held
            held.let_go.set()
            assert (await deploy).status == 201
            await ending
            await until(other.leads, AT_ONCE_S)
            assert (await other.vm("one"))["status"] == "placed"


async def refuses_connections(web: Member) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    except OSError:
        return True
    writer.close()
    return False


@asynccontextmanager
async def leader_and_other(
    its_way: str, others_way: str, *urls: str
) -> AsyncIterator[tuple[Member, Member]]:
    """The one that leads and another that knows it, each with its own way to the database."""
    async with (
        member(its_way, *urls, settings=BRIEF) as leader,
        member(others_way, *urls, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        yield leader, other


@pytest.mark.alone
async def test_another_takes_over_from_a_leader_that_is_cut_off(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with (
        fake_hosts(host) as urls,
        wire(url) as (line, over_the_line),
        leader_and_other(over_the_line, url, *urls) as (leader, other),
    ):
        assert (await leader.deploy("one")).status == 201
        begun_s = time.monotonic()
        line.hold()
        await until(other.leads)
        assert time.monotonic() - begun_s < 2 * LEASE_S
        # it knows by its own clock, though nobody told it
        assert not leader.office.held
        status, _ = await refused(leader, "two")
        assert status == 503
        assert (await leader.vm("one"))["status"] == "placed"
        assert (await deployed(other, "two")).status == 201
        line.let_go()
        await leader.follows(other)
        assert (await leader.deploy("three")).status == 201
        assert await leader.document("/listvm") == {"one": "a", "two": "a", "three": "a"}
        assert other.told("leader", url=other.url)
        assert leader.told("leader-lost")


async def test_two_with_one_address_are_told_apart(postgres: Postgres) -> None:
    url = await empty(postgres)
    async with (
        fake_hosts(FakeHost("a")) as urls,
        member(url, *urls, settings=BRIEF) as leader,
    ):
        await until(leader.leads)
        async with member(url, *urls, settings=BRIEF, own_url=leader.url) as other:
            # one that was killed and started again would find its own lease
            assert not other.office.problem
            await until(lambda: says(other, "give each an SCG_OWN_URL of its own"))
            assert (await other.deploy("one")).refusal == (503, "store-unavailable")
            assert (await leader.deploy("one")).status == 201
            await until(lambda: lists(other, "one"))


async def says(web: Member, problem: str) -> bool:
    return problem in web.office.problem


async def test_what_is_under_way_when_the_lead_is_lost_is_unknown_and_settled(
    postgres: Postgres,
) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with (
        fake_hosts(host) as urls,
        wire(url) as (line, over_the_line),
        leader_and_other(over_the_line, url, *urls) as (leader, other),
    ):
        assert (await leader.deploy("there")).status == 201
        held, hanging = Held(done_first=True), Held()
        host.manners |= {"deploy": held, "remove": hanging}
        deploy = asyncio.create_task(leader.deploy("one"))
        remove = asyncio.create_task(leader.remove("there"))
        await asyncio.gather(held.reached.wait(), hanging.reached.wait())
        line.hold()
        for answer in await asyncio.gather(deploy, remove):
            assert (answer.status, answer.json["code"]) == (503, "host-unreachable")
            assert answer.json["outcome"] == "unknown"
        host.manners.clear()
        await until(other.leads)
        # it is there, so the host says; and the removal was accepted
        assert (await other.becomes("one", "placed"))["host"] == "a"
        await until(lambda: missing(other, "there"))
        assert (await deployed(other, "one")).status == 200
        assert list(host.vms) == ["one"]
        assert host.times_asked("deploy") == 2
        line.let_go()
        await leader.follows(other)
        # nothing of it is counted twice, by whoever led then
        for each in (leader, other):
            await each.looks_again("a")
            assert (await each.document("/v1/capacity?cpu=1&mem=1&oc=1"))["total"] == 14


async def test_whoever_begins_a_term_after_its_own_begins_anew(postgres: Postgres) -> None:
    """What began in the former one does not go on in the next, though the same process leads."""
    url = await empty(postgres)
    host, held = FakeHost("a"), Held(done_first=True)
    async with fake_hosts(host) as urls, member(url, *urls, settings=BRIEF) as leader:
        await until(leader.leads)
        epoch = leader.office.leader.epoch
        host.manners["deploy"] = held
        deploy = asyncio.create_task(leader.deploy("one"))
        await held.reached.wait()
        await asyncio.to_thread(postgres.run, url, "UPDATE vmstack.lease SET until = 'epoch'")
        answer = await deploy
        assert (answer.status, answer.json["outcome"]) == (503, "unknown")
        await until(leader.leads)
        assert leader.office.leader.epoch > epoch
        host.manners.clear()
        await leader.becomes("one", "placed")
        assert (await deployed(leader, "one")).status == 200
        assert leader.told("leader-lost", epoch=epoch)
        assert host.times_asked("deploy") == 1


async def test_a_leader_that_lost_its_power_in_the_middle_of_a_write_is_succeeded(
    postgres: Postgres,
) -> None:
    """The database holds what it had begun to write, and nobody hangs up."""
    url = await empty(postgres)
    async with (
        wire(url) as (line, over_the_line),
        leader_and_other(over_the_line, url) as (_, other),
    ):
        settings = {"idle_in_transaction_session_timeout": str(round(PATIENCE_S * 400))}
        writing = await asyncpg.connect(over_the_line, server_settings=settings)
        await writing.execute("BEGIN")
        await writing.fetchval("SELECT 1 FROM vmstack.lease FOR KEY SHARE")
        line.hold()
        await until(other.leads, 4.0)
        writing.terminate()
