"""Hosts that are not who or where they were, or never were: nothing is stored, mixed up or lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.web import Request, StreamResponse

from tests.badinput import BAD_URLS
from tests.clusterrig import IMPATIENT, SETTINGS, Cluster, cluster
from tests.fakehost import (
    FakeHost,
    Handler,
    answers,
    babbles,
    breaks_off,
    fake_hosts,
    hangs,
    resets,
)

BAD = (400, "bad-request")
TAKEN = (409, "name-taken")
AWAY = (503, "host-unreachable")
VM = {"name": "explained", "vcpus": 1, "memory_mib": 64, "level": "2", "image": "/x"}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Over the host called here."""
    async with fake_hosts(FakeHost("here")) as urls, cluster(tmp_path, *urls) as served:
        yield served


async def not_added(web: Cluster, url: str) -> tuple[int, str]:
    """How the host at *url* is refused, once it is known that nothing is kept of it."""
    before = await web.addresses()
    answer = await web.post("/v1/hosts", {"url": url, "labels": {"rack": "one"}})
    assert await web.addresses() == before
    assert (await web.deploy("dry")).status == 201
    assert (await web.remove("dry")).status == 200
    return answer.refusal


# --- addresses ---


@pytest.mark.parametrize("url", ["", *BAD_URLS.values()], ids=["empty", *BAD_URLS])
async def test_a_bad_address(web: Cluster, url: str) -> None:
    assert await not_added(web, url) == BAD


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "0.0.0.0"])
async def test_its_own_address(tmp_path: Path, name: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    settings = replace(SETTINGS, port=port)
    async with cluster(tmp_path, settings=settings) as web:
        answer = await web.post("/v1/hosts", {"url": f"{name}:{port}"})
        assert answer.refusal == BAD
        assert "is this global scheduler itself" in answer.json["reason"]
        assert await web.addresses() == []


async def test_an_address_where_nobody_listens(web: Cluster) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert await not_added(web, url) == AWAY


@pytest.mark.parametrize(
    "manner",
    [
        hangs,
        resets,
        babbles,
        breaks_off,
        answers(200, {"status": "ok"}),
        answers(200, []),
        answers(200, None),
        answers(200, {"name": "../x", "cpus": {}, "memory_mib": {}}),
        answers(200, {"name": "x" * 10_000}),
        answers(200, {"name": "there", "cpus": {"total": 0}, "memory_mib": {"total": 1}}),
        answers(200, {"name": "there", "cpus": {"total": "9" * 99}, "levels": []}),
        answers(200, {"cpu": 1, "mem": 2}),
        answers(401, {"success": False, "reason": "a token is needed", "code": "unauthorized"}),
        answers(500, {"success": False, "reason": "oops"}),
        answers(302, {}),
    ],
)
async def test_an_address_where_something_else_listens(tmp_path: Path, manner: object) -> None:
    odd = FakeHost("odd")
    odd.manners["all"] = manner
    async with (
        fake_hosts(FakeHost("here"), odd) as (url, other),
        cluster(tmp_path, url, settings=IMPATIENT) as web,
    ):
        assert await not_added(web, other) == AWAY
        told = (await web.post("/v1/hosts", {"url": other})).json["reason"]
        assert other in told


async def test_what_a_new_host_lacks_is_said(tmp_path: Path) -> None:
    odd = FakeHost("odd")
    reason = "a token is needed"
    odd.manners["all"] = answers(401, {"success": False, "reason": reason, "code": "unauthorized"})
    async with fake_hosts(FakeHost("here"), odd) as (url, other), cluster(tmp_path, url) as web:
        assert reason in (await web.post("/v1/hosts", {"url": other})).json["reason"]


@pytest.mark.parametrize("empty", [True, False])
async def test_the_address_of_a_global_scheduler(tmp_path: Path, empty: bool) -> None:
    (tmp_path / "other").mkdir()
    async with (
        fake_hosts(FakeHost("here"), FakeHost("there")) as (url, theirs),
        cluster(tmp_path, url) as web,
        cluster(tmp_path / "other", *([] if empty else [theirs])) as other,
    ):
        assert await not_added(web, other.url) == AWAY
        answer = await web.post("/v1/hosts", {"url": other.url})
        assert "is a global scheduler" in answer.json["reason"]


async def test_an_address_added_again(tmp_path: Path) -> None:
    new = FakeHost("new")
    async with fake_hosts(FakeHost("here"), new) as (url, other), cluster(tmp_path, url) as web:
        first = await web.post("/v1/hosts", {"url": other, "labels": {"rack": "one"}})
        assert (first.status, first.json["name"]) == (201, "new")
        for spelling in (new.address, f"HTTP://{new.address}/"):
            again = await web.post("/v1/hosts", {"url": spelling})
            assert (again.status, again.json["labels"]) == (200, {"rack": "one"})
        assert len(await web.addresses()) == 2


async def test_a_host_added_is_there_after_a_restart(tmp_path: Path) -> None:
    async with fake_hosts(FakeHost("here"), FakeHost("new")) as (url, other):
        async with cluster(tmp_path, url) as web:
            await web.post("/v1/hosts", {"url": other, "labels": {"rack": "one"}})
            before = await web.addresses()
        async with cluster(tmp_path, url) as web:
            assert await web.addresses() == before
            assert (await web.host("new"))["labels"] == {"rack": "one"}
            assert (await web.on("new", "vm")).status == 201


# --- names ---


async def test_a_second_host_of_the_same_name_is_left_out(tmp_path: Path) -> None:
    first, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(first, double) as urls, cluster(tmp_path, *urls) as web:
        hosts = await web.document("/v1/hosts")
        known, left_out = sorted(hosts, key=lambda host: host["name"] != "here")
        assert (known["state"], known["problem"]) == ("up", None)
        assert (left_out["state"], left_out["reachable"]) == ("down", False)
        assert left_out["name"] == left_out["url"].removeprefix("http://")
        assert {known["url"], left_out["url"]} == set(urls)
        assert "calls itself here" in left_out["problem"]
        assert "SCL_NAME" in left_out["problem"]
        # and it gets nothing
        for number in range(4):
            assert (await web.deploy(f"vm{number}")).status == 201
        assert sorted(len(host.vms) for host in (first, double)) == [0, 4]
        explained = (await web.post("/v1/vms?dry_run=1", VM)).json
        assert [each["reason"] is None for each in explained["hosts"]].count(True) == 1


async def test_a_second_host_of_the_same_name_cannot_be_added(tmp_path: Path) -> None:
    double = FakeHost("here")
    async with (
        fake_hosts(FakeHost("here"), double) as (url, other),
        cluster(tmp_path, url) as web,
    ):
        assert await not_added(web, other) == TAKEN
        told = (await web.post("/v1/hosts", {"url": other})).json["reason"]
        assert url in told
        assert other in told


async def test_a_double_that_answers_first_after_a_restart_is_the_double_still(
    tmp_path: Path,
) -> None:
    first, double = FakeHost("here"), FakeHost("here")

    async def slowly(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
        await asyncio.sleep(0.2)
        return await handler(request)

    async with fake_hosts(first, double) as (url, other):
        async with cluster(tmp_path, url) as served:
            assert (await served.deploy("vm")).status == 201
        first.manners["all"] = slowly
        async with cluster(tmp_path, other, url) as served:
            assert (await served.host("here"))["url"] == url
            assert (await served.vm("vm"))["status"] == "placed"
            assert not served.told("lost", vm="vm")


async def test_a_double_takes_over_only_once_the_first_is_down(tmp_path: Path) -> None:
    first, double = FakeHost("here"), FakeHost("here")
    async with fake_hosts(first, double) as (url, other), cluster(tmp_path, url) as web:
        await web.deploy("vm")
        double.vms = dict(first.vms)
        await first.go()
        await web.turns("here", state="down")
        answer = await web.post("/v1/hosts", {"url": other})
        assert (answer.status, answer.json["url"]) == (200, other)
        assert await web.hosts() == {"here": "up", first.address: "down"}
        assert (await web.vm("vm"))["status"] == "placed"
        await first.come()
        problem = (await web.turns(first.address, state="down"))["problem"]
        assert problem
        assert await web.hosts() == {"here": "up", first.address: "down"}


async def test_hosts_that_never_answered_are_shown_and_wanted_by_nobody(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    async with (
        fake_hosts(FakeHost("here")) as urls,
        cluster(tmp_path, *urls, f"http://{address}") as web,
    ):
        unknown = await web.host(address)
        assert (unknown["state"], unknown["reachable"]) == ("down", False)
        assert "cannot connect" in unknown["problem"]
        explained = (await web.post("/v1/vms?dry_run=1", VM)).json
        reasons = {each["host"]: each["reason"] for each in explained["hosts"]}
        assert reasons["here"] is None
        assert "has not answered yet" in reasons[address]
        assert (await web.get(f"/v1/hosts/{address}")).refusal == (404, "unknown-host")
