"""What is used, as people, Prometheus and whoever has to act on it see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schedulercommon.errors import HypervisorError
from schedulercommon.model import VmSpec, VmState
from schedulercommon.wire import UsageAnswer
from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import ServiceSettings
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.waiting import VcpuTime
from schedulerlocal.keeper import HostKeeper
from schedulerlocal.monitoring import Monitor
from schedulerlocal.ports import HostUsage
from tests.webrig import TOPOLOGY, Answer, Client

DELAY_S = 15.0


class Crowded(SimulatedHypervisor):
    """A simulated host whose VMs wait as much as they are told to: ``waits`` is a share."""

    def __init__(self, host: Host, now_s: Callable[[], float]) -> None:
        super().__init__(host, now_s=now_s, sleep=asyncio.sleep)
        self.waits: dict[str, float] = {}
        self.failing = False
        self._waited_s: dict[str, float] = {}
        self._ran_s: dict[str, float] = {}

    async def usage(self) -> HostUsage:
        if self.failing:
            raise HypervisorError("libvirtd is away")
        usage = await super().usage()
        vms = dict(usage.vms)
        for name, share in self.waits.items():
            ran_s = self._ran_s[name] = self._ran_s.get(name, 0.0) + DELAY_S * (1 - share)
            waited_s = self._waited_s[name] = self._waited_s.get(name, 0.0) + DELAY_S * share
            vms[name] = replace(vms[name], cpu_time_s=ran_s, vcpus={0: VcpuTime(ran_s, waited_s)})
        return replace(usage, vms=vms)


@dataclass
class Watched(Client):
    """A service whose readings are taken when the test says so."""

    port: int
    agent: HostAgent
    keeper: HostKeeper
    monitor: Monitor
    hypervisor: Crowded
    now_s: list[float] = field(default_factory=list)

    async def read(self, times: int = 1) -> None:
        for _ in range(times):
            self.now_s[0] += DELAY_S
            with suppress(HypervisorError):
                await self.monitor.read()

    async def usage(self) -> Any:
        answer = await self.get("/v1/host/usage")
        assert answer.status == 200
        assert UsageAnswer.model_validate(answer.json).model_dump() == answer.json
        return answer.json

    async def metrics(self) -> dict[str, float]:
        answer = await self.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        found = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                labels = ",".join(label for _, label in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    async def after(self, call: Awaitable[None], told: Callable[[Answer], bool]) -> Answer:
        """``/v1/host`` once it tells of what *call* did."""
        await call
        async with asyncio.timeout(10):
            while not told(answer := await self.get("/v1/host")):  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0.01)
        return answer


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[Watched]:
    now_s = [1000.0]
    host = Host(TOPOLOGY, Rules())
    hypervisor = Crowded(host, lambda: now_s[0])
    keeper = HostKeeper(host, hypervisor, FileJournal(directory), now_s=lambda: now_s[0])
    agent = HostAgent("here", keeper)
    monitor = Monitor(agent, hypervisor, judged=keeper.note_crowding)
    runner = await serve(create_app(agent, ServiceSettings(name="here"), monitor), "127.0.0.1", 0)
    try:
        await keeper.start()
        watch = asyncio.create_task(keeper.keep_watch(3600))
        port = runner.addresses[0][1]
        yield Watched(port, agent, keeper, monitor, hypervisor, now_s)
        watch.cancel()
    finally:
        await runner.cleanup()
        await agent.close()


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Watched]:
    async with service(tmp_path) as running:
        assert (await running.deploy("one")).status == 201
        assert (await running.deploy("alone", vcpus=1, level="1")).status == 201
        yield running


def levels(usage: Any) -> dict[str, Any]:
    return {each["level"]: each for each in usage["levels"]}


async def test_before_anything_was_read(web: Watched) -> None:
    usage = await web.usage()
    assert usage["over_s"] is None
    assert usage["cpus"] == {"total": 8, "used": None}
    assert {each["waiting"] for each in usage["vms"]} == {None}
    assert {each["crowding"] for each in usage["levels"]} == {"calm"}
    metrics = await web.metrics()
    assert metrics["vmstack_host_cpus"] == 8
    assert not any("used" in name or "waiting" in name for name in metrics)


async def test_what_is_used(web: Watched) -> None:
    await web.read()
    assert (await web.usage())["over_s"] is None
    await web.read()
    usage = await web.usage()
    assert usage["name"] == "here"
    assert usage["over_s"] == DELAY_S
    assert 0 < usage["cpus"]["used"] < 8
    assert 0 < usage["memory_share"] < 1
    assert list(levels(usage)) == ["1.0", "2.0"]
    vms = {each["name"]: each for each in usage["vms"]}
    assert {name: each["level"] for name, each in vms.items()} == {"one": "2.0", "alone": "1.0"}
    two = levels(usage)["2.0"]
    assert two["cpus"] == 2
    assert 0 < two["cpus_used"] == vms["one"]["cpus_used"] <= 2
    assert 0 < two["busy"] <= 1
    assert 0 < two["memory_used_mib"] <= 1024
    assert {each["waiting"] for each in (*vms.values(), *usage["levels"])} == {0}

    metrics = await web.metrics()
    assert metrics["vmstack_host_vms{running}"] == 2
    assert metrics["vmstack_host_free_cpus"] == 5
    assert metrics["vmstack_level_cpus{2.0}"] == 2
    assert metrics["vmstack_level_vcpus{2.0}"] == 2
    assert metrics["vmstack_level_cpus_used{2.0}"] == pytest.approx(two["cpus_used"], abs=1e-4)
    assert metrics["vmstack_level_waiting_share{2.0}"] == 0
    assert metrics["vmstack_vm_waiting_share{2.0,one}"] == 0
    assert metrics["vmstack_vm_memory_used_mib{2.0,one}"] > 0

    assert (await web.deploy("new")).status == 201
    new = next(each for each in (await web.usage())["vms"] if each["name"] == "new")
    assert (new["cpus_used"], new["memory_used_mib"], new["waiting"]) == (None, None, None)


async def test_readings_that_fail_are_not_shown_as_if_they_were_new(web: Watched) -> None:
    await web.read(2)
    web.hypervisor.failing = True

    async def enough(_: float) -> None:
        raise asyncio.CancelledError

    with suppress(asyncio.CancelledError):
        await web.monitor.run(DELAY_S, enough)
    assert (await web.usage())["cpus"]["used"] is None
    assert "vmstack_host_cpus_used" not in await web.metrics()
    web.hypervisor.failing = False
    await web.read()
    assert (await web.usage())["cpus"]["used"] > 0


async def test_a_crowded_level_is_told_of_once_for_every_change(web: Watched) -> None:
    await web.read()
    calm = await web.get("/v1/host")
    assert calm.json["warnings"] == []
    before = web.agent.events.last
    web.hypervisor.waits = {"one": 0.06}
    await web.read()  # its counters are new to this
    worse = await web.after(web.read(), lambda told: bool(told.json["warnings"]))
    (sentence,) = worse.json["warnings"]
    assert sentence.startswith("crowded: the VMs of level 2.0 ")
    assert worse.headers["etag"] != calm.headers["etag"]
    usage = await web.usage()
    assert levels(usage)["2.0"]["waiting"] == pytest.approx(0.06)
    assert levels(usage)["2.0"]["crowding"] == "warning"
    assert levels(usage)["1.0"]["crowding"] == "calm"

    # the same again moves nothing, so what a client has of /v1/host stays right
    web.hypervisor.waits = {"one": 0.055}
    await web.read(3)
    known = {"If-None-Match": worse.headers["etag"]}
    assert (await web.get("/v1/host", known)).status == 304

    web.hypervisor.waits = {"one": 0.3}
    bad = await web.after(web.read(), lambda told: told.json["warnings"] != [sentence])
    assert len(bad.json["warnings"]) == 1
    assert (await web.metrics())["vmstack_host_warnings"] == 1
    assert (await web.metrics())["vmstack_level_waiting_share{2.0}"] == pytest.approx(0.3)
    web.hypervisor.waits = {"one": 0.0}
    await web.after(web.read(), lambda told: told.json["warnings"] == [])

    told = [each.data for each in web.agent.events.since(before) if each.kind == "crowding"]
    assert [(each["level"], each["before"], each["after"]) for each in told] == [
        ("2.0", "calm", "warning"),
        ("2.0", "warning", "bad"),
        ("2.0", "bad", "calm"),
    ]
    assert [each["waiting"] for each in told] == [pytest.approx(0.06), pytest.approx(0.3), 0]
    json.dumps(told)


async def test_a_level_that_ends_is_crowded_no_more(web: Watched) -> None:
    web.hypervisor.waits = {"one": 0.5}
    await web.read()
    await web.after(web.read(), lambda told: bool(told.json["warnings"]))
    web.hypervisor.waits = {}
    assert (await web.ask("DELETE", "/v1/vms/one")).status == 200
    await web.after(web.read(), lambda told: told.json["warnings"] == [])


async def test_a_vm_called_what_is_no_text(web: Watched) -> None:
    spec = VmSpec(name='lone\udcff"\\\n', vcpus=1, memory_mib=512, level=Fraction(1))
    found = FoundVm(spec=spec, vcpus=1, boot_memory_mib=512, foreign=True)
    web.hypervisor.gain(found, VmState.RUNNING)
    async with web.keeper.lock:
        await web.keeper.settle()
    await web.read(2)
    assert 'vmstack_vm_cpus_used{1.0,lone?"\\\n}' in await web.metrics()
    assert spec.name in [each["name"] for each in (await web.usage())["vms"]]


async def test_not_before_the_state_is_known(web: Watched) -> None:
    await web.agent.close()
    for route in ("/v1/host/usage", "/metrics"):
        assert (await web.get(route)).refusal == (503, "not-ready")
