"""The disks of VMs: made by the real ``qemu-img``, kept apart, and never lost or left behind."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.errors import BadRequest, HypervisorError, WrongState
from schedulerlocal.adapters.storage import Base, Disk, DiskFile, VmDisks
from schedulerlocal.adapters.vmdisk import base_changed
from tests.qcow2files import make_image, on, qemu_img
from tests.storagerig import Rig, _rig, domain, program

__all__ = ["_rig"]


def info(path: str | Path) -> dict[str, Any]:
    told = subprocess.run(
        ["qemu-img", "info", "--output=json", str(path)], check=True, capture_output=True
    )
    found: dict[str, Any] = json.loads(told.stdout)
    return found


# --- overlays -------------------------------------------------------------------------------------


async def test_a_vm_gets_an_overlay_of_its_own(rig: Rig) -> None:
    disk = await rig.storage.prepare(rig.spec())
    facts = rig.image.stat()
    assert disk.base == Base(
        path=str(rig.image), size_bytes=facts.st_size, mtime_ns=facts.st_mtime_ns
    )
    assert rig.storage.prepared("web") == disk
    assert rig.files == [Path(disk.path).name]
    assert rig.files[0].startswith("web@host1.")
    assert stat.S_IMODE(os.stat(disk.path).st_mode) == 0o600
    told = info(disk.path)
    assert (told["format"], told["virtual-size"]) == ("qcow2", 64 << 20)
    assert (told["backing-filename"], told["backing-filename-format"]) == (str(rig.image), "qcow2")
    qemu_img("compare", rig.image, disk.path)
    await rig.storage.hand_over("web")
    assert rig.storage.prepared("web") is None
    assert rig.noted == []


async def test_hosts_and_attempts_never_choose_one_name(rig: Rig) -> None:
    other = rig.started(host_name="host2", notes_dir=rig.notes.with_name("notes2"))
    disks = await asyncio.gather(
        *(storage.prepare(rig.spec()) for storage in (rig.storage, other)),
        *(rig.storage.prepare(rig.spec(f"vm{number}")) for number in range(9)),
    )
    assert sorted(Path(disk.path).name for disk in disks) == rig.files
    assert len(rig.files) == 11


@pytest.mark.parametrize("folder", ["a:b", "nbd:x", "-f raw", "a,b=c", "json:{}", "'\"$(id)<&>"])
async def test_odd_names_are_names(rig: Rig, folder: str) -> None:
    odd_images, odd_disks = rig.images / folder, rig.disks / folder
    odd_images.mkdir()
    odd_disks.mkdir()
    image = make_image(odd_images / "hello.qcow2")
    storage = rig.started(disk_dir=odd_disks)
    disk = await storage.prepare(rig.spec(image=str(image)))
    assert info(disk.path)["backing-filename"] == str(image)
    assert Path(disk.path).parent == odd_disks


async def test_the_overlay_is_made_of_where_a_link_leads(rig: Rig) -> None:
    (rig.images / "latest.qcow2").symlink_to("hello.qcow2")
    disk = await rig.storage.prepare(rig.spec(image=f"{rig.images}/latest.qcow2"))
    assert info(disk.path)["backing-filename"] == str(rig.image)


async def test_qemu_img_is_not_to_open_the_image(rig: Rig, tmp_path: Path) -> None:
    text = f'printf "%s\\n" "$@" > "{tmp_path}/told"; exec qemu-img "$@"'
    storage = rig.started(qemu_img=program(tmp_path, text))
    disk = await storage.prepare(rig.spec())
    told = (tmp_path / "told").read_text().split()
    assert told[0] == "create"
    assert {"-u", str(rig.image), disk.path, str(64 << 20)} < set(told)


async def test_a_disk_that_is_discarded_is_gone(rig: Rig) -> None:
    await rig.storage.prepare(rig.spec())
    await rig.storage.discard(rig.spec())
    assert (rig.files, rig.noted, rig.storage.prepared("web")) == ([], [], None)
    await rig.storage.discard(rig.spec())
    await rig.storage.prepare(rig.in_place("web"))  # the image is free again


async def test_discarding_spares_the_disk_of_a_namesake_that_is_there(rig: Rig) -> None:
    await rig.made(rig.spec())
    await rig.storage.discard(rig.spec())
    assert len(rig.files) == 1


async def test_a_hostile_image_leaves_nothing(rig: Rig) -> None:
    (rig.images / "bad.qcow2").write_bytes(on("/etc/shadow", b"raw"))
    for disk in ("overlay", "in-place"):
        with pytest.raises(BadRequest, match="/etc/shadow"):
            await rig.storage.prepare(rig.spec(image=f"{rig.images}/bad.qcow2", disk=disk))
    assert (rig.files, rig.noted) == ([], [])


# --- one writer to an image -----------------------------------------------------------------------


async def test_in_place_uses_the_image_itself(rig: Rig) -> None:
    assert await rig.made(rig.in_place("web")) == Disk(path=str(rig.image), base=None)
    assert (rig.files, rig.noted) == ([], [])
    async with rig.storage.removing("web", Disk(path=str(rig.image), base=None)):
        pass
    assert rig.image.exists()
    await rig.storage.prepare(rig.in_place("next"))


@pytest.mark.parametrize("there", ["prepared", "made", "found"])
@pytest.mark.parametrize("alias", ["hello.qcow2", "hard.qcow2", "soft.qcow2"])
async def test_two_vms_never_write_one_image(rig: Rig, there: str, alias: str) -> None:
    (rig.images / "soft.qcow2").symlink_to("hello.qcow2")
    os.link(rig.image, rig.images / "hard.qcow2")
    if there == "found":
        await rig.storage.follow([domain("first", rig.image)])
    else:
        await (rig.made if there == "made" else rig.storage.prepare)(rig.in_place("first"))
    image = f"{rig.images}/{alias}"
    with pytest.raises(WrongState, match=r"'second' would write .* VM 'first' writes"):
        await rig.storage.prepare(rig.in_place("second", image=image))
    with pytest.raises(WrongState, match=r"'third' builds on .* running VM 'first' writes"):
        await rig.storage.prepare(rig.spec("third", image=image))
    assert (rig.files, rig.noted) == ([], [])


async def test_of_many_at_once_one_gets_the_image(rig: Rig) -> None:
    answers = await asyncio.gather(
        *(rig.storage.prepare(rig.in_place(f"vm{number}")) for number in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Disk) for answer in answers) == 1
    assert sum(isinstance(answer, WrongState) for answer in answers) == 7


async def test_nobody_writes_what_others_build_on(rig: Rig) -> None:
    await rig.made(rig.spec("first"))
    await rig.made(rig.spec("second"))
    with pytest.raises(WrongState, match=r"'third' would write .* builds on"):
        await rig.storage.prepare(rig.in_place("third"))


async def test_what_an_image_builds_on_counts_too(rig: Rig) -> None:
    top = rig.images / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "hello.qcow2", top)
    await rig.made(rig.in_place("first", image=str(top)))
    with pytest.raises(WrongState, match=r"would write .* VM 'first' builds on"):
        await rig.storage.prepare(rig.in_place("second"))
    await rig.storage.prepare(rig.spec("third"))


async def test_a_foreign_vm_that_is_down_does_not_keep_its_image(rig: Rig) -> None:
    await rig.storage.follow([domain("builder", rig.image, running=False)])
    await rig.made(rig.spec("web"))
    with pytest.raises(WrongState, match="VM 'builder' writes"):
        await rig.storage.prepare(rig.in_place("other"))
    with pytest.raises(WrongState, match=r"'builder' cannot start: .* VM 'web' builds on"):
        async with rig.storage.starting("builder", None):
            raise AssertionError("it must not start")


async def test_a_guest_cannot_claim_files_by_what_it_writes(rig: Rig) -> None:
    raw = rig.images / "guest.img"
    raw.write_bytes(on("hello.qcow2"))
    disks = (DiskFile(path=str(raw), format="raw"),)
    await rig.storage.follow([VmDisks(vm="guest", disks=disks, running=True)])
    await rig.storage.prepare(rig.in_place("web"))


async def test_what_is_only_read_may_be_shared(rig: Rig) -> None:
    disks = (DiskFile(path=str(rig.image), read_only=True),)
    await rig.storage.follow([VmDisks(vm="reader", disks=disks, running=True)])
    await rig.storage.prepare(rig.spec("web"))


async def test_followed_vms_come_stop_and_go(rig: Rig) -> None:
    await rig.storage.follow([domain("a", rig.image, running=True), domain("b", "/gone")])
    with pytest.raises(WrongState, match="running VM 'a'"):
        await rig.storage.prepare(rig.spec("web"))
    await rig.storage.follow([domain("a", rig.image, running=False)])
    await rig.storage.prepare(rig.spec("web"))
    await rig.storage.discard(rig.spec("web"))
    await rig.storage.follow([])
    await rig.storage.prepare(rig.in_place("web"))
    await rig.storage.follow([])  # which knows nothing of VMs only being prepared
    with pytest.raises(WrongState, match="VM 'web' writes"):
        await rig.storage.prepare(rig.in_place("other"))


# --- starting -------------------------------------------------------------------------------------


async def test_of_two_that_write_one_image_one_starts(rig: Rig) -> None:
    pair = [domain("a", rig.image, running=False), domain("b", rig.image, running=False)]
    await rig.storage.follow(pair)
    async with rig.storage.starting("a", None):
        await rig.storage.follow(pair)  # a pass that saw it before it ran
        with pytest.raises(WrongState, match=r"'b' cannot start: it writes .* VM 'a' writes"):
            async with rig.storage.starting("b", None):
                raise AssertionError("it must not start")
    rig.storage.stopped("a")
    with pytest.raises(HypervisorError):
        async with rig.storage.starting("b", None):
            raise HypervisorError("it did not start")
    async with rig.storage.starting("a", None):
        pass


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda image: os.utime(image), "was written to"),
        (lambda image: image.write_bytes(image.read_bytes() + b"x"), "bytes and has"),
        (lambda image: image.unlink(), "cannot be found"),
        (lambda image: make_image(image, size="32M"), "was written to|bytes and has"),
    ],
    ids=["touched", "grown", "gone", "made anew"],
)
async def test_a_changed_base_keeps_a_vm_from_starting(
    rig: Rig, change: Callable[[Path], object], told: str
) -> None:
    disk = await rig.made(rig.spec())
    assert disk.base is not None
    assert base_changed(disk.base) is None
    async with rig.storage.starting("web", disk):
        pass
    rig.storage.stopped("web")
    change(rig.image)
    with pytest.raises(WrongState, match=f"'web' cannot start: its base image .*({told})"):
        async with rig.storage.starting("web", disk):
            raise AssertionError("it must not start")


async def test_looking_at_a_base_does_not_change_it(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    assert disk.base is not None
    (rig.image.parent / "copy").write_bytes(rig.image.read_bytes())
    rig.image.chmod(0o400)
    assert base_changed(disk.base) is None


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_a_deploy_in_place_costs_little_beside_two_hundred_vms(rig: Rig) -> None:
    found = []
    for number in range(200):
        path = rig.images / f"vm{number}.qcow2"
        shutil.copyfile(rig.image, path)
        found.append(domain(f"vm{number}", path))
    await rig.storage.follow(found)
    spec = rig.in_place("web")
    await rig.storage.prepare(spec)
    await rig.storage.discard(spec)
    before_s = _cpu_s()
    for _ in range(100):
        await rig.storage.follow(found)
        await rig.storage.prepare(spec)
        await rig.storage.discard(spec)
    each_s = (_cpu_s() - before_s) / 100
    assert each_s < 0.002


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
