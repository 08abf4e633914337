"""Who a host is, when it is hard to tell: doubles of one that is silent, restarts before it spoke,
others at its address between two looks, answers of no known shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web import Request, StreamResponse

from tests.clusterrig import SELDOM, Cluster, cluster, until
from tests.fakehost import FakeHost, Handler, Held, answers, fake_hosts, resets
from tests.webrig import Web, running

TAKEN = (409, "name-taken")
AWAY = (503, "host-unreachable")
STARTING = answers(503, {"success": False, "reason": "it is starting", "code": "not-ready"})


async def looked_at(host: FakeHost, times: int = 3) -> None:
    """*host* was looked at so often from now on."""
    wanted = host.times_asked("look") + times

    async def enough() -> bool:
        return host.times_asked("look") >= wanted

    await until(enough)


async def statuses(web: Cluster) -> dict[str, str]:
    return {vm["name"]: vm["status"] for vm in await web.document("/v1/vms")}


# --- doubles ---


async def test_a_double_of_a_suspect_host(tmp_path: Path) -> None:
    known, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(known, double) as (url, other), cluster(tmp_path, url, other) as web:
        real, fake = (known, double) if (await web.host("here"))["url"] == url else (double, known)
        assert (await web.deploy("vm")).status == 201
        held, looks = Held(), 0

        async def fails_twice(host: FakeHost, request: Request, do: Handler) -> StreamResponse:
            nonlocal looks
            looks += 1
            return await (STARTING if looks <= 2 else held)(host, request, do)

        real.manners["look"] = fails_twice
        await held.reached.wait()
        assert (await web.host("here"))["state"] == "suspect"
        await looked_at(fake)
        hosts = {host["url"]: host for host in await web.document("/v1/hosts")}
        assert hosts[real.url]["name"] == "here"
        assert hosts[fake.url]["state"] == "down"
        assert "SCL_NAME" in hosts[fake.url]["problem"]
        assert await statuses(web) == {"vm": "placed"}
        held.let_go.set()
        await web.turns("here", state="up", url=real.url)
        assert not web.told("lost")
        assert not web.told("host", state="moved")
        assert (await web.remove("vm")).status == 200
        assert real.vms == {}


async def test_a_double_of_a_suspect_host_cannot_be_added(tmp_path: Path) -> None:
    known, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(known, double) as (url, other), cluster(tmp_path, url) as web:
        assert (await web.deploy("vm")).status == 201
        double.vms = dict(known.vms)
        known.manners["look"] = STARTING
        await web.turns("here", state="suspect")
        known.manners["look"] = held = Held()
        await held.reached.wait()
        assert (await web.host("here"))["state"] == "suspect"
        assert (await web.post("/v1/hosts", {"url": other})).refusal == TAKEN
        assert await web.addresses() == [("here", url)]
        held.let_go.set()


async def test_a_double_at_a_restart_before_the_known_host_answers(tmp_path: Path) -> None:
    known, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(known, double) as (url, other):
        async with cluster(tmp_path, url) as web:
            for name in ("one", "two"):
                assert (await web.deploy(name)).status == 201
        known.manners["look"] = STARTING
        placed = {"one": "placed", "two": "placed"}
        async with cluster(tmp_path, other, url) as web:
            here = await web.host("here")
            assert (here["url"], here["state"]) == (url, "down")
            await looked_at(double)
            assert await statuses(web) == placed

            async def missed() -> bool:
                return web.scheduler.fleet.named("here").missed >= 5

            # now it is down for sure, and still the other has none of its VMs
            await until(missed)
            await looked_at(double)
            left_out = await web.host(double.address)
            assert "none of the 2 VMs placed there" in left_out["problem"]
            assert (await web.post("/v1/hosts", {"url": other})).refusal == TAKEN
            assert await statuses(web) == placed
            assert not web.told("lost")
            # its operator knows better
            assert (await web.post("/v1/hosts/here/fence")).status == 200
            await web.turns("here", url=other, reachable=True, state="maintenance")
            assert await statuses(web) == {"one": "lost", "two": "lost"}


async def test_the_known_host_that_answers_late_after_a_restart(tmp_path: Path) -> None:
    known, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(known, double) as (url, other):
        async with cluster(tmp_path, url) as web:
            assert (await web.deploy("vm")).status == 201
        known.manners["look"] = STARTING
        async with cluster(tmp_path, other, url) as web:
            await looked_at(double)
            del known.manners["look"]
            await web.turns("here", state="up", url=url)
            assert await statuses(web) == {"vm": "placed"}
            assert (await web.host(double.address))["state"] == "down"
            assert not web.told("lost")


# --- what is remembered ---


async def maintained(web: Cluster) -> None:
    assert (await web.post("/v1/hosts/h/maintenance")).status == 200


async def drained(web: Cluster) -> None:
    assert (await web.post("/v1/hosts/h/drain")).status == 200


async def labelled(web: Cluster) -> None:
    answer = await web.ask("PATCH", "/v1/hosts/h", {"labels": {"rack": "one"}})
    assert answer.status == 200


async def fenced(web: Cluster) -> None:
    host = web.scheduler.fleet.named("h")
    web.scheduler.fleet.refused_connection(host, "as a request just found")
    assert (await web.post("/v1/hosts/h/fence")).status == 200


async def untouched(_: Cluster) -> None:
    """Nothing is said of it."""


@pytest.mark.parametrize(
    ("say", "state", "labels", "is_fenced"),
    [
        (maintained, "maintenance", {}, False),
        (drained, "draining", {}, False),
        (labelled, "up", {"rack": "one"}, False),
        (fenced, "maintenance", {}, True),
        (untouched, None, {}, False),
    ],
)
async def test_what_is_said_of_a_host_outlives_its_address(
    tmp_path: Path,
    say: Callable[[Cluster], Awaitable[None]],
    state: str | None,
    labels: dict[str, str],
    is_fenced: bool,
) -> None:
    host, other = FakeHost("h"), FakeHost("other")
    async with fake_hosts(host, other) as (url, others):
        async with cluster(tmp_path, url, others, settings=SELDOM) as web:
            await say(web)
        await host.go()
        await host.come(0)
        assert host.url != url
        # its address is off the list
        async with cluster(tmp_path, others) as web:
            away = await web.host("h")
            if state is None:
                assert away == {}
            else:
                assert (away["reachable"], away["labels"]) == (False, labels)
                assert "list of hosts no longer" in away["problem"]
        # and another is on it
        async with cluster(tmp_path, others, host.url) as web:
            back = await web.host("h")
            assert (back["url"], back["state"]) == (host.url, state or "up")
            assert (back["labels"], back["fenced"]) == (labels, is_fenced)
            assert web.told("host", host="h", state="new") is (state is None)


# --- somebody else at the address, between two looks ---


@asynccontextmanager
async def in_place_of(host: FakeHost, directory: Path) -> AsyncIterator[Web]:
    """A real local scheduler called two at the address of *host*, with a VM of its own called vm
    that nobody was told of yet."""
    await host.go()
    async with running(directory / "two", name="two", port=host.port) as two:
        assert (await two.deploy("vm", vcpus=1)).status == 201
        yield two


async def test_a_removal_is_not_done_by_whoever_has_the_address_now(tmp_path: Path) -> None:
    one = FakeHost("one")
    async with fake_hosts(one) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.deploy("vm")).status == 201
        async with in_place_of(one, tmp_path) as two:
            removal = await web.remove("vm")
            assert (removal.status, removal.json["status"]) == (202, "removing")
            assert "this is host two" in removal.json["reason"]
            assert (await two.get("/listvm")).json == ["vm"]
            vm = await web.vm("vm")
            assert (vm["host"], vm["status"]) == ("one", "removing")
            # seen to be another by now
            web.scheduler.poller.soon(web.scheduler.fleet.named("one"))
            await web.turns("two", state="up", conflicts=["vm"])
            assert (await two.get("/listvm")).json == ["vm"]
            assert await statuses(web) == {"vm": "removing"}


async def test_a_deploy_goes_elsewhere_than_to_whoever_has_the_address_now(tmp_path: Path) -> None:
    one, other = FakeHost("one"), FakeHost("other")
    async with (
        fake_hosts(one, other) as urls,
        cluster(tmp_path, *urls, settings=SELDOM) as web,
        in_place_of(one, tmp_path) as two,
    ):
        answer = await web.deploy("new", policy="first-fit")
        assert (answer.status, answer.json["host"]) == (201, "other")
        assert (await two.get("/listvm")).json == ["vm"]
        assert [each.vms.keys() for each in (one, other)] == [set(), {"new"}]


async def test_a_verb_is_not_done_by_whoever_has_the_address_now(tmp_path: Path) -> None:
    one = FakeHost("one")
    async with fake_hosts(one) as urls, cluster(tmp_path, *urls, settings=SELDOM) as web:
        assert (await web.deploy("vm")).status == 201
        async with in_place_of(one, tmp_path) as two:
            assert (await web.post("/v1/vms/vm/suspend")).refusal == (503, "not-ready")
            # its own size is not taken for that of the VM asked about
            vm = await web.vm("vm")
            assert (vm["host"], vm["vcpus"], vm["state"]) == ("one", 2, None)
            assert (await two.get("/v1/vms/vm")).json["state"] == "running"


async def test_cancelling_settles_nothing_at_whoever_has_the_address_now(tmp_path: Path) -> None:
    one = FakeHost("one")
    pursue = asyncio.Event()

    async def sleep(_: float) -> None:
        await pursue.wait()

    async with (
        fake_hosts(one) as urls,
        cluster(tmp_path, *urls, settings=SELDOM, sleep=sleep) as web,
    ):
        one.manners = {"deploy": resets, "cancel": resets, "look": (looking := Held())}
        assert (await web.deploy("mine")).json["outcome"] == "unknown"
        await looking.reached.wait()  # the look that follows, which is cut off now
        async with in_place_of(one, tmp_path):
            again = await web.deploy("mine")
            assert (again.status, again.json.get("outcome")) == (503, "unknown")
            assert await statuses(web) == {"mine": "unknown"}
            assert (await web.remove("mine")).status == 202
            assert await statuses(web) == {"mine": "removing"}


# --- answers of no known shape ---

GOOD: dict[str, Any] = {
    "name": "odd",
    "generation": 1,
    "cpus": {"total": 16, "free": 16},
    "memory_mib": {"total": 65_536, "free": 65_536},
    "vm_overhead_mib": 0,
    "levels": [],
}
LEVEL: dict[str, Any] = {
    "level": "1.0",
    "cpus": [0],
    "vcpus": 1,
    "largest_vcpus": 1,
    "vms": ["vm"],
}
ODD: dict[str, dict[str, Any]] = {
    "a list as generation": {**GOOD, "generation": [1]},
    "an object as generation": {**GOOD, "generation": {"of": 1}},
    "a text as generation": {**GOOD, "generation": "new"},
    "no generation": {key: value for key, value in GOOD.items() if key != "generation"},
    "null as generation": {**GOOD, "generation": None},
    "a truth as generation": {**GOOD, "generation": True},
    "part of a generation": {**GOOD, "generation": 1.5},
    "a negative generation": {**GOOD, "generation": -1},
    "an endless generation": {**GOOD, "generation": 10**400},
    "infinity as generation": {**GOOD, "generation": float("inf")},
    "nothing that is a number": {**GOOD, "generation": float("nan")},
    "a list as name": {**GOOD, "name": ["odd"]},
    "a line break in the name": {**GOOD, "name": "odd\n"},
    "levels by name": {**GOOD, "levels": {"1.0": LEVEL}},
    "levels in levels": {**GOOD, "levels": [[LEVEL]]},
    "a level of zero": {**GOOD, "levels": [{**LEVEL, "level": "0"}]},
    "a level by zero": {**GOOD, "levels": [{**LEVEL, "level": "1/0"}]},
    "an endless level": {**GOOD, "levels": [{**LEVEL, "level": "9" * 5_000}]},
    "a level of null": {**GOOD, "levels": [{**LEVEL, "level": None}]},
    "CPUs counted": {**GOOD, "levels": [{**LEVEL, "cpus": 1}]},
    "VMs counted": {**GOOD, "levels": [{**LEVEL, "vms": 1}]},
    "VMs that are objects": {**GOOD, "levels": [{**LEVEL, "vms": [{"name": "vm"}]}]},
    "VMs that are lists": {**GOOD, "levels": [{**LEVEL, "vms": [["vm"]]}]},
    "a VM that is null": {**GOOD, "levels": [{**LEVEL, "vms": [None]}]},
    "too many VMs": {**GOOD, "levels": [{**LEVEL, "vms": [f"{n}" for n in range(8_193)]}]},
    "memory of more than there is": {**GOOD, "memory_mib": {"total": 1 << 40, "free": 0}},
    "an overhead less than none": {**GOOD, "vm_overhead_mib": -1},
}


async def test_hosts_that_answer_oddly_are_suspect_then_down(tmp_path: Path) -> None:
    hosts = {what: FakeHost(f"h{number}") for number, what in enumerate(ODD)}
    async with fake_hosts(*hosts.values()) as urls, cluster(tmp_path, *urls) as web:
        for host in hosts.values():
            assert (await web.on(host.name, f"on-{host.name}")).status == 201
        for what, host in hosts.items():
            document = ODD[what]
            named = {**document, "name": host.name} if document["name"] == "odd" else document
            host.manners["look"] = answers(200, named)
        for what, host in hosts.items():
            shown = await web.turns(host.name, state="down")
            assert "makes no sense" in shown["problem"], what
            assert web.told("host", host=host.name, state="suspect"), what
        assert set((await statuses(web)).values()) == {"placed"}
        for host in hosts.values():
            host.manners.clear()
        for host in hosts.values():
            await web.turns(host.name, state="up", problem=None)
        assert set((await statuses(web)).values()) == {"placed"}
        assert not web.told("lost")


@pytest.mark.parametrize("what", ODD)
async def test_a_host_that_answers_oddly_is_not_added(tmp_path: Path, what: str) -> None:
    odd = FakeHost("odd")
    odd.manners["look"] = answers(200, ODD[what])
    async with fake_hosts(odd) as (url,), cluster(tmp_path) as web:
        refused = await web.post("/v1/hosts", {"url": url})
        assert refused.refusal == AWAY
        assert "makes no sense" in refused.json["reason"]
        assert await web.addresses() == []
