"""Promises under strain: fenced hosts, names on two hosts, VMs nobody promised, a store that is
locked for a while."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp.web import Request, StreamResponse, json_response

from tests.clusterrig import Cluster, cluster, until
from tests.fakehost import FakeHost, Handler, fake_hosts, resets
from tests.webrig import running

WRONG = (409, "wrong-state")
UNKNOWN = (404, "unknown-vm")
STORE = (503, "store-unavailable")
BOTH = pytest.mark.parametrize("typed", [True, False], ids=["typed", "published only"])


async def missing(web: Cluster, name: str) -> bool:
    return (await web.get(f"/v1/vms/{name}")).status == 404


async def fenced(web: Cluster, host: FakeHost, name: str) -> None:
    """Fence *host*, known as *name*, once it is down."""
    await host.go()
    await web.turns(name, state="down")
    answer = await web.post(f"/v1/hosts/{name}/fence")
    assert answer.status == 200, answer.body
    assert (answer.json["state"], answer.json["fenced"]) == ("maintenance", True)


# --- fencing ---


@BOTH
async def test_fencing_ends_what_is_unknown_and_loses_what_was_placed(
    tmp_path: Path, typed: bool
) -> None:
    host, other = FakeHost("a", typed=typed), FakeHost("b")
    async with fake_hosts(host, other) as urls, cluster(tmp_path, *urls) as web:
        name = "a" if typed else host.address
        assert (await web.on(name, "placed")).status == 201
        assert (await web.on(name, "leaving")).status == 201
        host.manners = {"deploy": resets, "cancel": resets, "remove": resets}
        assert (await web.on(name, "doubtful")).json["outcome"] == "unknown"
        assert (await web.remove("leaving")).status == 202
        await fenced(web, host, name)
        assert web.told("host", host=name, fenced=True)
        lost = await web.vm("placed")
        assert (lost["status"], lost["reason"]) == ("lost", "its host was fenced")
        assert await missing(web, "doubtful")
        assert await missing(web, "leaving")
        # the names can be had again, that of the lost one once it is removed
        assert (await web.deploy("doubtful")).json["host"] == "b"
        assert (await web.deploy("placed")).refusal == WRONG
        assert (await web.remove("placed")).json == {"success": True, "reason": None}
        assert (await web.deploy("placed")).json["host"] == "b"


async def test_a_fenced_host_that_returns_stays_out_until_it_is_resumed(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    async with fake_hosts(a, b) as urls:
        async with cluster(tmp_path, *urls) as web:
            for name in ("kept", "moved"):
                assert (await web.on("a", name)).status == 201
            await fenced(web, a, "a")
            assert (await web.remove("moved")).status == 200
            assert (await web.deploy("moved")).json["host"] == "b"
            await a.come()
            found = await web.turns("a", reachable=True)
            assert (found["state"], found["fenced"]) == ("maintenance", True)
            assert found["conflicts"] == ["kept", "moved"]
            assert web.told("conflict", vm="kept", host="a")
            assert web.told("conflict", vm="moved", host="a", promised_on="b")
            vm = await web.vm("kept")
            assert (vm["status"], vm["conflicts"]) == ("lost", ["a"])
            assert (await web.vm("moved"))["conflicts"] == ["a"]
            assert (await web.on("a", "new")).refusal == (409, "no-capacity")
            # neither drain nor maintenance lets it in
            for verb in ("drain", "maintenance"):
                answer = await web.post(f"/v1/hosts/a/{verb}")
                assert (answer.json["state"], answer.json["fenced"]) == ("maintenance", True)
        async with cluster(tmp_path, *urls) as web:
            assert (await web.host("a"))["fenced"] is True
            assert (await web.vm("kept"))["status"] == "lost"
            answer = await web.post("/v1/hosts/a/resume")
            assert (answer.json["state"], answer.json["fenced"]) == ("up", False)
            vm = await web.becomes("kept", "placed")
            assert (vm["host"], vm["conflicts"]) == ("a", [])
            assert (await web.vm("moved"))["conflicts"] == ["a"]
            assert (await web.host("a"))["conflicts"] == ["moved"]
            assert (await web.on("a", "new")).status == 201


async def test_what_returns_on_a_fenced_host_after_its_end_is_found_there(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.on("a", "vm")).status == 201
        await fenced(web, a, "a")
        assert (await web.remove("vm")).status == 200
        assert await missing(web, "vm")
        await a.come()
        await web.turns("a", reachable=True, conflicts=["vm"])
        vm = await web.vm("vm")
        assert (vm["host"], vm["reason"]) == ("a", "found there; it was not placed from here")
        assert (await web.deploy("vm")).refusal == (409, "name-taken")
        assert (await web.remove("vm")).status == 200
        assert a.vms == {}


async def test_a_host_is_fenced_only_while_it_does_not_answer(tmp_path: Path) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        for verb in ("drain", "maintenance"):
            await web.post(f"/v1/hosts/a/{verb}")
            assert (await web.post("/v1/hosts/a/fence")).refusal == WRONG
            assert (await web.host("a"))["fenced"] is False
        assert (await web.vm("vm"))["status"] == "placed"


async def test_a_host_away_cannot_be_missed_by_fencing_it_twice(tmp_path: Path) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        await fenced(web, host, "a")
        assert (await web.post("/v1/hosts/a/fence")).status == 200
        assert (await web.vm("vm"))["status"] == "lost"
        assert (await web.deploy("new")).status in (409, 503)


# --- names on two hosts, and VMs nobody promised ---


@BOTH
async def test_a_name_on_two_hosts_is_a_conflict(tmp_path: Path, typed: bool) -> None:
    a, b = FakeHost("a", typed=typed), FakeHost("b", typed=typed)
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        name_a, name_b = ("a", "b") if typed else (a.address, b.address)
        assert (await web.on(name_a, "vm")).status == 201
        b.run("vm")
        await web.turns(name_b, conflicts=["vm"])
        assert (await web.host(name_a))["conflicts"] == []
        vm = await web.vm("vm")
        assert (vm["host"], vm["status"], vm["conflicts"]) == (name_a, "placed", [name_b])
        assert web.told("conflict", vm="vm", host=name_b, promised_on=name_a)
        assert (await web.deploy("vm")).status == 200
        # ours goes, theirs stays and is nobody's
        assert (await web.remove("vm")).status == 200
        assert (list(a.vms), list(b.vms)) == ([], ["vm"])
        assert (await web.vm("vm"))["host"] == name_b
        assert (await web.deploy("vm")).refusal == (409, "name-taken")
        assert (await web.remove("vm")).status == 200
        assert b.vms == {}
        await web.turns(name_b, conflicts=[])
        assert (await web.deploy("vm")).status == 201


@BOTH
async def test_vms_that_were_found_are_listed_and_can_be_removed(
    tmp_path: Path, typed: bool
) -> None:
    host = FakeHost("a", typed=typed)
    host.run("found", 2)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        name = "a" if typed else host.address
        assert await web.document("/listvm") == {"found": name}
        (vm,) = await web.document("/v1/vms")
        assert (vm["name"], vm["host"], vm["status"]) == ("found", name, "placed")
        vm = await web.vm("found")
        assert vm["reason"] == "found there; it was not placed from here"
        assert vm["vcpus"] == (2 if typed else None)
        assert (await web.deploy("found")).refusal == (409, "name-taken")
        assert (await web.deploy("near", affinity=["found"])).status == 201
        assert (await web.remove("found")).json == {"success": True, "reason": None}
        assert list(host.vms) == ["near"]
        assert await missing(web, "found")
        assert (await web.remove("found")).refusal == UNKNOWN
        assert (await web.deploy("found")).status == 201


async def test_removing_what_was_found_may_be_done_without_an_answer(tmp_path: Path) -> None:
    host = FakeHost("a")
    host.run("found", 2)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        host.manners["remove"] = resets
        answer = await web.remove("found")
        assert (answer.status, answer.json["code"]) == (503, "host-unreachable")
        assert answer.json["outcome"] == "unknown"
        del host.manners["remove"]
        assert (await web.remove("found")).json["success"] is True
        assert host.vms == {}


ODD_NAMES = ["web server 1", "a/b", "..", "x?y=1#z", "é", "%2e", "a" * 200, "<b>", "a\nb", "'\""]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
async def test_found_vms_may_have_any_name(tmp_path: Path, name: str) -> None:
    host = FakeHost("a")
    host.run(name)
    host.run("other")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert await web.document("/listvm") == {name: "a", "other": "a"}
        quoted = quote(name, safe="")
        if name != "..":  # which no client leaves in an address
            vm = await web.document(f"/v1/vms/{quoted}")
            assert (vm["name"], vm["state"]) == (name, "running")
            assert (await web.ask("DELETE", f"/v1/vms/{quoted}")).status == 200
            assert list(host.vms) == ["other"]
        assert not any(each.document for each in host.asked)


async def test_found_on_two_hosts_and_promised_by_nobody(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    for host in (a, b):
        host.run("vm")
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        vm = await web.vm("vm")
        assert sorted([vm["host"], *vm["conflicts"]]) == ["a", "b"]
        removal = await web.remove("vm")
        assert removal.refusal == WRONG
        assert "at its own host" in removal.json["reason"]
        assert (await web.deploy("vm")).refusal == (409, "name-taken")
        assert len(a.vms) == len(b.vms) == 1


async def test_a_real_host_keeps_what_it_was_not_told_to_remove(tmp_path: Path) -> None:
    async with running(tmp_path / "here") as host, cluster(tmp_path, host.url) as web:
        assert (await host.deploy("theirs")).status == 201
        await until(lambda: listed(web, "theirs"))
        vm = await web.vm("theirs")
        assert (vm["host"], vm["level"], vm["state"]) == ("here", "2.0", "running")
        suspended = await web.post("/v1/vms/theirs/suspend")
        assert (suspended.status, suspended.json["state"]) == (200, "suspended")
        assert (await host.get("/listvm")).json == ["theirs"]


async def listed(web: Cluster, name: str) -> bool:
    return name in await web.document("/listvm")


# --- a store that is locked for a while ---


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """As another program does that writes to the file and takes its time."""
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_while_the_store_is_locked_nothing_changes_and_all_can_be_read(
    tmp_path: Path,
) -> None:
    host, new = FakeHost("a"), FakeHost("b")
    async with fake_hosts(host, new) as (url, other), cluster(tmp_path, url) as web:
        assert (await web.deploy("there")).status == 201
        asked = host.times_asked("deploy"), host.times_asked("remove")
        vms = await web.document("/v1/vms")
        with locked(web.store):
            refused = await web.deploy("vm")
            assert refused.refusal == STORE
            assert "is locked by another program" in refused.json["reason"]
            assert (await web.get(PUBLISHED)).refusal == STORE
            assert (await web.remove("there")).refusal == STORE
            assert (await web.get("/remove?name=there")).refusal == STORE
            assert (await web.post("/v1/hosts/a/drain")).refusal == STORE
            assert (await web.ask("PATCH", "/v1/hosts/a", {"labels": {"a": "b"}})).refusal == STORE
            added = await web.post("/v1/hosts", {"url": other})
            assert added.refusal == STORE
            # the same again is no change
            assert (await web.deploy("there")).status == 200
            assert await web.document("/v1/vms") == vms
            assert await web.document("/listvm") == {"there": "a"}
            assert await web.addresses() == [("a", url)]
            assert (await web.host("a"))["state"] == "up"
            assert (await web.host("a"))["labels"] == {}
            for target in ("/status", "/v1/capacity?cpu=1&mem=1&oc=1", "/metrics", "/healthz"):
                assert (await web.get(target)).status == 200
            explained = await web.post("/v1/vms?dry_run=1", {**DRY})
            assert explained.json["host"] == "a"
            assert [each["host"] for each in explained.json["hosts"]] == ["a"]
            assert (host.times_asked("deploy"), host.times_asked("remove")) == asked
        # it goes on by itself
        assert (await web.deploy("vm")).status == 201
        assert (await web.remove("there")).status == 200
        assert (await web.post("/v1/hosts", {"url": other})).status == 201
        assert (await web.on("b", "on-b")).status == 201
        assert list(host.vms) == ["vm"]


PUBLISHED = "/deploy?name=other&cpu=1&mem=1&oc=1&qcow2=/var/lib/libvirt/images/hello.qcow2"
DRY = {"name": "dry", "vcpus": 1, "memory_mib": 64, "level": "2", "image": "/x"}


@pytest.mark.parametrize("verb", ["deploy", "remove"])
async def test_a_store_locked_while_the_host_is_asked(tmp_path: Path, verb: str) -> None:
    host = FakeHost("a")
    lock: list[sqlite3.Connection] = []

    async def locks(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
        lock.append(sqlite3.connect(web.store, isolation_level=None))
        lock[0].execute("BEGIN IMMEDIATE")
        return await handler(request)

    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        if verb == "remove":
            assert (await web.deploy("vm")).status == 201
        host.manners[verb] = locks
        answer = await (web.deploy("vm") if verb == "deploy" else web.remove("vm"))
        assert (answer.status, answer.json["code"]) == STORE
        assert len(host.vms) == (1 if verb == "deploy" else 0)
        host.manners.clear()
        lock[0].rollback()
        lock[0].close()
        if verb == "deploy":
            assert "repeat the same request" in answer.json["reason"]
            assert (await web.deploy("vm")).status == 200
            assert (await web.vm("vm"))["status"] == "placed"
            assert host.times_asked("deploy") == 1
        else:
            await until(lambda: missing(web, "vm"))
            assert (await web.deploy("vm")).status == 201


@BOTH
async def test_a_store_locked_between_two_hosts_leaves_no_doubt(
    tmp_path: Path, typed: bool
) -> None:
    a, b = FakeHost("a", typed=typed), FakeHost("b", typed=typed)
    lock: list[sqlite3.Connection] = []

    async def locks(_: FakeHost, __: Request, ___: Handler) -> StreamResponse:
        lock.append(sqlite3.connect(web.store, isolation_level=None))
        lock[0].execute("BEGIN IMMEDIATE")
        return json_response({"success": False, "reason": "no room"})

    a.manners["deploy"] = locks
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm", policy="first-fit")).refusal == STORE
        assert (a.times_asked("deploy"), b.times_asked("deploy")) == (1, 0)
        lock[0].rollback()
        lock[0].close()
        await until(lambda: missing(web, "vm"))
        a.manners.clear()
        assert (await web.deploy("vm")).status == 201


async def test_a_vm_lost_while_the_store_is_locked_is_lost_afterwards(tmp_path: Path) -> None:
    host = FakeHost("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        polls = len(host.asked)
        with locked(web.store):
            host.vms.clear()
            await until(lambda: asked_more(host, polls + 4))
            assert (await web.vm("vm"))["status"] == "placed"
        await web.becomes("vm", "lost")


async def asked_more(host: FakeHost, than: int) -> bool:
    return len(host.asked) > than
