"""Pinning 20 VMs of 2 vCPUs anew, as when their level grows, beside the same libvirt calls alone.

On a libvirtd and emulators of the tests' own, so this wants root and what the tests of the real
hypervisor want. The guests are emulated, have 64 MiB and are started paused: their threads are
there to be pinned, and use nothing. In each round our way widens and narrows the level, then a
plain loop does, then as many threads as we have connections do; events reach us in our turn only,
since what others pin has us look again.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import Figure, Progress
from benchmarks.processes import NotMeasured
from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
from schedulerlocal.adapters.hypervisorlink import Ears, Heard
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.config import LibvirtSettings
from schedulerlocal.core.host import Host
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Create, Pin
from schedulerlocal.core.topology import Cpus

if TYPE_CHECKING:
    from tests.hypervisorlab import Lab

VMS, VCPUS = 20, 2
CONNECTIONS = 8
ROUNDS = 15
BOUND = 2
NARROW, WIDE = (0,), (0, 1)

_LEVEL = parse_level("40")
_MEMORY_MIB = 64
_LIVE_AND_CONFIG = 3
_PATIENCE_S = 60.0

Way = Callable[[Cpus, Cpus], Awaitable[None]]


def run(progress: Progress) -> list[Figure]:
    """Raises NotMeasured where there can be no libvirtd of our own."""
    try:
        import pytest

        from tests.hypervisorlab import hypervisor_lab
    except ImportError as problem:
        raise NotMeasured(f"{problem}; make test installs what is missing") from problem
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-")))
        try:
            lab = stack.enter_context(hypervisor_lab(directory))
        except pytest.fail.Exception as problem:
            raise NotMeasured(str(problem)) from problem
        stack.callback(lab.clear)
        return asyncio.run(_measured(lab, directory, progress))


async def _measured(lab: Lab, directory: Path, progress: Progress) -> list[Figure]:
    hypervisor, ears, calls = _hypervisor(lab, directory)
    await hypervisor.open(lambda: None)
    connections = [lab.connect() for _ in range(CONNECTIONS)]
    names = [lab.name("repin") for _ in range(VMS)]
    await _start_paused(hypervisor, connections[0], names, str(lab.disk("image")), progress)
    first = [connections[0].lookupByName(name) for name in names]
    spread = [connections[turn % CONNECTIONS].lookupByName(name) for turn, name in enumerate(names)]

    async def ours(before: Cpus, after: Cpus) -> None:
        await hypervisor.perform(Pin(_LEVEL, tuple(names), before, after))

    async def one_by_one(_: Cpus, after: Cpus) -> None:
        def loop() -> None:
            for domain in first:
                _pin(domain, after)

        await asyncio.to_thread(loop)

    with ThreadPoolExecutor(CONNECTIONS) as threads:

        async def side_by_side(_: Cpus, after: Cpus) -> None:
            pinning = [threads.submit(_pin, domain, after) for domain in spread]
            await asyncio.gather(*map(asyncio.wrap_future, pinning))

        spent: dict[Way, list[float]] = {ours: [], one_by_one: [], side_by_side: []}
        for number in range(ROUNDS + 1):
            progress(f"pinning, round {number} of {ROUNDS + 1}")
            for way, times in spent.items():
                ears.open = way is ours
                calls.clear()
                for before, after in ((NARROW, WIDE), (WIDE, NARROW)):
                    begun_s = time.perf_counter()
                    await way(before, after)
                    times.append((time.perf_counter() - begun_s) * 1000)
                if way is ours and calls["pin-one"] != 2 * VMS * (VCPUS + 1):
                    raise NotMeasured(f"not each vCPU and emulator was pinned: {calls}")
    await hypervisor.close()
    for connection in connections:
        connection.close()
    return _figures(*[times[2:] for times in spent.values()])


def _figures(
    ours: Sequence[float], one_by_one: Sequence[float], side_by_side: Sequence[float]
) -> list[Figure]:
    def beside(others: Sequence[float]) -> float:
        return median(mine / theirs for mine, theirs in zip(ours, others, strict=True))

    return [
        Figure(f"{VMS} VMs pinned anew, beside the calls alone", beside(one_by_one), "×", BOUND),
        Figure(
            f"the same, beside the calls over {CONNECTIONS} connections",
            beside(side_by_side),
            "×",
            BOUND,
        ),
        Figure("ours", median(ours), "ms"),
        Figure("the calls alone", median(one_by_one), "ms"),
        Figure(f"the calls over {CONNECTIONS} connections", median(side_by_side), "ms"),
    ]


class _Ears:
    """What the hypervisor hears of, while they are open."""

    def __init__(self) -> None:
        self.open = True

    def over(self, ears: Ears) -> Ears:
        def heard(what: Heard) -> None:
            if self.open:
                ears.heard(what)

        return Ears(heard=heard, doubt=ears.doubt)


def _hypervisor(lab: Lab, directory: Path) -> tuple[LibvirtHypervisor, _Ears, Any]:
    """With what it hears by, and the count of the calls it makes."""
    from schedulerlocal.adapters.libvirt import Connections
    from schedulerlocal.adapters.libvirtlink import LibvirtLink

    ears = _Ears()

    class Link(LibvirtLink):
        async def open(self, theirs: Ears) -> None:
            await super().open(ears.over(theirs))

    link = Link(Connections(lab.uri, rng=Random(1), connections=CONNECTIONS))
    images = directory / "images"
    storage = Storage(
        image_dirs=[images], disk_dir=images, notes_dir=directory / "notes", host_name="here"
    )
    around = Surroundings(
        state_dir=directory / "state",
        boot_id="",
        host_cpus=(),
        call_timeout_s=_PATIENCE_S,
        now_s=lambda: 0.0,  # so that nobody reads all of it again meanwhile
        wall_s=time.time,
        rng=Random(1),
    )
    host = Host(machine_topology(Machine(cores=2, memory_mib=65_536)))
    settings = LibvirtSettings(kind="qemu", network="none", template=lab.template())
    return LibvirtHypervisor(host, link, storage, settings, around), ears, link.calls


async def _start_paused(
    hypervisor: LibvirtHypervisor,
    connection: Any,
    names: Sequence[str],
    image: str,
    progress: Progress,
) -> None:
    """Have a VM for each of *names*, defined by us and started by somebody else."""
    from schedulerlocal.adapters.libvirt import constant

    paused = constant("VIR_DOMAIN_START_PAUSED")
    for number, name in enumerate(names):
        progress(f"starting guests, {number} of {len(names)}")
        spec = VmSpec(
            name=name,
            vcpus=VCPUS,
            memory_mib=_MEMORY_MIB,
            level=_LEVEL,
            image=image,
            start=False,
        )
        await hypervisor.prepare(spec)
        await hypervisor.perform(Create(Vm(spec, VCPUS, _MEMORY_MIB, ((0, _MEMORY_MIB),)), NARROW))
        await asyncio.to_thread(connection.lookupByName(name).createWithFlags, paused)
    deadline_s = time.monotonic() + _PATIENCE_S
    while any(each.state is not VmState.SUSPENDED for each in await hypervisor.domains()):
        if time.monotonic() > deadline_s:
            raise NotMeasured("the guests do not start")
        await asyncio.sleep(0.1)


def _pin(domain: Any, cpus: Cpus) -> None:
    """What is asked of libvirt for one VM."""
    bits = tuple(cpu in cpus for cpu in range(max(cpus) + 1))
    for vcpu in range(VCPUS):
        domain.pinVcpuFlags(vcpu, bits, _LIVE_AND_CONFIG)
    domain.pinEmulator(bits, _LIVE_AND_CONFIG)
