"""A host on paper whose levels are cgroups: files with the kernel's rules, and libvirt of paper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest

from schedulercommon.levels import Level
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
from schedulerlocal.adapters.hypervisorlink import LinkError, Why
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.partitions import Partitions, Tree, find_tree, partition_of
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import LibvirtSettings
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.keeper import HostKeeper
from tests.fakecgroups import FakeCgroups
from tests.fakelink import FakeLink
from tests.qcow2files import make_image

CPUS = tuple(range(8))
HOST = Host(machine_topology(Machine(cores=8, memory_mib=65_536)), Rules(critical_size=0))
LENDING = Host(HOST.topology, Rules(critical_size=6))
ONE, TWO, THREE = Fraction(1), Fraction(2), Fraction(3)


@dataclass
class CgroupLink(FakeLink):
    """libvirt puts what it starts into its partition, which must be there."""

    cgroups: FakeCgroups | None = None
    uses_cgroups: bool = True

    async def start(self, name: str) -> None:
        await super().start(name)
        domain = self.domains[name]
        partition = domain.config.findtext("resource/partition")
        if partition is None or not self.uses_cgroups:
            return
        assert self.cgroups is not None
        try:
            self.cgroups.enter(partition, name)
        except OSError as problem:
            domain.live, domain.state = None, VmState.DOWN
            raise LinkError(f"no {partition}", Why.OTHER) from problem

    async def destroy(self, name: str) -> None:
        await super().destroy(name)
        assert self.cgroups is not None
        self.cgroups.leave(name)

    async def press_power_button(self, name: str) -> None:
        await super().press_power_button(name)
        assert self.cgroups is not None
        self.cgroups.leave(name)

    def partition(self, name: str) -> str | None:
        live = self.domains[name].live
        return None if live is None else live.findtext("resource/partition")

    def places(self, name: str) -> set[str | None]:
        """Where vCPUs and emulator are pinned, now and at the next boot."""
        domain = self.domains[name]
        xmls = [domain.config] if domain.live is None else [domain.config, domain.live]
        return {
            pin.get("cpuset")
            for xml in xmls
            for pin in xml.findall("cputune/*")
            if pin.get("cpuset")
        }


@dataclass
class Machinery:
    """A host on paper, of which services come and go."""

    directory: Path
    cgroups: FakeCgroups = field(init=False)
    link: CgroupLink = field(init=False)

    def __post_init__(self) -> None:
        self.cgroups = FakeCgroups(self.directory / "cgroup", set(CPUS))
        self.link = CgroupLink(cgroups=self.cgroups)
        (self.directory / "images").mkdir()

    def spec(self, name: str, level: Level = TWO, vcpus: int = 2, **more: object) -> VmSpec:
        image = self.directory / "images" / f"{name}.qcow2"
        if not image.exists():
            make_image(image)
        return VmSpec(
            name=name,
            vcpus=vcpus,
            memory_mib=1024,
            level=level,
            image=str(image),
            disk="in-place",
            **more,  # type: ignore[arg-type]
        )

    @asynccontextmanager
    async def service(
        self,
        *,
        host: Host = HOST,
        call_timeout_s: float = 8.0,
        partitions: bool = True,
        repair: bool = True,
        boot_id: str = "first",
        host_cpus: tuple[int, ...] = (),
    ) -> AsyncIterator[HostAgent]:
        tree = find_tree(self.cgroups.root, self.directory / "none", (), self.cgroups.hands)
        assert isinstance(tree, Tree)
        around = Surroundings(
            state_dir=self.directory / "state",
            boot_id=boot_id,
            host_cpus=host_cpus,
            call_timeout_s=call_timeout_s,
            now_s=asyncio.get_running_loop().time,
            wall_s=lambda: 1_700_000_000,
            partitions=Partitions(tree) if partitions else None,
        )
        storage = Storage(
            image_dirs=[self.directory / "images"],
            disk_dir=self.directory / "images",
            notes_dir=self.directory / "notes",
            host_name="host",
        )
        settings = LibvirtSettings(kind="kvm", network="none")
        keeper = HostKeeper(
            host,
            LibvirtHypervisor(host, self.link, storage, settings, around),
            FileJournal(self.directory / "state", boot_id),
            now_s=lambda: 1_700_000_000,
            repair=repair,
            call_timeout_s=call_timeout_s,
            boot_id=boot_id,
        )
        await keeper.start()
        agent = HostAgent("host", keeper)
        self.link.made.clear()
        self.link.calls.clear()
        self.cgroups.made.clear()
        self.keeper = keeper
        try:
            yield agent
        finally:
            await agent.close()

    async def look(self) -> None:
        """The next pass, after something was told of every VM."""
        for name in self.link.domains:
            self.link.hear(name)
        async with self.keeper.lock:
            await self.keeper.settle()

    def stop_all(self) -> None:
        """What a reboot of the machine leaves."""
        for domain in self.link.domains.values():
            domain.live, domain.state = None, VmState.DOWN
        self.cgroups.reboot()


@pytest.fixture
def machine(tmp_path: Path) -> Machinery:
    return Machinery(tmp_path)


def reach(agent: HostAgent) -> dict[str, tuple[int, ...]]:
    """Where levels should be, by what the names of their partitions end in."""
    return {
        partition_of(level).removeprefix("/machine/vmstack_l"): cpus
        for level, cpus in agent.state.reach.items()
    }
