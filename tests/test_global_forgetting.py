"""Hosts that an operator has forgotten: which may be, and what becomes of one that returns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clusterrig import Cluster, cluster, until
from tests.fakehost import FakeHost, fake_hosts, resets
from tests.webrig import Answer

WRONG = (409, "wrong-state")


async def forget(web: Cluster, name: str) -> Answer:
    return await web.ask("DELETE", f"/v1/hosts/{name}")


async def maintained(web: Cluster, name: str) -> None:
    assert (await web.post(f"/v1/hosts/{name}/maintenance")).json["state"] == "maintenance"


async def refused(web: Cluster, name: str, because: str) -> None:
    before = await web.addresses(), await web.document("/v1/vms")
    answer = await forget(web, name)
    assert answer.refusal == WRONG
    assert because in answer.json["reason"]
    assert (await web.addresses(), await web.document("/v1/vms")) == before


async def test_a_host_that_answers_is_forgotten_only_in_maintenance_empty_and_off_the_list(
    tmp_path: Path,
) -> None:
    listed, added = FakeHost("listed"), FakeHost("added")
    async with fake_hosts(listed, added) as (url, other), cluster(tmp_path, url) as web:
        assert (await web.post("/v1/hosts", {"url": other})).status == 201
        for name in ("listed", "added"):
            await refused(web, name, "take it into maintenance")
            assert (await web.post(f"/v1/hosts/{name}/drain")).status == 200
            await refused(web, name, "take it into maintenance")
            await maintained(web, name)
        await refused(web, "listed", "is on the list of hosts")
        # with a VM that nobody promised
        added.run("theirs")
        await web.turns("added", vms=1)
        await refused(web, "added", "empty")
        added.vms.clear()
        await web.turns("added", vms=0)
        answer = await forget(web, "added")
        assert (answer.status, answer.json["success"]) == (200, True)
        assert await web.addresses() == [("listed", url)]
        assert web.told("host", host="added", state="forgotten")
        assert (await forget(web, "added")).refusal == (404, "unknown-host")
        # nobody asks it any more
        asked = len(added.asked)
        for _ in range(3):
            await web.looks_again("listed")
        assert len(added.asked) == asked


@pytest.mark.parametrize("down", [False, True], ids=["answers", "is down"])
@pytest.mark.parametrize("status", ["placed", "removing", "unknown", "lost"])
async def test_a_host_that_vms_are_promised_on_is_not_forgotten(
    tmp_path: Path, status: str, down: bool
) -> None:
    host = FakeHost("h")
    async with fake_hosts(host) as (url,), cluster(tmp_path) as web:
        assert (await web.post("/v1/hosts", {"url": url})).status == 201
        if status == "unknown":
            host.manners = {"deploy": resets, "cancel": resets}
        await web.deploy("vm")
        if status == "removing":
            host.manners = {"remove": resets}
            assert (await web.remove("vm")).status == 202
        if status == "lost":
            host.vms.clear()
        await web.becomes("vm", status)
        await maintained(web, "h")
        if down:
            await host.go()
            await web.turns("h", reachable=False)
        await refused(web, "h", "promised on host")
        assert (await web.vm("vm"))["status"] == status


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "added"])
async def test_a_host_that_is_down_is_forgotten_and_new_when_it_returns(
    tmp_path: Path, listed: bool
) -> None:
    host, other = FakeHost("h"), FakeHost("other")
    async with fake_hosts(other, host) as (others, url):
        urls = (others, url) if listed else (others,)
        async with cluster(tmp_path, *urls) as web:
            if not listed:
                assert (await web.post("/v1/hosts", {"url": url})).status == 201
            labels = {"labels": {"rack": "one"}}
            assert (await web.ask("PATCH", "/v1/hosts/h", labels)).status == 200
            assert (await web.on("h", "vm")).status == 201
            assert (await web.post("/v1/hosts/h/drain")).status == 200
            await host.go()
            await web.turns("h", state="down")
            assert (await web.post("/v1/hosts/h/fence")).json["fenced"] is True
            assert (await web.remove("vm")).status == 200
            assert (await forget(web, "h")).status == 200
            assert (await web.get("/v1/hosts/h")).refusal == (404, "unknown-host")
            assert (await web.on("h", "vm")).refusal == (404, "unknown-host")
            # what is listed is waited for
            known = {host["url"] for host in await web.document("/v1/hosts")}
            assert known == ({others, url} if listed else {others})
            assert (await web.deploy("vm")).json["host"] == "other"
            assert (await web.remove("vm")).status == 200
            # it has kept what it had, and everybody can see that
            await host.come()
            if not listed:
                assert (await web.post("/v1/hosts", {"url": url})).status == 201
            back = await web.turns("h", state="up", fenced=False, labels={}, vms=1)
            assert back["conflicts"] == []
            assert await web.document("/listvm") == {"vm": "h"}
            assert (await web.deploy("vm")).refusal == (409, "name-taken")
            assert (await web.on("h", "new")).status == 201
        async with cluster(tmp_path, *urls) as web:
            assert await web.hosts() == {"other": "up", "h": "up"}


async def test_a_host_that_is_forgotten_stays_so_after_a_restart(tmp_path: Path) -> None:
    host = FakeHost("h")
    async with fake_hosts(host) as (url,):
        async with cluster(tmp_path) as web:
            assert (await web.post("/v1/hosts", {"url": url})).status == 201
            await maintained(web, "h")
            assert (await forget(web, "h")).status == 200
        async with cluster(tmp_path) as web:
            assert await web.addresses() == []


async def test_a_host_no_longer_listed_can_be_forgotten(tmp_path: Path) -> None:
    host, other = FakeHost("h"), FakeHost("other")
    async with fake_hosts(host, other) as (url, others):
        async with cluster(tmp_path, url, others) as web:
            await maintained(web, "h")
        async with cluster(tmp_path, others) as web:
            assert await web.hosts() == {"h": "maintenance", "other": "up"}
            assert (await forget(web, "h")).status == 200
            assert await web.hosts() == {"other": "up"}
            answer = await web.post("/v1/hosts", {"url": url})
            assert (answer.status, answer.json["state"]) == (201, "up")


async def test_a_new_host_takes_the_name_of_one_forgotten(tmp_path: Path) -> None:
    old, new = FakeHost("h"), FakeHost("h")
    async with fake_hosts(old, new) as (url, other), cluster(tmp_path, url) as web:
        assert (await web.deploy("vm")).status == 201
        await old.go()
        await web.turns("h", state="down")
        assert (await web.post("/v1/hosts", {"url": other})).refusal == (409, "name-taken")
        assert (await web.post("/v1/hosts/h/fence")).status == 200
        assert (await web.remove("vm")).status == 200
        assert (await forget(web, "h")).status == 200
        answer = await web.post("/v1/hosts", {"url": other})
        assert (answer.status, answer.json["name"], answer.json["state"]) == (201, "h", "up")
        assert (await web.deploy("vm")).json["host"] == "h"
        assert new.vms.keys() == {"vm"}
        # and the old one is the double now
        await old.come()

        async def left_out() -> bool:
            shown = await web.host(old.address)
            return bool(shown) and "calls itself h" in (shown["problem"] or "")

        await until(left_out)
        assert (await web.vm("vm"))["conflicts"] == []
