"""What a request asks of libvirt: something of the VMs that change, nothing of the others."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.storage import Storage
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import LibvirtSettings
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.keeper import HostKeeper
from tests.fakelink import FakeLink
from tests.qcow2files import make_image

MAKING = {"define": 1, "start": 1}
REMOVING = {"destroy": 1, "undefine": 1}
# two VMs of one vCPU at 1:1, 20 of two at 2:1 and three of one at 3:1: 2, 20 and 1 CPUs
THERE = {
    **{f"one{number}": (1, "1") for number in range(2)},
    **{f"two{number}": (2, "2") for number in range(20)},
    **{f"three{number}": (1, "3") for number in range(3)},
}


class Rig:
    """An agent whose libvirt is of paper, with VMs there and nothing lent."""

    def __init__(self, directory: Path, qemu_img: str = "qemu-img") -> None:
        self.link = FakeLink()
        self.image = make_image(directory / "image.qcow2")
        storage = Storage(
            image_dirs=[directory],
            disk_dir=directory,
            notes_dir=directory / "notes",
            host_name="host",
            qemu_img=qemu_img,
        )
        around = Surroundings(
            state_dir=directory / "state",
            boot_id="",
            host_cpus=(),
            call_timeout_s=8,
            now_s=lambda: 0.0,
            wall_s=lambda: 1_700_000_000,
        )
        host = Host(machine_topology(Machine(cores=32, memory_mib=65_536)), Rules(critical_size=0))
        settings = LibvirtSettings(kind="kvm")
        hypervisor = LibvirtHypervisor(host, self.link, storage, settings, around)
        journal = FileJournal(directory / "journal")
        self.keeper = HostKeeper(host, hypervisor, journal, now_s=lambda: 0.0)
        self.agent = HostAgent("host", self.keeper)

    async def deploy(self, name: str, vcpus: int, level: str, image: Path | None = None) -> None:
        """On an overlay, or in *image* itself."""
        spec = VmSpec(
            name=name,
            vcpus=vcpus,
            memory_mib=512,
            level=parse_level(level),
            image=str(image or self.image),
            disk="in-place" if image else "overlay",
        )
        await self.agent.deploy(spec)

    def changes(self) -> dict[str, dict[str, int]]:
        """The changing calls made since the last look: by VM, how many of each kind."""
        made: dict[str, Counter[str]] = {}
        for kind, name, *_ in self.link.changes:
            made.setdefault(str(name), Counter())[str(kind)] += 1
        self.link.made.clear()
        return {name: dict(kinds) for name, kinds in made.items()}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    if not shutil.which("qemu-img"):
        pytest.fail("disks are made with qemu-img: run `make setup`", pytrace=False)
    rig = Rig(tmp_path)
    await rig.keeper.start()
    for name, (vcpus, level) in THERE.items():
        await rig.deploy(name, vcpus, level)
    rig.changes()
    yield rig
    await rig.agent.close()


@pytest.mark.parametrize(
    ("vcpus", "level", "moved"),
    [(1, "1", "one"), (2, "2", "two"), (1, "3", "three"), (1, "4", "")],
    ids=["1:1 grows", "2:1 grows", "3:1 grows", "a new level"],
)
async def test_only_the_level_that_grows_is_pinned(
    rig: Rig, vcpus: int, level: str, moved: str
) -> None:
    others = {name: {"pin": 1} for name in THERE if moved and name.startswith(moved)}
    await rig.deploy("new", vcpus, level)
    assert rig.changes() == {"new": MAKING, **others}
    await rig.agent.remove("new")
    assert rig.changes() == {"new": REMOVING, **others}


async def test_nobody_is_pinned_where_there_is_room(rig: Rig) -> None:
    await rig.deploy("first", 1, "3")
    rig.changes()
    await rig.deploy("second", 1, "3")
    assert rig.changes() == {"second": MAKING}
    await rig.agent.remove("second")
    assert rig.changes() == {"second": REMOVING}


async def test_looking_again_changes_and_reads_nothing(rig: Rig) -> None:
    await rig.keeper.settle()
    assert rig.link.made == []
    rig.link.hear("two3")
    await rig.keeper.settle()
    assert rig.link.made == [("read", "two3")]


async def test_nobody_waits_for_a_disk_but_whose_it_is(tmp_path: Path) -> None:
    """Even a ``qemu-img`` that takes long holds up no other VM's deploy, verbs or removal."""
    go_on, begun = tmp_path / "go-on", tmp_path / "begun"
    slow = tmp_path / "slow-qemu-img"
    slow.write_text(
        f'#!/bin/sh\ntouch "{begun}"\n'
        f'while [ ! -e "{go_on}" ]; do sleep 0.01; done\nexec qemu-img "$@"\n'
    )
    slow.chmod(0o755)
    rig = Rig(tmp_path, qemu_img=str(slow))
    await rig.keeper.start()
    deploying = asyncio.create_task(rig.deploy("slow", 1, "2"))
    await until(begun.exists)
    async with asyncio.timeout(10):
        await rig.deploy("quick", 1, "2", image=make_image(tmp_path / "own.qcow2"))
        await rig.agent.power("quick", Verb.SUSPEND)
        await rig.agent.remove("quick")
        assert rig.changes()["quick"] == {**MAKING, "note": 1, "suspend": 1, **REMOVING}
        assert not deploying.done()
        go_on.touch()
        await deploying
    assert rig.changes() == {"slow": MAKING}
    await rig.agent.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)
