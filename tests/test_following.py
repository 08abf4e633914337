"""One that follows knows the hosts and the VMs of who leads, and goes on from there."""

from __future__ import annotations

from dataclasses import replace

from tests.clusterrig import (
    BRIEF,
    Member,
    deployed,
    empty,
    lists,
    members,
    until,
)
from tests.fakehost import FakeHost, fake_hosts, hangs
from tests.postgres import Postgres


async def test_hosts_are_followed(postgres: Postgres) -> None:
    url = await empty(postgres)
    a, b = FakeHost("a"), FakeHost("b")
    async with (
        fake_hosts(a, b) as (first, second),
        members(url, 2, first, settings=BRIEF) as (leader, other),
    ):
        # added, at an address the other was never told
        assert (await other.post("/v1/hosts", {"url": second})).status == 201
        assert (await other.turns("b", state="up"))["url"] == second
        labels = {"labels": {"rack": "2"}}
        assert (await leader.ask("PATCH", "/v1/hosts/b", labels)).status == 200
        assert (await leader.post("/v1/hosts/a/drain")).status == 200
        await other.turns("b", labels={"rack": "2"})
        await other.turns("a", state="draining")
        assert (await leader.deploy("one")).json["host"] == "b"
        assert (await leader.remove("one")).status == 200
        assert (await leader.post("/v1/hosts/a/resume")).status == 200
        await b.go()
        await leader.turns("b", state="down")
        assert (await leader.ask("DELETE", "/v1/hosts/b")).status == 200
        await until(lambda: has_hosts(other, "a"))
        await leader.stop_campaigning()
        await until(other.leads)
        assert (await deployed(other, "two")).json["host"] == "a"
        assert await has_hosts(other, "a")


async def has_hosts(web: Member, *names: str) -> bool:
    return sorted(await web.hosts()) == sorted(names)


async def test_a_host_that_moves_is_followed_with_its_vms(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as (before,), members(url, 2, settings=BRIEF) as (leader, other):
        assert (await leader.post("/v1/hosts", {"url": before})).status == 201
        assert (await leader.deploy("one")).status == 201
        await host.go()
        for each in (leader, other):
            await each.turns("a", state="down")
        await host.come(0)
        assert host.url != before
        assert (await other.post("/v1/hosts", {"url": host.url})).status in (200, 201)
        for each in (leader, other):
            await each.turns("a", state="up", url=host.url)
            await each.looks_again("a")
        await leader.stop_campaigning()
        await until(other.leads)
        assert (await other.vm("one"))["status"] == "placed"
        await host.go()  # it is polled where it is now, and nowhere else
        await other.turns("a", state="down")


async def test_an_older_host_that_is_renewed_is_followed_under_its_name(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a", typed=False)
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=BRIEF) as (leader, other):
        old = host.address
        assert (await other.deploy("one")).json["host"] == old
        await host.go()
        for each in (leader, other):
            await each.turns(old, state="down")
        host.typed = True
        await host.come(host.port)
        for each in (leader, other):
            await each.turns("a", state="up")
            assert old not in await each.hosts()
            assert await until(lambda each=each: placed_on(each, "one", "a"))
        await leader.stop_campaigning()
        await until(other.leads)
        assert (await deployed(other, "one")).status == 200
        assert (await other.remove("one")).status == 200
        assert not host.vms


async def placed_on(web: Member, name: str, host: str) -> bool:
    found = await web.vm(name)
    return (found["status"], found["host"]) == ("placed", host)


async def test_a_leader_that_never_asked_a_host_keeps_room_for_what_another_promised(
    postgres: Postgres,
) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    seldom = replace(BRIEF, delay_s=60.0)
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=seldom) as (leader, other):
        host.manners["look"] = hangs  # so that nobody sees what it has
        assert (await leader.deploy("large", vcpus=15, level="1")).status == 201
        await until(lambda: lists(other, "large"))
        await leader.stop_campaigning()
        await until(other.leads)
        answer = await other.deploy("more", vcpus=2, level="1")
        assert answer.refusal == (409, "no-capacity")
        assert host.times_asked("deploy") == 1
        assert (await other.deploy("small", vcpus=1, level="1")).status == 201
