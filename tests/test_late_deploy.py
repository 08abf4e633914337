"""A deploy that was kept back on its way until its VM was removed makes no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from schedulercommon.model import VmSpec
from schedulerglobal.core.outcomes import Reply
from schedulerglobal.ports import HostClient, NoAnswer, Site
from tests.clusterrig import cluster
from tests.webrig import PLAIN, Answer, Web, running

VM = f"/v1/vms/{PLAIN['name']}"
REMOVED = (409, "request-cancelled")


async def deploy(host: Web, request_id: str, **more: object) -> Answer:
    named = {"request_id": request_id} if request_id else {}
    return await host.post("/v1/vms", {**PLAIN, **named, **more})


async def test_late_deploy_makes_no_vm(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        assert (await deploy(host, "first")).status == 201
        assert (await deploy(host, "first")).status == 200
        assert (await host.ask("DELETE", VM)).status == 200
        late = await deploy(host, "first")
        assert late.refusal == REMOVED
        assert "'first'" in late.json["reason"]
        assert "removed" in late.json["reason"]
        assert (await host.get("/listvm")).json == []
        # what became of it is still told
        told = await host.ask("DELETE", "/v1/requests/first")
        assert (told.status, told.json["outcome"]) == (200, "removed")
        assert (await deploy(host, "first")).refusal == REMOVED


@pytest.mark.parametrize("request_id", ["", "second"], ids=["without an id", "under a new id"])
async def test_who_wants_the_vm_again_has_it(tmp_path: Path, request_id: str) -> None:
    async with running(tmp_path) as host:
        await deploy(host, "first")
        await host.ask("DELETE", VM)
        assert (await deploy(host, request_id)).status == 201
        # the same deploy, which is there: nothing is made
        assert (await deploy(host, "first")).status == 200
        assert (await deploy(host, "first", vcpus=1)).refusal == (409, "name-taken")
        assert (await host.get("/listvm")).json == [PLAIN["name"]]


async def test_a_deploy_that_failed_may_be_asked_for_again(tmp_path: Path) -> None:
    async with running(tmp_path, faults="fail@2") as host:
        assert (await deploy(host, "first")).refusal == (502, "hypervisor-failed")
        assert (await deploy(host, "first")).status == 201


async def test_a_late_deploy_is_refused_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        await deploy(host, "first")
        await host.ask("DELETE", VM)
    for _ in range(2):
        async with running(tmp_path) as host:
            assert (await deploy(host, "first")).refusal == REMOVED
            assert (await host.get("/listvm")).json == []


class Careless:
    """Loses the answers of deploys it is told to, and can send all of them again."""

    def __init__(self, client: HostClient) -> None:
        self._client = client
        self._sent: list[tuple[Site, VmSpec]] = []
        self.loses = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def deploy(self, site: Site, spec: VmSpec) -> Reply:
        self._sent.append((site, spec))
        reply = await self._client.deploy(site, spec)
        if self.loses:
            raise NoAnswer("the answer was lost")
        return reply

    async def cancel(self, site: Site, attempt: str) -> Reply:
        if self.loses:
            raise NoAnswer("the answer was lost")
        return await self._client.cancel(site, attempt)

    async def again(self) -> list[int]:
        return [(await self._client.deploy(*each)).status for each in self._sent]


def careless(made: list[Careless], client: HostClient) -> HostClient:
    made.append(Careless(client))
    return cast("HostClient", made[0])


async def test_what_a_global_scheduler_had_removed_stays_so(tmp_path: Path) -> None:
    made: list[Careless] = []
    async with (
        running(tmp_path / "host") as host,
        cluster(tmp_path, host.url, through=lambda client: careless(made, client)) as web,
    ):
        # an id of the user's stays with the global scheduler, which has its own for each attempt
        for _ in range(2):
            assert (await web.deploy("one", request_id="mine")).status == 201
            assert (await web.remove("one")).status == 200
        assert await made[0].again() == [409, 409]
        assert (await host.get("/listvm")).json == []


async def test_a_deploy_in_doubt_whose_vm_was_removed_meanwhile_is_made_anew(
    tmp_path: Path,
) -> None:
    made: list[Careless] = []
    async with (
        running(tmp_path / "host") as host,
        cluster(tmp_path, host.url, through=lambda client: careless(made, client)) as web,
    ):
        made[0].loses = True
        in_doubt = await web.deploy("one")
        assert (in_doubt.status, in_doubt.json["outcome"]) == (503, "unknown")
        assert (await host.ask("DELETE", VM)).status == 200
        made[0].loses = False
        assert (await web.deploy("one")).status == 201
        assert (await host.get("/listvm")).json == ["one"]
        assert await made[0].again() == [409, 200]
