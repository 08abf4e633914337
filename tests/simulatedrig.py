"""A simulated hypervisor of eight cores for tests, its VMs, and its clock."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from schedulercommon.model import VmSpec
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.simulatedfaults import parse_faults
from schedulerlocal.core.host import Host
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Create
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain

HOST = Host(machine_topology(Machine(cores=8, threads=2, memory_mib=65_536)))
TWO = Fraction(2)
IMAGE = "/images/debian.qcow2"


class Clock:
    """Time that passes when it is told to, or slept through."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s


def vm(name: str, vcpus: int = 2, **changes: object) -> Vm:
    usual: dict[str, object] = {"memory_mib": 1024, "level": TWO, "image": IMAGE}
    spec = VmSpec(name=name, vcpus=vcpus, **{**usual, **changes})  # type: ignore[arg-type]
    return Vm(spec, spec.vcpus, spec.max_memory_mib, ((0, spec.max_memory_mib),))


A, B = vm("a"), vm("b", request_id="r-1", owner="me", labels=(("env", "test"),))


async def simulated(
    *existing: Vm,
    file: Path | None = None,
    faults: str = "",
    clock: Clock | None = None,
    changed: Callable[[], None] = lambda: None,
) -> SimulatedHypervisor:
    """One with *existing*, on CPUs 0 and 1; *faults* count from then on."""
    clock = clock or Clock()
    hypervisor = SimulatedHypervisor(
        HOST, state_file=file, image_dirs=[Path("/images")], now_s=clock, sleep=clock.sleep
    )
    await hypervisor.open(changed)
    for each in existing:
        await hypervisor.perform(Create(each, (0, 1)))
    hypervisor.points = 0
    hypervisor.arm(parse_faults(faults))
    return hypervisor


async def pins(hypervisor: SimulatedHypervisor) -> dict[str, Cpus]:
    return {each.name: each.found.pinned for each in await hypervisor.domains()}


async def only(hypervisor: SimulatedHypervisor) -> Domain:
    (domain,) = await hypervisor.domains()
    return domain
