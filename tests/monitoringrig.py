"""What monitoring sees in tests: an agent, counters that tell what they are told to, and a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import pytest

from schedulercommon.levels import Level
from schedulercommon.model import Rejection, VmSpec, VmState
from schedulerlocal.core.host import Host
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_deploy, plan_remove
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Plan
from schedulerlocal.monitoring import Monitor
from schedulerlocal.ports import HostUsage, VmUsage

HOST = Host(machine_topology(Machine(cores=8, threads=2, memory_mib=65_536)))
ONE, TWO = Fraction(1), Fraction(2)


def spec(name: str, vcpus: int = 2, memory_mib: int = 1024, level: Level = TWO) -> VmSpec:
    return VmSpec(
        name=name, vcpus=vcpus, memory_mib=memory_mib, level=level, request_id=f"request-{name}"
    )


def planned(outcome: Plan | Rejection) -> Plan:
    assert isinstance(outcome, Plan)
    return outcome


@dataclass
class Agent:
    """What monitoring sees of an agent."""

    state: HostState = field(default_factory=lambda: HostState(HOST, {}))
    states: dict[str, VmState] = field(default_factory=dict)

    def deploy(self, *specs: VmSpec) -> None:
        for each in specs:
            self.state = planned(plan_deploy(self.state, each)).after
            self.states[each.name] = VmState.RUNNING

    def remove(self, name: str) -> None:
        self.state = plan_remove(self.state, name).after
        del self.states[name]


@dataclass
class Counters:
    """A hypervisor that tells what it is told to, and fails or hangs where there is nothing."""

    usages: list[HostUsage | Exception | None] = field(default_factory=list)

    async def usage(self) -> HostUsage:
        told = self.usages.pop(0)
        if told is None:
            await asyncio.Event().wait()
        if isinstance(told, Exception):
            raise told
        assert told is not None
        return told


def at(
    at_s: float,
    vms: Mapping[str, float],
    shares: Mapping[int, float] | None = None,
    cpu_share: float | None = None,
) -> HostUsage:
    """Counters at one moment; *vms* in seconds of CPU time, each VM using half of 1024 MiB."""
    usage = {name: VmUsage(cpu_time_s=used_s, memory_used_mib=512) for name, used_s in vms.items()}
    return HostUsage(
        at_s=at_s, cpu_share=cpu_share, memory_share=0.25, cpu_shares=shares or {}, vms=usage
    )


class Stopped(Exception):
    """Enough."""


@dataclass
class Sleeps:
    """Lets a loop go round until it has slept as often as wanted."""

    most: int
    slept_s: list[float] = field(default_factory=list)

    async def __call__(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        if len(self.slept_s) == self.most:
            raise Stopped


async def run(monitor: Monitor, readings: int, timeout_s: float | None = None) -> list[float]:
    sleeps = Sleeps(readings)
    with pytest.raises(Stopped):
        await monitor.run(15, sleeps, timeout_s)
    return sleeps.slept_s
