"""A day of deploys, removes, readings and passes, time sped up: does memory stay flat?"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random

from benchmarks import Figure
from schedulercommon.errors import NoCapacity
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.monitoringcsv import LiveWriter, WholeRecords
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper
from schedulerlocal.monitoring import Monitor

TOPOLOGY = Path("debug/topology_EPYC-7662.json")
HOURS = 24
DELAY_S = 15.0
VMS = 60
CHANGE_EVERY_S = 3.0
WARM_HOURS = 8
"""Until then, what is kept for a while fills up."""


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(progress: Callable[[str], None]) -> list[Figure]:
    """Memory after a day, against that after its first third."""
    with tempfile.TemporaryDirectory() as directory:
        warm, end, changes = asyncio.run(_day(Path(directory), progress))
    return [
        Figure("changes in a simulated day", changes, ""),
        Figure("resident memory after a third of it", warm[1], "MB"),
        Figure("resident memory at its end, of that", end[1] / warm[1], "×", 1.05),
        Figure("allocated blocks at its end, of those", end[0] / warm[0], "×", 1.02),
    ]


async def _day(
    directory: Path, progress: Callable[[str], None]
) -> tuple[tuple[int, float], tuple[int, float], int]:
    clock, rng = _Clock(), Random(1)
    host = Host(read_topology(TOPOLOGY))
    hypervisor = SimulatedHypervisor(host, now_s=clock, sleep=asyncio.sleep)
    keeper = HostKeeper(host, hypervisor, FileJournal(directory), now_s=clock)
    agent = HostAgent("bench", keeper)
    await keeper.start()
    names: list[str] = []
    made = changes = 0
    warm: tuple[int, float] | None = None
    with WholeRecords(directory / "monitoring.csv") as file:
        monitor = Monitor(agent, hypervisor, LiveWriter(file))
        next_change_s = 0.0
        while clock.now_s < HOURS * 3600:
            clock.now_s += DELAY_S
            await asyncio.sleep(0)  # a served request goes through the loop, and so must we
            await monitor.read()
            async with keeper.lock:
                await keeper.settle()
            while next_change_s <= clock.now_s:
                next_change_s += CHANGE_EVERY_S
                changes += 1
                if len(names) > rng.randint(VMS - 10, VMS + 10):
                    await agent.remove(names.pop(rng.randrange(len(names))))
                    continue
                made += 1
                try:
                    await agent.deploy(_spec(rng, made))
                except NoCapacity:
                    continue
                names.append(f"vm{made}")
            hour = clock.now_s / 3600
            progress(f"hour {hour:.0f} of {HOURS}")
            if warm is None and hour >= WARM_HOURS:
                warm = _held()
        end = _held()
    await agent.close()
    assert warm is not None
    return warm, end, changes


def _held() -> tuple[int, float]:
    """Blocks Python has allocated, and MB the process has resident."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sys.getallocatedblocks(), pages * resource.getpagesize() / 1e6


def _spec(rng: Random, number: int) -> VmSpec:
    return VmSpec(
        name=f"vm{number}",
        vcpus=rng.choice([1, 2, 4]),
        memory_mib=rng.choice([1024, 2048, 4096]),
        level=Fraction(rng.choice([1, 2, 3])),
        image="/var/lib/libvirt/images/hello.qcow2",
    )
