"""A leader that slept past its lease changes nothing, nor does what it sent before it slept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from schedulercommon.model import VmSpec
from schedulerglobal.core.outcomes import Reply
from schedulerglobal.ports import HostClient, Site
from tests.clusterrig import (
    BRIEF,
    Member,
    deployed,
    empty,
    member,
    missing,
    until,
)
from tests.fakehost import FakeHost, Held, fake_hosts
from tests.postgres import Postgres
from tests.webrig import running


class Late:
    """Talks to hosts as it should, but for what is on its way when it is stopped."""

    def __init__(self, client: HostClient) -> None:
        self._client = client
        self.stopped: dict[str, Held] = {}
        """By ``deploy`` or ``remove``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def deploy(self, site: Site, spec: VmSpec) -> Reply:
        await self._pass("deploy")
        return await self._client.deploy(site, spec)

    async def remove(self, site: Site, name: str, attempt: str = "") -> Reply:
        await self._pass("remove")
        return await self._client.remove(site, name, attempt)

    async def _pass(self, what: str) -> None:
        if what in self.stopped:
            self.stopped[what].reached.set()
            await self.stopped[what].let_go.wait()


class Sleeper:
    """A leader that sleeps: its clock stands still, and it does nothing by itself any more."""

    def __init__(self) -> None:
        self.clients: list[Late] = []
        self._asleep_s: float | None = None

    def monotonic_s(self) -> float:
        return time.monotonic() if self._asleep_s is None else self._asleep_s

    def through(self, client: HostClient) -> HostClient:
        self.clients.append(Late(client))
        return self.clients[0]  # type: ignore[return-value]

    async def sleep(self, web: Member) -> None:
        self._asleep_s = time.monotonic()
        await web.stop_campaigning()
        assert web.office.held


@asynccontextmanager
async def with_a_sleeper(url: str, *hosts: str) -> AsyncIterator[tuple[Sleeper, Member, Member]]:
    """It leads; the other is ready to."""
    sleeper = Sleeper()
    async with (
        member(
            url,
            *hosts,
            settings=BRIEF,
            monotonic_s=sleeper.monotonic_s,
            through=sleeper.through,
        ) as leader,
        member(url, *hosts, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        yield sleeper, leader, other


async def test_a_leader_that_slept_past_its_lease_changes_nothing(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, with_a_sleeper(url, *urls) as (sleeper, leader, other):
        assert (await leader.deploy("one")).status == 201
        await sleeper.sleep(leader)
        await until(other.leads)
        asked = len([each for each in host.asked if each.method != "GET"])
        # it believes that it leads, but the store knows better
        assert leader.office.held
        for answer in (
            await leader.deploy("two"),
            await leader.remove("one"),
            await leader.get("/remove?name=one"),
            await leader.post("/v1/hosts/a/drain"),
        ):
            assert answer.refusal == (503, "not-leader")
        assert len([each for each in host.asked if each.method != "GET"]) == asked
        assert list(host.vms) == ["one"]
        assert (await other.host("a"))["state"] == "up"
        assert (await deployed(other, "two")).status == 201


async def test_a_deploy_on_its_way_from_a_former_leader_is_refused_by_the_host(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await empty(postgres)
    async with (
        running(tmp_path) as host,
        with_a_sleeper(url, host.url) as (sleeper, leader, other),
    ):
        late = sleeper.clients[0].stopped["deploy"] = Held()
        deploy = asyncio.create_task(leader.deploy("one"))
        await late.reached.wait()
        await sleeper.sleep(leader)
        await until(other.leads)
        await other.looks_again("here")
        late.let_go.set()
        assert (await deploy).json["code"] in ("not-leader", "request-cancelled")
        assert (await host.get("/listvm")).json == []
        # the name is free again, and whoever repeats the request has it once
        assert (await deployed(other, "one")).status == 201
        assert (await host.get("/listvm")).json == ["one"]


async def test_a_removal_on_its_way_from_a_former_leader_takes_no_new_vm_away(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await empty(postgres)
    async with (
        running(tmp_path) as host,
        with_a_sleeper(url, host.url) as (sleeper, leader, other),
    ):
        assert (await leader.deploy("one")).status == 201
        late = sleeper.clients[0].stopped["remove"] = Held()
        remove = asyncio.create_task(leader.remove("one"))
        await late.reached.wait()
        await sleeper.sleep(leader)
        await until(other.leads)
        await until(lambda: missing(other, "one"))
        assert (await deployed(other, "one", vcpus=1)).status == 201
        late.let_go.set()
        assert (await remove).status == 202  # the removal it was asked for is accepted, and done
        assert (await host.get("/listvm")).json == ["one"]
        assert (await other.vm("one"))["vcpus"] == 1
