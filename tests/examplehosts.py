"""Hosts and VMs for examples of what a host decides."""

from __future__ import annotations

from fractions import Fraction

from schedulercommon.model import VmSpec
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_deploy
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Plan

EPYC = machine_topology(
    Machine(sockets=2, cores=64, threads=2, l3_cores=4, numa_distance=32, memory_mib=1_031_752)
)
LAPTOP = machine_topology(Machine(cores=4, threads=2, memory_mib=31_776))
# 2 sockets of 4 cores without siblings, an L3 cache for every 2: {0 1} {2 3} | {4 5} {6 7}
SMALL = machine_topology(
    Machine(sockets=2, cores=4, l3_cores=2, numa_distance=32, memory_mib=8_000)
)
ISOLATED = Rules(smt_isolation=True)


def vm(
    name: str, vcpus: int = 1, level: str = "1", memory_mib: int = 100, runs_at: str | None = None
) -> VmSpec:
    return VmSpec(
        name=name,
        vcpus=vcpus,
        memory_mib=memory_mib,
        level=Fraction(level),
        runs_at=Fraction(runs_at or level),
    )


def with_vms(host: Host, *specs: VmSpec) -> HostState:
    state = HostState(host, {})
    for spec in specs:
        plan = plan_deploy(state, spec)
        assert isinstance(plan, Plan), f"{spec.name}: {plan}"
        state = plan.after
    return state
