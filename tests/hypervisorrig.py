"""A hypervisor on paper, with real files for disks."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import pytest

from schedulercommon.model import VmSpec
from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.config import LibvirtSettings
from schedulerlocal.core.host import Host
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Create
from tests.fakelink import FakeLink
from tests.qcow2files import make_image

HOST = Host(machine_topology(Machine(cores=8, memory_mib=65_536)))
WIDE, NARROW = (0, 1, 2, 3), (0, 1)
TWO, ONE = Fraction(2), Fraction(1)


class Rig:
    """A hypervisor on paper, with real files for disks."""

    def __init__(self, directory: Path, host_cpus: tuple[int, ...] = ()) -> None:
        self.link = FakeLink()
        self.now_s = 0.0
        self.told = 0
        self.directory = directory
        self.image = directory / "images" / "base.qcow2"
        self.image.parent.mkdir()
        make_image(self.image)
        storage = Storage(
            image_dirs=[self.image.parent],
            disk_dir=directory,
            notes_dir=directory / "notes",
            host_name="host",
        )
        around = Surroundings(
            state_dir=directory / "state",
            boot_id="",
            host_cpus=host_cpus,
            call_timeout_s=8,
            now_s=lambda: self.now_s,
            wall_s=lambda: 1_700_000_000 + self.now_s,
        )
        settings = LibvirtSettings(kind="kvm", network="network:default")
        self.hypervisor = LibvirtHypervisor(HOST, self.link, storage, settings, around)

    async def open(self) -> Rig:
        def changed() -> None:
            self.told += 1

        await self.hypervisor.open(changed)
        return self

    def vm(self, name: str, vcpus: int = 2, level: Fraction = TWO, **more: object) -> Vm:
        spec = VmSpec(
            name=name,
            vcpus=vcpus,
            memory_mib=1024,
            level=level,
            image=str(self.image),
            request_id=f"id-{name}",
            **more,  # type: ignore[arg-type]
        )
        return Vm(spec, spec.vcpus, spec.max_memory_mib, ((0, spec.max_memory_mib),))

    async def make(self, vm: Vm, cpus: tuple[int, ...] = WIDE) -> Vm:
        await self.hypervisor.prepare(vm.spec)
        await self.hypervisor.perform(Create(vm, cpus))
        self.link.made.clear()
        self.link.calls.clear()
        return vm

    async def quiet(self) -> int:
        """How often a change was told of by now."""
        await asyncio.sleep(0.1)
        return self.told

    def overlays(self) -> int:
        return len(list(self.directory.glob("*.qcow2*")))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    if not shutil.which("qemu-img"):
        pytest.fail("disks are made with qemu-img: run `make setup`", pytrace=False)
    rig = await Rig(tmp_path).open()
    yield rig
    await rig.hypervisor.close()
