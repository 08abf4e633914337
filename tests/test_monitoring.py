"""Monitoring: what is read of VMs, levels and the host, and the loop that reads it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from schedulercommon.errors import HypervisorError, OutputError
from schedulercommon.model import VmState
from schedulerlocal.core.state import HostState
from schedulerlocal.monitoring import Monitor
from schedulerlocal.ports import HostUsage
from schedulerlocal.readings import Readings
from tests.monitoringrig import HOST, ONE, TWO, Agent, Counters, at, run, spec

# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "state", "cpus", "memory_mib"),
    [
        ({"a": 10.0}, {"a": 25.0}, VmState.RUNNING, 1.5, 512),
        ({}, {"a": 25.0}, VmState.RUNNING, None, 512),
        ({"a": 10.0}, {}, VmState.RUNNING, None, None),
        ({"a": 10.0}, {"a": 4.0}, VmState.RUNNING, None, 512),
        ({"a": 10.0}, {"a": 10.0}, VmState.SUSPENDED, 0.0, 512),
        ({"a": 10.0}, {"a": 0.0}, VmState.DOWN, 0.0, 0.0),
        ({"a": 10.0}, {}, VmState.DOWN, 0.0, 0.0),
        ({"a": 0.0}, {"a": 5.0}, VmState.RUNNING, 0.5, 512),
    ],
    ids=["used", "first sight", "vanished", "made anew", "idle", "down", "down, untold", "booted"],
)
async def test_a_vms_usage_between_two_readings(
    before: dict[str, float],
    now: dict[str, float],
    state: VmState,
    cpus: float | None,
    memory_mib: float | None,
) -> None:
    agent = Agent()
    agent.deploy(spec("a"))
    monitor = Monitor(agent, Counters([at(100, before), at(110, now)]))
    first = await monitor.read()
    assert first.vms["a"].cpus is None
    agent.states["a"] = state
    await monitor.read()
    assert monitor.readings is not None
    assert monitor.readings.vms["a"].cpus == cpus
    assert monitor.readings.vms["a"].memory_mib == memory_mib


async def test_levels_and_host() -> None:
    agent = Agent()
    agent.deploy(spec("a"), spec("b"), spec("c", 1, level=ONE))
    own = agent.state.subsets[TWO].cpus
    (alone,) = agent.state.subsets[ONE].cpus
    assert len(own) == 2
    # one of the level's CPUs went offline, and so did one no level owns
    shares = dict.fromkeys(HOST.topology.ids, 0.125)
    del shares[own[0]], shares[agent.state.free_cpus[0]]
    shares |= {own[1]: 0.75, alone: 0.5}
    usages: list[HostUsage | Exception | None] = [
        at(0, {"a": 1, "b": 1, "c": 0}),
        at(10, {"a": 11, "b": 6, "c": 5}, shares, cpu_share=0.2),
    ]
    monitor = Monitor(agent, Counters(usages))
    first = await monitor.read()
    assert (first.cpus, first.cpu_share) == (None, None)
    assert (first.levels[TWO].cpus, first.levels[TWO].busy) == (None, None)
    readings = await monitor.read()
    assert readings.levels[TWO].cpus == pytest.approx(1.5)
    assert readings.levels[TWO].busy == 0.75
    assert readings.levels[TWO].memory_mib == 1024
    assert readings.levels[ONE].cpus == pytest.approx(0.5)
    assert readings.cpus == pytest.approx(12 * 0.125 + 0.75 + 0.5)
    assert (readings.cpu_share, readings.memory_share) == (0.2, 0.25)


async def test_a_host_that_does_not_tell_by_cpu() -> None:
    monitor = Monitor(Agent(), Counters([at(0, {}), at(1, {}, cpu_share=0.5)]))
    await monitor.read()
    readings = await monitor.read()
    assert readings.cpus == 8
    assert readings.levels == {}


async def test_two_readings_in_one_tick_are_one() -> None:
    agent = Agent()
    agent.deploy(spec("a"))
    counters = Counters([at(5, {"a": 1}), at(5, {"a": 2}), at(4, {"a": 2}), at(15, {"a": 6})])
    monitor = Monitor(agent, counters)
    first = await monitor.read()
    assert await monitor.read() is first
    assert await monitor.read() is first
    assert (await monitor.read()).vms["a"].cpus == pytest.approx(0.5)


# --- the loop -----------------------------------------------------------------------------------


async def test_readings_stay_on_the_beat() -> None:
    counters = Counters([at(now_s, {}) for now_s in (100, 115.5, 130.25, 144.9, 170)])
    assert await run(Monitor(Agent(), counters), 5) == pytest.approx([15, 14.5, 14.75, 15.1, 5])


async def test_a_reading_that_fails_is_logged_and_the_loop_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = Agent()
    agent.deploy(spec("a"))
    unexpected = ZeroDivisionError("really unexpected")
    usages: list[HostUsage | Exception | None] = [
        at(0, {"a": 0}),
        HypervisorError("the connection is gone"),
        unexpected,
        None,
        at(60, {"a": 30}),
    ]
    monitor = Monitor(agent, Counters(usages))
    with caplog.at_level(logging.WARNING):
        assert await run(monitor, 5, timeout_s=0.001) == [15] * 5
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "the connection is gone" in told[0]
    assert "unexpectedly" in told[1]
    assert "in time" in told[2]
    assert monitor.readings is not None
    assert monitor.readings.vms["a"].cpus == pytest.approx(0.5)


async def test_a_disk_that_is_full_ends_the_recording_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @dataclass
    class FullDisk:
        asked: int = 0

        def write(self, state: HostState, readings: Readings) -> None:
            assert (state.host, readings.memory_share) == (HOST, 0.25)
            self.asked += 1
            raise OutputError("cannot write monitoring.csv: no space left")

    disk = FullDisk()
    monitor = Monitor(Agent(), Counters([at(0, {}), at(15, {}), at(30, {})]), disk)
    with caplog.at_level(logging.ERROR):
        await run(monitor, 3)
    assert disk.asked == 1
    assert [record.getMessage() for record in caplog.records] == [
        "recording ends here: cannot write monitoring.csv: no space left"
    ]
    assert monitor.readings is not None
    assert monitor.readings.at_s == 30
