"""What guests use and how long they wait, seen on a real hypervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from schedulerlocal.adapters.guestthreads import GuestThreads
from schedulerlocal.adapters.hostmeter import HostMeter
from schedulerlocal.adapters.libvirtstats import Stats, read_stats
from schedulerlocal.core.waiting import demand
from tests.hypervisorlab import Lab, libvirt
from tests.realhost import RealHost, real_host
from tests.servers import eventually

CPUS = tuple(sorted(os.sched_getaffinity(0)))
WINDOW_S = 1.5
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(len(CPUS) < 2, reason="the others would have no CPU"),
]


@dataclass(frozen=True, slots=True)
class Burners:
    """Two guests that burn; the service they were made by has ended."""

    host: RealHost
    names: tuple[str, str]
    threads: GuestThreads


@pytest.fixture(scope="module")
def burners(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Burners]:
    shared_lab.clear()
    host = real_host(shared_lab, tmp_path_factory.mktemp("burners"))
    names = shared_lab.name("burner"), shared_lab.name("burner")
    with host.service("lab.burn=1") as driver:
        for name in names:
            driver.deployed(name)
        driver.wait_until_all_burn(names)
    yield Burners(host, names, GuestThreads(pids=shared_lab.directory / "run" / "qemu"))
    shared_lab.clear()


def test_two_burners_on_one_cpu_wait_half_of_their_time(burners: Burners) -> None:
    # nothing is lent, so they have one CPU
    with burners.host.service(SCL_DELAY="1", OVSB_CRITICAL_SIZE="0") as driver:

        def level() -> Any:
            (found,) = driver.service.get("/v1/host/usage")["levels"]
            return found if (found["waiting"] or 0) > 0.4 and found["busy"] > 0.9 else None

        crowd = eventually(level, 30)
        usage = driver.service.get("/v1/host/usage")
        assert crowd["cpus"] == 1
        assert 0.4 < crowd["waiting"] <= crowd["waiting_p95"] < 0.9
        assert 0.3 < crowd["cpus_used"] < 1.2  # others use that CPU too
        assert crowd["crowding"] == "bad"
        for vm in usage["vms"]:
            assert 0.1 < vm["cpus_used"] < 0.8
            assert 0.3 < vm["waiting"] < 0.9
            assert 20 < vm["memory_used_mib"] <= 160
        assert 0.5 < usage["cpus"]["used"] <= len(CPUS)
        (warning,) = eventually(lambda: driver.service.get("/v1/host")["warnings"])
        assert "crowded" in warning
        metrics = driver.service.ask("GET", "/metrics").body.decode()
        assert 'vmstack_level_waiting_share{level="2.0"}' in metrics

        driver.done(burners.names[0], "suspend")

        def alone() -> bool:
            (found,) = driver.service.get("/v1/host/usage")["levels"]
            return found["waiting"] is not None and found["waiting"] < crowd["waiting"] * 0.85

        eventually(alone, 30)
        driver.done(burners.names[0], "resume")


class Bulk:
    """The bulk statistics of a connection of the test's own."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self._connection = connection

    async def all_stats(self) -> list[Stats]:
        nowait = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        told = await asyncio.to_thread(self._connection.getAllDomainStats, 0, nowait)
        return [(each.name(), stats) for each, stats in told]


async def test_a_hung_emulator_does_not_hide_how_long_vms_wait(burners: Burners) -> None:
    lab, (hung, other) = burners.host.lab, burners.names
    connection = lab.connect()
    try:
        meter = HostMeter(
            Bulk(connection), CPUS, time.monotonic, threads=burners.threads, patience_s=WINDOW_S
        )
        before = await meter.usage()
        os.kill(lab.pid(hung), signal.SIGSTOP)
        try:
            now = await meter.usage()
        finally:
            os.kill(lab.pid(hung), signal.SIGCONT)
        for name in (hung, other):
            wanted = demand(before.vms[name].vcpus, now.vms[name].vcpus)
            assert wanted is not None
        assert wanted.ran_s > 0
        after = await meter.usage()
        assert {each.cpu_time_s is None for each in after.vms.values()} == {False}
    finally:
        connection.close()


async def test_a_quota_of_its_own_is_not_counted_as_waiting(burners: Burners) -> None:
    """And what the kernel says of the threads is what libvirt says of them."""
    name, threads = burners.names[0], burners.threads
    connection = burners.host.lab.connect()
    try:
        bulk = Bulk(connection)
        told = read_stats(await bulk.all_stats())[name].vcpus
        seen = threads.times(name)
        assert set(seen) == set(told) == {0}
        assert 0 <= seen[0].ran_s - told[0].ran_s < 1
        assert 0 <= seen[0].waited_s - told[0].waited_s < 1

        try:
            connection.lookupByName(name).setSchedulerParametersFlags(
                {"vcpu_period": 100_000, "vcpu_quota": 5_000}, libvirt.VIR_DOMAIN_AFFECT_LIVE
            )
        except libvirt.libvirtError as problem:
            pytest.skip(f"no cgroups here: {problem}")
        eventually(lambda: threads.throttled_s(name) > 0.5, 30)
        meter = HostMeter(bulk, CPUS, time.monotonic, threads=threads)
        readings = []
        for _ in range(3):
            readings.append(await meter.usage())
            eventually(lambda: time.monotonic() > readings[-1].at_s + WINDOW_S)
        before, now = readings[1:]
        then_s, now_s = before.vms[name].throttled_s, now.vms[name].throttled_s
        assert then_s is not None
        assert now_s is not None
        wanted = demand(before.vms[name].vcpus, now.vms[name].vcpus)
        without = demand(before.vms[name].vcpus, now.vms[name].vcpus, now_s - then_s)
        assert wanted is not None
        assert without is not None
        assert wanted.waited_s > WINDOW_S * 0.7
        assert without.waited_s < wanted.waited_s * 0.5
    finally:
        connection.close()
