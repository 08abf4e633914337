"""An agent on a simulated hypervisor, with everything under it."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from pathlib import Path

from schedulercommon.model import VmSpec
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.simulatedfaults import parse_faults
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.core.host import Host
from schedulerlocal.core.state import violations
from schedulerlocal.keeper import HostKeeper

TOPOLOGY = read_topology(Path(__file__).parent.parent / "debug" / "topology_i7-1185G7.json")
ONE, TWO, THREE = Fraction(1), Fraction(2), Fraction(3)


def spec(name: str, vcpus: int = 2, level: Fraction = TWO, **more: object) -> VmSpec:
    image = "/var/lib/libvirt/images/hello.qcow2"
    sizes = {"vcpus": vcpus, "memory_mib": 1024, "level": level, "image": image}
    return VmSpec(name=name, **{**sizes, **more})  # type: ignore[arg-type]


class Rig:
    """An agent with everything under it."""

    def __init__(self, directory: Path, faults: str, repair: bool, timeout_s: float) -> None:
        self.hypervisor = SimulatedHypervisor(
            Host(TOPOLOGY),
            faults=parse_faults(faults),
            now_s=lambda: 0.0,
            sleep=asyncio.sleep,
        )
        self.journal = FileJournal(directory)
        self.keeper = HostKeeper(
            Host(TOPOLOGY),
            self.hypervisor,
            self.journal,
            now_s=lambda: 1_000.0,
            repair=repair,
            call_timeout_s=timeout_s,
        )
        self.agent = HostAgent("testhost", self.keeper)

    async def check(self) -> None:
        """State and hypervisor tell the same, and no promise is broken."""
        state = self.agent.state
        assert violations(state) == []
        domains = {each.name: each for each in await self.hypervisor.domains()}
        assert sorted(domains) == sorted(vm.name for vm in state.vms())
        assert {name: each.state for name, each in domains.items()} == dict(self.agent.states)
        for level, subset in state.subsets.items():
            for vm in subset.vms:
                found = domains[vm.name].found
                assert (found.vcpus, vm.foreign) == (vm.vcpus, found.foreign)
                if not vm.foreign:
                    assert tuple(sorted(found.pinned)) == state.reach[level]

    async def settle(self) -> None:
        async with self.keeper.lock:
            await self.keeper.settle()


@asynccontextmanager
async def rig(
    directory: Path, faults: str = "", *, repair: bool = True, timeout_s: float = 30.0
) -> AsyncIterator[Rig]:
    made = Rig(directory, faults, repair, timeout_s)
    await made.keeper.start()
    try:
        yield made
    finally:
        await made.agent.close()


@contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """No file grows beyond the journal's present size."""
    size = (directory / "journal.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
