"""What a host still has room for, while it is asked and looked at at once: nothing is counted
twice, nothing is forgotten, and a host that refuses what it says it has room for is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.model import VmSpec
from schedulerglobal.core.outcomes import Reply
from schedulerglobal.ports import HostClient, Report, Site
from tests.clusterrig import SELDOM, Cluster, cluster, until
from tests.fakehost import FakeHost, Held, Manner, fake_hosts, refuses, resets, uncoded
from tests.webrig import running

FULL = (409, "no-capacity")
AWAY = (503, "host-unreachable")
TWO = {"vcpus": 2, "level": "1"}
BOTH = pytest.mark.parametrize("typed", [True, False], ids=["typed", "published only"])


async def free(web: Cluster, host: FakeHost) -> int:
    shown = await web.host(host.name if host.typed else host.address)
    count: int = shown["cpus"]["free"]
    return count


# --- reservations and polls ---


@BOTH
async def test_what_is_asked_for_is_counted_until_the_host_shows_it(
    tmp_path: Path, typed: bool
) -> None:
    host = FakeHost("h", typed=typed)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        name = "h" if typed else host.address
        host.manners["deploy"] = held = Held()
        deploy = asyncio.create_task(web.deploy("vm", **TWO))
        await held.reached.wait()
        assert await free(web, host) == 14
        # looked at before it has it: nothing moved
        for _ in range(2):
            await web.looks_again(name)
            assert await free(web, host) == 14
        held.let_go.set()
        assert (await deploy).status == 201
        assert await free(web, host) == 14
        await web.looks_again(name)
        assert await free(web, host) == 14
        # that was the host's own count
        host.run("theirs", 3)
        await web.looks_again(name)
        assert await free(web, host) == 11
        assert (await web.remove("vm")).status == 200
        await web.looks_again(name)
        assert await free(web, host) == 13


@BOTH
async def test_a_vm_listed_before_the_deploy_was_answered_counts_once(
    tmp_path: Path, typed: bool
) -> None:
    host = FakeHost("h", typed=typed)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        name = "h" if typed else host.address
        host.manners["deploy"] = held = Held(done_first=True)
        deploy = asyncio.create_task(web.deploy("vm", **TWO))
        await held.reached.wait()
        for _ in range(2):
            await web.looks_again(name)
            assert await free(web, host) == 14
        held.let_go.set()
        assert (await deploy).status == 201
        await web.looks_again(name)
        assert await free(web, host) == 14
        vm = await web.vm("vm")
        assert (vm["status"], vm["conflicts"]) == ("placed", [])


@BOTH
async def test_a_look_begun_before_the_deploy_was_answered_hides_nothing(
    tmp_path: Path, typed: bool
) -> None:
    host = FakeHost("h", typed=typed)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        found = web.scheduler.fleet.named("h" if typed else host.address)
        host.run("theirs", 1)  # so that there is something to be told
        seen_s = found.seen_s
        host.manners["look"] = looking = Held(done_first=True)
        web.scheduler.poller.soon(found)
        await looking.reached.wait()
        deploy = asyncio.create_task(web.deploy("vm", **TWO))

        async def placed() -> bool:
            promise = web.scheduler.book.find("vm")
            return promise is not None and promise.status == "placed"

        await until(placed)
        looking.let_go.set()
        assert (await deploy).status == 201

        async def taken_in() -> bool:
            return found.seen_s != seen_s

        await until(taken_in)
        # an older one is asked for its VMs first: its count may have what its list has not
        assert await free(web, host) == (13 if typed else 11)
        # it was not in that list, which was older
        assert (await web.vm("vm"))["status"] == "placed"
        assert not web.told("lost")
        await web.looks_again(found.name)
        assert await free(web, host) == 13


async def test_what_was_there_and_went_between_two_looks_is_not_counted_for_ever(
    tmp_path: Path,
) -> None:
    host = FakeHost("h")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.deploy("vm", **TWO)).status == 201
        host.vms.clear()
        unmoved = host.unmoved
        await web.looks_again("h")
        # as it was when it was looked at last
        assert host.unmoved == unmoved + 1
        assert await free(web, host) == 16
        await web.becomes("vm", "lost")


async def test_what_may_be_there_after_a_restart_is_counted(tmp_path: Path) -> None:
    host = FakeHost("h")
    host.manners = {"deploy": resets, "cancel": resets}
    async with fake_hosts(host) as urls:
        async with cluster(tmp_path, *urls, settings=SELDOM) as web:
            assert (await web.deploy("vm", **TWO)).json["outcome"] == "unknown"
            assert await free(web, host) == 14
        async with cluster(tmp_path, *urls, settings=SELDOM) as web:
            assert (await web.vm("vm"))["status"] == "unknown"
            assert await free(web, host) == 14
            await web.looks_again("h")
            assert await free(web, host) == 14
            host.manners.clear()
            assert (await web.deploy("vm", **TWO)).status == 201
            await web.looks_again("h")
            assert await free(web, host) == 14


async def test_deploys_at_once_take_no_more_than_there_is(tmp_path: Path) -> None:
    hosts = [FakeHost("a"), FakeHost("b")]
    async with fake_hosts(*hosts) as urls, cluster(tmp_path, *urls) as web:
        four = {"vcpus": 4, "level": "1"}
        answers = await asyncio.gather(*[web.deploy(f"vm{n}", **four) for n in range(12)])
        assert sorted(answer.status for answer in answers) == [201] * 8 + [409] * 4
        assert [len(host.vms) for host in hosts] == [4, 4]
        assert sum(host.times_asked("deploy") for host in hosts) == 8


# --- refusals of what there is room for ---


async def test_a_host_that_says_no_capacity_is_left_alone_until_it_moves(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        a.manners["deploy"] = refuses("no-capacity")
        assert (await web.deploy("one", policy="first-fit")).json["host"] == "b"
        a.manners.clear()
        for number in range(3):
            unmoved = a.unmoved
            await web.looks_again("a")
            assert a.unmoved > unmoved
            refused = await web.on("a", f"vm{number}")
            assert refused.refusal == FULL
            assert "has refused what it says it has room for" in refused.json["reason"]
        assert a.times_asked("deploy") == 1
        a.run("theirs")
        await web.turns("a", vms=1)
        assert (await web.on("a", "two")).status == 201


async def test_a_host_that_says_no_capacity_is_asked_again_after_a_while(tmp_path: Path) -> None:
    host, ahead_s = FakeHost("a"), 0.0
    async with (
        fake_hosts(host) as urls,
        cluster(tmp_path, *urls, monotonic_s=lambda: time.monotonic() + ahead_s) as web,
    ):
        host.manners["deploy"] = refuses("no-capacity")
        assert (await web.deploy("vm")).json["code"] == "no-capacity"
        host.manners.clear()
        for minute, status in ((0.0, 409), (50.0, 409), (61.0, 201)):
            ahead_s = minute
            await web.looks_again("a")
            assert (await web.deploy("vm")).status == status


async def test_an_older_host_is_doubted_after_three_refusals_in_a_row(tmp_path: Path) -> None:
    older, other, ahead_s = FakeHost("older", typed=False), FakeHost("other"), 0.0
    async with (
        fake_hosts(older, other) as urls,
        cluster(tmp_path, *urls, monotonic_s=lambda: time.monotonic() + ahead_s) as web,
    ):

        async def tried(name: str, manner: Manner | None) -> bool:
            """Whether the older host was asked."""
            older.manners = {} if manner is None else {"deploy": manner}
            before = older.times_asked("deploy")
            answer = await web.deploy(name, vcpus=1, policy="first-fit")
            assert answer.status == 201
            assert (name in older.vms) is (manner is None and older.times_asked("deploy") > before)
            return older.times_asked("deploy") > before

        # one that is granted in between ends the row
        for number, manner in enumerate((uncoded(), uncoded(), None, uncoded(), uncoded())):
            assert await tried(f"in-turn{number}", manner)
        await web.looks_again(older.address)
        assert await tried("third", uncoded())
        assert not await tried("fourth", None)
        await web.looks_again(older.address)
        refused = await web.on(older.address, "fifth")
        assert refused.refusal == FULL
        assert "has refused what it says it has room for" in refused.json["reason"]
        ahead_s = 9.0
        await web.looks_again(older.address)
        assert not await tried("sixth", None)
        ahead_s = 11.0
        await web.looks_again(older.address)
        assert await tried("seventh", None)


# --- nobody up ---


@pytest.mark.parametrize("verb", ["maintenance", "drain"])
async def test_no_host_up_is_no_want_of_room(tmp_path: Path, verb: str) -> None:
    async with fake_hosts(FakeHost("a"), FakeHost("b")) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.post(f"/v1/hosts/a/{verb}")).status == 200
        assert (await web.deploy("vm", vcpus=17, level="1")).refusal == FULL
        assert (await web.post(f"/v1/hosts/b/{verb}")).status == 200
        assert (await web.deploy("vm")).refusal == AWAY
        assert (await web.get("/v1/vms/vm")).status == 404
        assert (await web.post("/v1/hosts/b/resume")).status == 200
        assert (await web.deploy("vm")).json["host"] == "b"


# --- sizes ---


async def test_a_size_changed_at_the_host_is_learned(tmp_path: Path) -> None:
    async with running(tmp_path / "host") as host:
        async with cluster(tmp_path, host.url) as web:
            assert (await web.deploy("vm", vcpus=2)).status == 201
            assert (await host.post("/v1/vms/vm/resize", {"vcpus": 3})).json["vcpus"] == 3
            assert (await web.vm("vm"))["vcpus"] == 3
            vms = await web.document("/v1/vms")
            assert [(vm["name"], vm["vcpus"]) for vm in vms] == [("vm", 3)]
            assert (await web.deploy("vm", vcpus=3)).status == 200
            assert (await web.deploy("vm", vcpus=2)).refusal == (409, "name-taken")
        async with cluster(tmp_path, host.url) as web:
            assert (await web.deploy("vm", vcpus=3)).status == 200
            assert (await web.post("/v1/vms/vm/resize", {"vcpus": 1})).json["vcpus"] == 1
            assert (await web.document("/v1/vms"))[0]["vcpus"] == 1
            assert (await web.remove("vm")).status == 200


# --- what nobody foresaw ---


class Stumbling:
    """A way to hosts with a fault of ours in it: looking at one of them raises what none names."""

    def __init__(self, client: HostClient, over: str) -> None:
        self._client = client
        self.over = over

    async def look(self, url: str, before: Report | None) -> Report | None:
        if url == self.over:
            raise LookupError("nobody foresaw that")
        return await self._client.look(url, before)

    async def deploy(self, site: Site, spec: VmSpec) -> Reply:
        return await self._client.deploy(site, spec)

    async def remove(self, site: Site, name: str, attempt: str = "") -> Reply:
        return await self._client.remove(site, name, attempt)

    async def cancel(self, site: Site, attempt: str) -> Reply:
        return await self._client.cancel(site, attempt)

    async def names(self, site: Site) -> frozenset[str]:
        return await self._client.names(site)

    async def ask(
        self, site: Site, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> Reply:
        return await self._client.ask(site, method, path, document)


@pytest.mark.parametrize("from_the_start", [True, False])
async def test_a_fault_of_ours_over_one_host_leaves_the_others_polled(
    tmp_path: Path, from_the_start: bool
) -> None:
    bad, good = FakeHost("bad"), FakeHost("good")
    ways: list[Stumbling] = []

    def through(client: HostClient) -> HostClient:
        ways.append(Stumbling(client, urls[0] if from_the_start else ""))
        return ways[0]

    async with fake_hosts(bad, good) as urls, cluster(tmp_path, *urls, through=through) as web:
        if from_the_start:
            assert await web.hosts() == {bad.address: "down", "good": "up"}
        else:
            assert (await web.on("bad", "vm")).status == 201
            ways[0].over = bad.url
            await web.turns("bad", state="suspect")
            shown = await web.turns("bad", state="down")
            assert "could not be taken in" in shown["problem"]
            assert (await web.vm("vm"))["status"] == "placed"
        for _ in range(3):
            await web.looks_again("good")
        good.run("theirs")
        await web.turns("good", vms=1, state="up")
        assert (await web.deploy("more")).json["host"] == "good"
        ways[0].over = ""
        await web.turns("bad", state="up", problem=None)
        assert (await web.on("bad", "again")).status == 201
