"""Who a host is, when it is hard to tell: doubles of one that is silent, restarts before it spoke,
others at its address between two looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.web import Request, StreamResponse

from tests.clusterrig import SELDOM, Cluster, cluster, until
from tests.fakehost import FakeHost, Handler, Held, answers, done_then, fake_hosts, resets
from tests.webrig import Web, running

TAKEN = (409, "name-taken")
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
            assert "none of the VMs promised there (2)" in left_out["problem"]
            assert (await web.post("/v1/hosts", {"url": other})).refusal == TAKEN
            assert await statuses(web) == placed
            assert not web.told("lost")
            # its operator knows better
            assert (await web.post("/v1/hosts/here/fence")).status == 200
            await web.turns("here", url=other, reachable=True, state="maintenance")
            assert await statuses(web) == {"one": "lost", "two": "lost"}


async def test_the_known_host_that_answers_late_after_a_restart(tmp_path: Path) -> None:
    known, double = FakeHost("here"), FakeHost("here")
    held, looks = Held(), 0

    async def fails_once(host: FakeHost, request: Request, do: Handler) -> StreamResponse:
        nonlocal looks
        looks += 1
        return await (STARTING if looks == 1 else held)(host, request, do)

    async with fake_hosts(known, double) as (url, other):
        async with cluster(tmp_path, url) as web:
            assert (await web.deploy("vm")).status == 201
        double.vms = dict(known.vms)  # a clone of it
        known.manners["look"] = fails_once
        async with cluster(tmp_path, other, url) as web:
            await looked_at(double)
            here = await web.host("here")
            assert (here["url"], here["state"]) == (url, "down")
            held.let_go.set()
            await web.turns("here", state="up", url=url)
            assert await statuses(web) == {"vm": "placed"}
            assert (await web.host(double.address))["state"] == "down"
            assert not web.told("lost")


@pytest.mark.parametrize("removing", [True, False], ids=["to be removed", "unknown"])
async def test_a_double_settles_nothing_of_a_host_that_is_down(
    tmp_path: Path, removing: bool
) -> None:
    known, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(known, double) as (url, other), cluster(tmp_path, url) as web:
        if not removing:
            known.manners = {"deploy": done_then(resets), "cancel": resets}
        await web.deploy("vm")
        await known.go()
        await web.turns("here", state="down")
        if removing:
            assert (await web.remove("vm")).status == 202
        before = await statuses(web)
        assert before == {"vm": "removing" if removing else "unknown"}
        assert (await web.post("/v1/hosts", {"url": other})).refusal == TAKEN
        assert await statuses(web) == before
        assert (await web.deploy("vm")).status != 201
        assert double.vms == {}
        known.manners.clear()
        await known.come()
        await web.turns("here", state="up", url=url)
        if not removing:
            assert (await web.becomes("vm", "placed"))["host"] == "here"
            return

        async def gone() -> bool:
            return await statuses(web) == {}

        await until(gone)
        assert known.vms == {}


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


async def test_a_list_of_vms_settles_nothing_if_another_has_the_address_now(
    tmp_path: Path,
) -> None:
    one = FakeHost("one", typed=False)
    pursue = asyncio.Event()

    async def sleep(_: float) -> None:
        await pursue.wait()

    async with fake_hosts(one) as urls:
        one.manners = {"deploy": done_then(resets)}
        async with cluster(tmp_path, *urls, settings=SELDOM, sleep=sleep) as web:
            assert (await web.deploy("mine")).json["outcome"] == "unknown"
        # renewed meanwhile, and gone again before it could be asked
        one.typed = True
        one.manners.clear()
        async with cluster(tmp_path, *urls, settings=SELDOM, sleep=sleep) as web:
            assert (await web.vm("mine"))["host"] == "one"
            async with in_place_of(one, tmp_path):
                again = await web.deploy("mine")
                assert (again.status, again.json.get("outcome")) == (503, "unknown")
                assert await statuses(web) == {"mine": "unknown"}
