"""Much at once: wishes, renewed hosts, hung hosts, a failing store and a clock set back,
each at the moment when it hurts most."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.web import Request, StreamResponse

from tests.clusterrig import SELDOM, Cluster, cluster, until
from tests.fakehost import (
    FakeHost,
    Handler,
    Held,
    Manner,
    answers,
    done_then,
    fake_hosts,
    refuses,
    resets,
)
from tests.webrig import Answer

AWAY = (503, "host-unreachable")
STORE = (503, "store-unavailable")
POLICIES = pytest.mark.parametrize(
    "policy",
    ["progress", "first-fit", "best-fit", "round-robin", "concentrated", "n_by_hosts", "random"],
)


def together(parties: int) -> Manner:
    """Requests wait for each other, so that all were on their way before any is done."""
    barrier = asyncio.Barrier(parties)

    async def meet(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
        async with asyncio.timeout(20):
            await barrier.wait()
        return await handler(request)

    return meet


def taken(*answers: Answer) -> list[str]:
    """The hosts of VMs that were all placed."""
    assert [answer.status for answer in answers] == [201] * len(answers), answers
    return [answer.json["host"] for answer in answers]


# --- wishes ---


@POLICIES
async def test_parallel_deploys_apart_from_their_own_label(tmp_path: Path, policy: str) -> None:
    hosts = [FakeHost(name) for name in "abc"]
    meet = together(3)
    for host in hosts:
        host.manners["deploy"] = meet
    apart = {"policy": policy, "labels": {"app": "db"}, "anti_affinity": ["app=db"]}
    async with fake_hosts(*hosts) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        placed = await asyncio.gather(*[web.deploy(f"db{number}", **apart) for number in range(3)])
        assert sorted(taken(*placed)) == ["a", "b", "c"]
        refused = await web.deploy("db4", **apart)
        assert refused.refusal == (409, "no-capacity")
        assert "to keep away from" in refused.json["reason"]


async def test_parallel_deploys_near_their_own_label(tmp_path: Path) -> None:
    hosts = [FakeHost(name) for name in "abc"]
    meet = together(3)
    for host in hosts:
        host.manners["deploy"] = meet
    near = {"policy": "n_by_hosts", "labels": {"app": "db"}, "affinity": ["app=db"]}
    async with fake_hosts(*hosts) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        placed = await asyncio.gather(*[web.deploy(f"db{number}", **near) for number in range(3)])
        assert len(set(taken(*placed))) == 1


@POLICIES
@pytest.mark.parametrize("labels", [{"app": "db"}, {"app": "db", "tier": "1"}, {}], ids=len)
async def test_parallel_deploys_spread_over_racks(
    tmp_path: Path, policy: str, labels: dict[str, str]
) -> None:
    hosts = [FakeHost(name) for name in "abcd"]
    racks = dict(zip("abcd", ("one", "one", "two", "three"), strict=True))
    meet = together(6)
    for host in hosts:
        host.manners["deploy"] = meet
    spread = {"policy": policy, "labels": labels, "spread": "rack"}
    async with fake_hosts(*hosts) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        for name, rack in racks.items():
            await web.ask("PATCH", f"/v1/hosts/{name}", {"labels": {"rack": rack}})
        placed = await asyncio.gather(*[web.deploy(f"db{n}", **spread) for n in range(6)])
        counts = Counter(racks[host] for host in taken(*placed))
        assert counts == {"one": 2, "two": 2, "three": 2}


async def test_a_deploy_that_came_to_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    apart = {"policy": "first-fit", "labels": {"app": "db"}, "anti_affinity": ["app=db"]}
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        a.manners["deploy"] = refuses("hypervisor-failed", 502)
        b.manners["deploy"] = refuses("wrong-state")
        assert (await web.deploy("no", **apart)).json["code"] == "wrong-state"
        a.manners.clear()
        b.manners.clear()
        assert sorted(taken(await web.deploy("x", **apart), await web.deploy("y", **apart))) == [
            "a",
            "b",
        ]


# --- an older host renewed while it is asked ---


async def renewed(web: Cluster, host: FakeHost) -> None:
    """*host*, an older one, restarted as a new one and was found to be one."""
    host.manners["look"] = answers(503, {"success": False, "reason": "starting"})

    async def missed() -> bool:
        return web.scheduler.fleet.named(host.address).missed > 0

    await until(missed)
    host.typed = True
    del host.manners["look"]
    await web.turns(host.name, state="up", typed=True)
    assert host.address not in await web.hosts()


@pytest.mark.parametrize(
    ("manner", "status"), [(None, 201), (resets, 201)], ids=["answered", "answer lost"]
)
async def test_a_host_renewed_while_it_deploys(
    tmp_path: Path, manner: Manner | None, status: int
) -> None:
    host = FakeHost("epyc-1", typed=False)
    held = Held()

    async def meet(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
        answer = await held(host, request, handler)
        return answer if manner is None else await manner(host, request, handler)

    host.manners["deploy"] = meet
    async with fake_hosts(host) as urls:
        async with cluster(tmp_path, *urls) as web:
            deploy = asyncio.create_task(web.deploy("vm"))
            await held.reached.wait()
            await renewed(web, host)
            held.let_go.set()
            answer = await deploy
            assert (answer.status, answer.json["host"]) == (status, "epyc-1")
            vm = await web.becomes("vm", "placed")
            assert (vm["host"], vm["conflicts"], vm["state"]) == ("epyc-1", [], "running")
            assert (await web.post("/v1/vms/vm/reboot")).json["host"] == "epyc-1"
            await web.looks_again("epyc-1")
            assert (await web.host("epyc-1"))["vms"] == 1
        async with cluster(tmp_path, *urls) as web:
            assert await web.hosts() == {"epyc-1": "up"}
            vm = await web.vm("vm")
            assert (vm["host"], vm["status"], vm["conflicts"]) == ("epyc-1", "placed", [])
            assert (await web.remove("vm")).status == 200
            assert host.vms == {}
            assert (await web.get("/v1/vms/vm")).status == 404


async def test_a_host_renewed_before_it_refuses(tmp_path: Path) -> None:
    host = FakeHost("epyc-1", typed=False)
    held = Held()

    async def meet(_: FakeHost, request: Request, __: Handler) -> StreamResponse:
        return await held(host, request, refuses_it)

    async def refuses_it(request: Request) -> StreamResponse:
        return await refuses("hypervisor-failed", 502)(host, request, refuses_it)

    host.manners["deploy"] = meet
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        deploy = asyncio.create_task(web.deploy("vm"))
        await held.reached.wait()
        await renewed(web, host)
        held.let_go.set()
        assert (await deploy).json["code"] == "hypervisor-failed"
        assert (await web.get("/v1/vms/vm")).status == 404
        assert (await web.host("epyc-1"))["cpus"]["free"] == 16
        host.manners.clear()
        assert (await web.on("epyc-1", "vm")).status == 201


@pytest.mark.parametrize("refused", [False, True], ids=["done", "refused"])
async def test_a_host_renewed_while_it_removes(tmp_path: Path, refused: bool) -> None:
    host = FakeHost("epyc-1", typed=False)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        held = Held()

        async def meet(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
            return await held(host, request, refuses_it if refused else handler)

        async def refuses_it(request: Request) -> StreamResponse:
            return await refuses("hypervisor-failed", 502)(host, request, refuses_it)

        host.manners["remove"] = meet
        removal = asyncio.create_task(web.remove("vm"))
        await held.reached.wait()
        await renewed(web, host)
        held.let_go.set()
        answer = await removal
        if refused:
            assert (answer.status, answer.json["code"]) == (502, "hypervisor-failed")
            vm = await web.vm("vm")
            assert (vm["host"], vm["status"]) == ("epyc-1", "placed")
        else:
            assert answer.status == 200
            assert (await web.get("/v1/vms/vm")).status == 404
            assert await web.document("/listvm") == {}
        assert len(host.vms) == refused


async def test_a_renewal_that_is_taken_back(tmp_path: Path) -> None:
    host = FakeHost("epyc-1", typed=False)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.on(host.address, "before")).status == 201
        await renewed(web, host)
        assert (await web.on("epyc-1", "between")).status == 201
        host.typed = False
        await web.turns(host.address, state="up", conflicts=["before", "between"])
        answer = await web.on(host.address, "after")
        assert (answer.status, answer.json["host"]) == (201, host.address)
        await web.looks_again(host.address)
        vm = await web.vm("after")
        assert (vm["host"], vm["status"], vm["conflicts"]) == (host.address, "placed", [])
        assert (await web.remove("after")).status == 200
        assert host.vms.keys() == {"before", "between"}


# --- a hung host ---


async def test_verbs_on_a_hung_host_leave_the_others_alone(tmp_path: Path) -> None:
    hung, other = FakeHost("a"), FakeHost("b")
    async with fake_hosts(hung, other) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.on("a", "vm")).status == 201
        hung.manners["act"] = held = Held()
        reboots = [asyncio.create_task(web.post("/v1/vms/vm/reboot")) for _ in range(260)]
        try:
            bound = 96

            async def settled() -> bool:
                return sum(reboot.done() for reboot in reboots) == len(reboots) - bound

            await until(settled)
            assert hung.times_asked("act") == bound
            refused = [reboot.result() for reboot in reboots if reboot.done()]
            assert {answer.refusal for answer in refused} == {AWAY}
            assert "too many changes" in refused[0].json["reason"]
            for number in range(10):
                assert (await web.on("b", f"vm{number}")).status == 201
                assert (await web.deploy(f"any{number}", vcpus=1, level="3")).json["host"] == "b"
            assert (await web.remove("vm0")).status == 200
        finally:
            held.let_go.set()
        assert {(await reboot).status for reboot in reboots} == {200, AWAY[0]}


@pytest.mark.alone
@pytest.mark.parametrize("removed", [True, False], ids=["just freed", "as ever"])
async def test_a_hung_host_delays_no_refusal(tmp_path: Path, removed: bool) -> None:
    full, hung = FakeHost("a"), FakeHost("b")
    async with fake_hosts(full, hung) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.on("a", "full", vcpus=16, level="1")).status == 201
        assert (await web.on("b", "vm")).status == 201
        hung.manners["look"] = held = Held()
        if removed:
            assert (await web.remove("vm")).status == 200
        else:
            web.scheduler.poller.soon(web.scheduler.fleet.named("b"))
        await held.reached.wait()
        took_s = []
        for _ in range(5):
            begun_s = time.monotonic()
            refused = await web.deploy("no", vcpus=17, level="1")
            took_s.append(time.monotonic() - begun_s)
            assert refused.refusal == (409, "no-capacity")
        assert min(took_s) < 0.15
        held.let_go.set()


# --- a store that fails, and a clock that is set back ---


@pytest.mark.parametrize("first_typed", [True, False], ids=["typed", "published only"])
@pytest.mark.parametrize("second_typed", [True, False], ids=["then typed", "then published only"])
async def test_a_store_that_fails_between_two_hosts_frees_the_name(
    tmp_path: Path, first_typed: bool, second_typed: bool
) -> None:
    a, b = FakeHost("a", typed=first_typed), FakeHost("b", typed=second_typed)
    lock: list[sqlite3.Connection] = []

    async def locks(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
        lock.append(sqlite3.connect(web.store, isolation_level=None))
        lock[0].execute("BEGIN IMMEDIATE")
        return await refuses("no-capacity")(a, request, handler)

    a.manners["deploy"] = locks
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.deploy("vm", policy="first-fit")).refusal == STORE
        assert (a.times_asked("deploy"), b.times_asked("deploy")) == (1, 0)
        lock[0].rollback()
        lock[0].close()
        a.manners.clear()
        # in other words: the name itself is free
        await until(lambda: accepted(lambda: web.deploy("vm", vcpus=3)))
        assert sorted(len(host.vms) for host in (a, b)) == [0, 1]


async def accepted(ask: Callable[[], Awaitable[Answer]]) -> bool:
    return (await ask()).status < 300


async def test_a_clock_set_back_hides_no_lost_vm(tmp_path: Path) -> None:
    host = FakeHost("a")
    ahead_s = 0.0
    async with (
        fake_hosts(host) as urls,
        cluster(tmp_path, *urls, now_s=lambda: time.time() + ahead_s) as web,
    ):
        for name in ("stays", "goes"):
            assert (await web.deploy(name)).status == 201
        await web.looks_again("a")
        ahead_s = -3600.0
        del host.vms["goes"]
        await web.becomes("goes", "lost")
        assert (await web.deploy("later")).status == 201
        await web.looks_again("a")
        del host.vms["later"]
        await web.becomes("later", "lost")
        assert (await web.remove("stays")).status == 200
        assert (await web.vm("goes"))["status"] == "lost"


# --- names ---


async def test_a_name_found_elsewhere_is_taken_once_the_unknown_is_settled(
    tmp_path: Path,
) -> None:
    a, b = FakeHost("a"), FakeHost("b")
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        a.manners = {"deploy": resets, "cancel": resets}
        assert (await web.on("a", "vm")).json["outcome"] == "unknown"
        b.run("vm")
        await web.turns("b", conflicts=["vm"])
        a.manners = {"deploy": done_then(resets)}
        refused = await web.deploy("vm")
        assert refused.refusal == (409, "name-taken")
        assert "found on host b" in refused.json["reason"]
        assert [host.name for host in (a, b) if "vm" in host.vms] == ["b"]
        assert (await web.vm("vm"))["host"] == "b"
