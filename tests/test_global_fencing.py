"""Fencing a host while it is asked for changes, or is back before anybody noticed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.clusterrig import SELDOM, Cluster, cluster, until
from tests.fakehost import FakeHost, Held, fake_hosts, resets

WRONG = (409, "wrong-state")


async def about_to_be_fenced(web: Cluster) -> bool:
    dry = {"name": "dry", "vcpus": 1, "memory_mib": 64, "level": "2", "image": "/x"}
    explained = (await web.post("/v1/vms?dry_run=1", dry)).json
    return any("about to be fenced" in (each["reason"] or "") for each in explained["hosts"])


@pytest.mark.parametrize("returns", [True, False], ids=["returns", "stays away"])
async def test_fencing_waits_for_what_is_under_way_and_looks_again(
    tmp_path: Path, returns: bool
) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        for name in ("leaves", "stays"):
            assert (await web.deploy(name)).status == 201
        host.manners["remove"] = held = Held()
        removal = asyncio.create_task(web.remove("leaves"))
        await held.reached.wait()
        host.manners["look"] = resets
        await web.turns("a", state="suspect")
        fencing = asyncio.create_task(web.post("/v1/hosts/a/fence"))
        await until(lambda: about_to_be_fenced(web))
        if returns:
            del host.manners["look"]
            await web.turns("a", state="up")
            # nothing may slip in now, or it would be lost at once
            assert (await web.deploy("more")).refusal == (409, "no-capacity")
        assert not fencing.done()
        held.let_go.set()
        assert (await removal).status == 200
        answer = await fencing
        assert not await about_to_be_fenced(web)
        vms = {vm["name"]: vm["status"] for vm in await web.document("/v1/vms")}
        if returns:
            assert answer.refusal == WRONG
            assert vms == {"stays": "placed"}
            shown = await web.host("a")
            assert (shown["state"], shown["fenced"]) == ("up", False)
            assert (await web.deploy("more")).status == 201
            assert not web.told("lost")
        else:
            assert (answer.status, answer.json["fenced"]) == (200, True)
            assert vms == {"stays": "lost"}


async def test_fencing_loses_also_what_was_promised_while_it_waited(tmp_path: Path) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        host.manners["deploy"] = held = Held()
        deploy = asyncio.create_task(web.deploy("vm"))
        await held.reached.wait()
        host.manners["look"] = resets
        await web.turns("a", state="down")
        fencing = asyncio.create_task(web.post("/v1/hosts/a/fence"))
        await until(lambda: about_to_be_fenced(web))
        held.let_go.set()
        assert (await deploy).status == 201
        assert (await fencing).status == 200
        assert (await web.vm("vm"))["status"] == "lost"


async def in_conflict(web: Cluster, host: FakeHost) -> None:
    """*host*, fenced, shows what it has and promised, and goes on to."""
    await web.turns("a", conflicts=["vm"], reachable=True, state="maintenance", fenced=True)
    for _ in range(2):
        unmoved = host.unmoved
        await web.looks_again("a")
        assert host.unmoved > unmoved
        vm = await web.vm("vm")
        assert (vm["status"], vm["conflicts"]) == ("lost", ["a"])
        assert (await web.host("a"))["conflicts"] == ["vm"]
    assert web.told("conflict", vm="vm", host="a")
    assert (await web.post("/v1/hosts/a/resume")).status == 200
    assert (await web.becomes("vm", "placed"))["conflicts"] == []


async def test_a_fenced_host_that_has_not_moved_shows_its_vms(tmp_path: Path) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        await web.looks_again("a")
        await host.go()
        await web.turns("a", state="down")
        assert (await web.post("/v1/hosts/a/fence")).status == 200
        await host.come()
        await in_conflict(web, host)


async def test_a_host_fenced_and_back_before_a_poll_missed_it(tmp_path: Path) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.deploy("vm")).status == 201
        await web.looks_again("a")
        await host.go()
        assert (await web.deploy("other")).status == 503
        assert (await web.post("/v1/hosts/a/fence")).status == 200
        await host.come()
        await web.looks_again("a")
        await in_conflict(web, host)
