"""Hosts that come back otherwise than they went: emptier, elsewhere, or as somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clusterrig import Cluster, cluster, until
from tests.fakehost import FakeHost, fake_hosts
from tests.webrig import running

TAKEN = (409, "name-taken")
AWAY = (503, "host-unreachable")
LOST = "lost"


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "published only"])
async def test_a_host_that_returns_with_fewer_vms(tmp_path: Path, typed: bool) -> None:
    host = FakeHost("here", typed=typed)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        for name in ("stays", "goes"):
            assert (await web.deploy(name)).status == 201
        await host.go()
        kept = host.vms.pop("goes")
        await host.come()
        lost = await web.becomes("goes", LOST)
        assert "no longer has it" in lost["reason"]
        assert web.told(LOST, vm="goes")
        assert (await web.vm("stays"))["status"] == "placed"
        again = await web.deploy("goes")
        assert again.refusal == (409, "wrong-state")
        assert "remove it, then deploy it again" in again.json["reason"]
        assert (await web.post("/v1/vms/goes/start")).refusal == (409, "wrong-state")
        # found again after all
        host.vms["goes"] = kept
        assert (await web.becomes("goes", "placed"))["reason"] is None
        del host.vms["goes"]
        await web.becomes("goes", LOST)
        assert (await web.remove("goes")).json["success"] is True
        assert (await web.get("/v1/vms/goes")).refusal == (404, "unknown-vm")
        assert (await web.deploy("goes")).status == 201
        assert set(host.vms) == {"stays", "goes"}


async def test_another_host_on_the_address_of_one(tmp_path: Path) -> None:
    old, new = FakeHost("old"), FakeHost("new")
    async with fake_hosts(old) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        await old.go()
        await new.come(old.port)
        try:
            await web.turns("new", state="up")
            gone = await web.host("old")
            assert (gone["state"], gone["reachable"]) == ("down", False)
            assert "is answered by new now" in gone["problem"]
            assert web.told("host", host="old", state="down")
            # what was promised stays with the old one, and the new one is not asked about it
            vm = await web.vm("vm")
            assert (vm["host"], vm["status"]) == ("old", "placed")
            removal = await web.remove("vm")
            assert (removal.status, removal.json["status"]) == (202, "removing")
            assert new.times_asked("remove") == 0
            assert (await web.deploy("more")).json["host"] == "new"
            # the old one is found at another address, and all goes on
            await old.come(0)
            answer = await web.post("/v1/hosts", {"url": old.url})
            assert (answer.status, answer.json["url"]) == (200, old.url)
            await until(lambda: gone_from(web, "vm"))
            assert old.vms == {}
            assert await web.hosts() == {"old": "up", "new": "up"}
        finally:
            await new.go()


async def gone_from(web: Cluster, name: str) -> bool:
    return (await web.get(f"/v1/vms/{name}")).status == 404


async def test_two_hosts_that_swap_addresses(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.on("a", "on-a")).status == 201
        assert (await web.on("b", "on-b")).status == 201
        a.name, a.vms, b.name, b.vms = b.name, b.vms, a.name, a.vms

        async def swapped() -> bool:
            return sorted(await web.addresses()) == [("a", b.url), ("b", a.url)]

        await until(swapped)
        await web.turns("a", state="up")
        await web.turns("b", state="up")
        assert await web.document("/listvm") == {"on-a": "a", "on-b": "b"}
        assert [vm["status"] for vm in await web.document("/v1/vms")] == ["placed", "placed"]
        assert (await web.remove("on-a")).status == 200
        assert a.vms.keys() == {"on-b"}


async def test_a_host_that_moved_while_nobody_looked(tmp_path: Path) -> None:
    host = FakeHost("here")
    async with fake_hosts(host) as urls:
        async with cluster(tmp_path, *urls) as web:
            assert (await web.deploy("vm", labels={"app": "db"})).status == 201
            await web.ask("PATCH", "/v1/hosts/here", {"labels": {"rack": "one"}})
        before = host.url
        await host.go()
        await host.come(0)
        assert host.url != before
        async with cluster(tmp_path, host.url) as web:
            here = await web.host("here")
            assert (here["url"], here["labels"]) == (host.url, {"rack": "one"})
            assert (await web.becomes("vm", "placed"))["host"] == "here"
            assert (await web.remove("vm")).status == 200


async def test_a_host_no_longer_listed_keeps_its_promises(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    async with fake_hosts(a, b) as (url_a, url_b):
        async with cluster(tmp_path, url_a, url_b) as web:
            assert (await web.on("b", "vm")).status == 201
        async with cluster(tmp_path, url_a) as web:
            gone = await web.host("b")
            assert gone["state"] == "down"
            assert "list of hosts no longer" in gone["problem"]
            assert await web.document("/listvm") == {"vm": "b"}
            assert (await web.deploy("vm")).status == 200
            assert (await web.deploy("vm", vcpus=3)).refusal == TAKEN
            answer = await web.post("/v1/hosts", {"url": url_b})
            assert (answer.status, answer.json["state"]) == (200, "up")
            assert (await web.remove("vm")).status == 200
            assert b.vms == {}


async def test_an_older_host_that_is_renewed_takes_its_promises_along(tmp_path: Path) -> None:
    host = FakeHost("epyc-1", typed=False)
    async with fake_hosts(host) as urls:
        async with cluster(tmp_path, *urls) as web:
            assert await web.hosts() == {host.address: "up"}
            assert (await web.deploy("vm")).json["host"] == host.address
            labelled = await web.ask(
                "PATCH", f"/v1/hosts/{host.address}", {"labels": {"rack": "one"}}
            )
            assert labelled.json["labels"] == {"rack": "one"}
            await host.go()
            await web.turns(host.address, state="suspect")
            host.typed = True
            await host.come()
            await web.turns("epyc-1", state="up", typed=True, labels={"rack": "one"})
            assert await web.hosts() == {"epyc-1": "up"}
            vm = await web.vm("vm")
            assert (vm["host"], vm["status"], vm["state"]) == ("epyc-1", "placed", "running")
            assert web.told("host", host="epyc-1", was_called=host.address)
        async with cluster(tmp_path, *urls) as web:
            assert await web.document("/listvm") == {"vm": "epyc-1"}
            assert (await web.remove("vm")).status == 200
            assert host.vms == {}


async def test_an_older_host_is_wished_for_by_its_address(tmp_path: Path) -> None:
    a, b = FakeHost("a", typed=False), FakeHost("b", typed=False)
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.on(b.address, "there")).json["host"] == b.address
        answer = await web.deploy("elsewhere", avoid=[b.address])
        assert (answer.status, answer.json["host"]) == (201, a.address)


async def test_an_older_host_is_not_asked_for_what_it_cannot_say(tmp_path: Path) -> None:
    older = FakeHost("older", typed=False)
    async with fake_hosts(older) as urls, cluster(tmp_path, *urls) as web:
        for more in ({"start": False}, {"disk": "in-place"}, {"max_vcpus": 4}):
            answer = await web.deploy("vm", **more)
            assert answer.refusal == (409, "no-capacity")
            assert "too old for" in answer.json["reason"]
        assert older.times_asked("deploy") == 0
        assert (await web.deploy("vm")).status == 201
        assert (await web.post("/v1/vms/vm/suspend")).refusal == (409, "wrong-state")


async def test_a_real_local_scheduler_under_another_name(tmp_path: Path) -> None:
    async with running(tmp_path / "one", name="one") as first:
        port = first.port
        async with cluster(tmp_path, first.url) as web:
            assert (await web.deploy("vm")).status == 201
            await first.get("/healthz")
        url = first.url
    async with cluster(tmp_path, url) as web:
        assert await web.hosts() == {"one": "down"}
        assert (await web.deploy("other")).refusal == AWAY
        async with running(tmp_path / "two", name="two", port=port):
            await web.turns("two", state="up")
            assert (await web.vm("vm"))["host"] == "one"
            assert (await web.deploy("other")).json["host"] == "two"
