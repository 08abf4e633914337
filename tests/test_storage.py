"""The disks of VMs: made by the real ``qemu-img``, kept apart, and never lost or left behind."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.errors import BadRequest, HypervisorError, StoreUnavailable, WrongState
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.storage import (
    Base,
    Disk,
    DiskFile,
    Storage,
    VmDisks,
)
from schedulerlocal.adapters.vmdisk import base_changed
from tests.qcow2files import make_image, on, qemu_img
from tests.servers import ROOT, eventually


class Rig:
    """A host's folders and the storage on them."""

    def __init__(self, folder: Path) -> None:
        self.images, self.disks, self.notes = folder / "images", folder / "disks", folder / "notes"
        for each in (self.images, self.disks):
            each.mkdir(parents=True)
        self.image = make_image(self.images / "hello.qcow2")
        self._made: list[Storage] = []
        self.storage = self.started()

    def started(self, **more: Any) -> Storage:
        """Another run of the same host, unless *more* says otherwise."""
        usual = {"image_dirs": [self.images], "disk_dir": self.disks, "notes_dir": self.notes}
        storage = Storage(**{**usual, "host_name": "host1", **more})
        self._made.append(storage)
        return storage

    def spec(self, name: str = "web", **more: Any) -> VmSpec:
        sizes = {"vcpus": 1, "memory_mib": 256, "level": Fraction(2), "image": str(self.image)}
        return VmSpec(name=name, **{**sizes, **more})

    def in_place(self, name: str, **more: Any) -> VmSpec:
        return self.spec(name, disk="in-place", **more)

    async def made(self, spec: VmSpec) -> Disk:
        """The disk of a VM that has been made."""
        disk = await self.storage.prepare(spec)
        await self.storage.hand_over(spec.name)
        return disk

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.disks.iterdir())

    @property
    def noted(self) -> list[str]:
        return sorted(path.name for path in self.notes.iterdir()) if self.notes.exists() else []

    def close(self) -> None:
        for storage in self._made:
            storage.close()


@pytest.fixture(name="rig")
async def _rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def domain(name: str, *paths: str | Path, running: bool = True) -> VmDisks:
    disks = tuple(DiskFile(path=str(path)) for path in paths)
    return VmDisks(vm=name, disks=disks, running=running)


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
    assert {"-u", str(rig.image), f"{disk.path}.partial", str(64 << 20)} < set(told)


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


# --- faults while an overlay is made --------------------------------------------------------------


@contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_is_told_and_leaves_nothing(rig: Rig) -> None:
    with tiny_disk(rig.disks):
        with pytest.raises(HypervisorError, match=r"No space left on device.*make room"):
            await rig.storage.prepare(rig.spec())
        assert (rig.files, rig.noted) == ([], [])
    await rig.storage.prepare(rig.spec())


async def test_a_file_that_may_not_grow_leaves_nothing(rig: Rig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(HypervisorError, match=r"no disk for VM 'web' .*(SIGXFSZ|too large)"):
            await rig.storage.prepare(rig.spec())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (rig.files, rig.noted) == ([], [])


def program(folder: Path, text: str) -> str:
    path = folder / "stand-in"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (None, "is not installed.*install qemu-utils"),
        ("echo one >&2; echo two >&2; exit 3", r"failed \(one\)"),
        ("exit 3", r"failed \(exit code 3\)"),
        ("kill -9 $$", r"failed \(ended by signal SIGKILL\)"),
        ("head -c 9000000 /dev/zero >&2; exit 1", "failed"),
        ("yes 'a long story' | head -c 9000000 >&2; exit 1", r"failed \(a long story\)"),
    ],
    ids=["missing", "two lines", "silent", "killed", "binary", "talkative"],
)
async def test_a_qemu_img_that_fails_leaves_nothing(
    rig: Rig, tmp_path: Path, text: str | None, wrong: str
) -> None:
    qemu = str(tmp_path / "none") if text is None else program(tmp_path, text)
    storage = rig.started(qemu_img=qemu)
    with pytest.raises(HypervisorError, match=wrong) as caught:
        await storage.prepare(rig.spec())
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    assert (rig.files, rig.noted) == ([], [])


async def test_a_qemu_img_that_may_not_be_run_is_told(rig: Rig, tmp_path: Path) -> None:
    qemu = tmp_path / "qemu-img"
    qemu.write_text("")
    storage = rig.started(qemu_img=str(qemu))
    with pytest.raises(HypervisorError, match="cannot be run"):
        await storage.prepare(rig.spec())
    assert (rig.files, rig.noted) == ([], [])


# qemu-img, and a child of it, that never end
HANGS = 'echo $$ > "{0}/pid"; sleep 1000 & echo $! > "{0}/child"; wait'


def started_pids(folder: Path) -> list[int]:
    return [int((folder / name).read_text()) for name in ("pid", "child")]


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


async def test_a_qemu_img_that_hangs_is_ended(rig: Rig, tmp_path: Path) -> None:
    storage = rig.started(qemu_img=program(tmp_path, HANGS.format(tmp_path)), timeout_s=0.3)
    with pytest.raises(HypervisorError, match=r"did not finish within 0\.3 s"):
        await storage.prepare(rig.spec())
    pids = started_pids(tmp_path)
    await until(lambda: not any(map(alive, pids)))
    assert (rig.files, rig.noted) == ([], [])
    await rig.storage.prepare(rig.in_place("other"))  # the image is free again


async def test_a_prepare_that_is_cancelled_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    storage = rig.started(qemu_img=program(tmp_path, HANGS.format(tmp_path)))
    task = asyncio.create_task(storage.prepare(rig.spec()))
    await until((tmp_path / "child").exists)
    await until(lambda: bool((tmp_path / "child").read_text()))
    assert rig.files[0].endswith(".partial")
    assert stat.S_IMODE((rig.disks / rig.files[0]).stat().st_mode) == 0o600
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pids = started_pids(tmp_path)
    await until(lambda: not any(map(alive, pids)))
    assert (rig.files, rig.noted, storage.prepared("web")) == ([], [], None)


@pytest.mark.parametrize("pause_ms", [0, 1])
@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_a_prepare_cancelled_anywhere_leaves_nothing(
    rig: Rig, turns: int, pause_ms: int
) -> None:
    task = asyncio.create_task(rig.storage.prepare(rig.spec()))
    for _ in range(turns):
        await asyncio.sleep(pause_ms / 1000)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert (rig.files, rig.noted, rig.storage.prepared("web")) == ([], [], None)
    else:
        assert len(rig.files) == 1


async def test_hanging_ones_do_not_pile_up(rig: Rig, tmp_path: Path) -> None:
    text = f'sleep 1000 & echo $! >> "{tmp_path}/count"; wait'
    storage = rig.started(qemu_img=program(tmp_path, text))
    count = tmp_path / "count"
    tasks = [asyncio.create_task(storage.prepare(rig.spec(f"vm{n}"))) for n in range(12)]
    await until(lambda: count.exists() and len(count.read_text().split()) >= 4)
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    pids = [int(pid) for pid in count.read_text().split()]
    assert len(pids) == 4
    await until(lambda: not any(map(alive, pids)))
    assert (rig.files, rig.noted) == ([], [])


@pytest.mark.parametrize(
    ("spoil", "error", "wrong"),
    [
        (shutil.rmtree, HypervisorError, "No such file.*SCL_DISK_DIR"),
        (
            lambda disks: (shutil.rmtree(disks), disks.write_text("")),
            HypervisorError,
            "Not a directory.*SCL_DISK_DIR",
        ),
        (
            lambda disks: disks.with_name("notes").write_text(""),
            StoreUnavailable,
            "cannot note the disk.*SCL_STATE_DIR",
        ),
    ],
    ids=["no folder", "a file", "no notes"],
)
async def test_folders_that_are_none_are_told(
    rig: Rig, spoil: Callable[[Path], object], error: type[Exception], wrong: str
) -> None:
    spoil(rig.disks)
    with pytest.raises(error, match=wrong):
        await rig.storage.prepare(rig.spec())
    await rig.storage.prepare(rig.in_place("other"))


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


# --- the end of an overlay ------------------------------------------------------------------------


async def test_an_overlay_goes_with_its_vm(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    async with rig.storage.removing("web", disk):
        assert len(rig.files) == 1
    assert (rig.files, rig.noted) == ([], [])
    assert rig.image.exists()
    await rig.storage.prepare(rig.in_place("next"))


async def test_an_overlay_stays_if_its_vm_does(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    with pytest.raises(HypervisorError):
        async with rig.storage.removing("web", disk):
            raise HypervisorError("it cannot be undefined")
    assert (len(rig.files), rig.noted) == (1, [])
    with pytest.raises(WrongState):
        await rig.storage.prepare(rig.in_place("other"))


@pytest.mark.parametrize("name", ["precious.qcow2", f"other@host1.{'0' * 32}.qcow2"])
async def test_nothing_but_the_vms_own_overlay_is_deleted(rig: Rig, name: str) -> None:
    disk = await rig.made(rig.spec())
    (rig.disks / name).write_text("precious")
    async with rig.storage.removing("web", Disk(path=str(rig.disks / name), base=disk.base)):
        pass
    assert (rig.disks / name).read_text() == "precious"


async def test_removing_what_is_gone_is_no_error(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    os.unlink(disk.path)
    async with rig.storage.removing("web", disk):
        pass
    assert rig.noted == []


async def test_an_overlay_that_cannot_be_deleted_stays_noted(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    os.unlink(disk.path)
    os.mkdir(disk.path)  # which unlink refuses, even to root
    async with rig.storage.removing("web", disk):
        pass
    assert rig.noted == [Path(disk.path).name]
    os.rmdir(disk.path)
    os.close(os.open(disk.path, os.O_CREAT))
    assert (await rig.started().sweep([])).deleted == (disk.path,)


# --- after a crash --------------------------------------------------------------------------------


async def test_the_next_start_deletes_what_was_never_a_vms(rig: Rig) -> None:
    half = await rig.storage.prepare(rig.spec("half"))
    crashed = await rig.storage.prepare(rig.spec("crashed"))  # its VM was made, and not noted so
    kept = await rig.made(rig.spec("kept"))
    lost = await rig.made(rig.spec("lost"))  # undefined by somebody else meanwhile
    other = rig.started(host_name="host2", notes_dir=rig.notes.with_name("notes2"))
    foreign = await other.prepare(rig.spec("far"))
    (rig.disks / "notes.txt").write_text("of somebody")
    again = rig.started()
    found = [domain("crashed", crashed.path, running=False), domain("kept", kept.path)]
    unused = await again.sweep(found)
    assert unused.deleted == (half.path,)
    assert unused.left == (lost.path,)
    assert unused.others == (foreign.path,)
    assert rig.noted == []
    assert len(rig.files) == 5
    assert (await again.sweep(found)).deleted == ()
    assert (await again.sweep([])).deleted == ()  # what a VM had is no more ours to delete


async def test_an_overlay_below_a_snapshot_is_in_use(rig: Rig) -> None:
    disk = await rig.storage.prepare(rig.spec("web"))
    top = rig.disks / "web.snapshot"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk.path, top)
    unused = await rig.started().sweep([domain("web", top)])
    assert (unused.deleted, unused.left) == ((), ())
    assert Path(disk.path).name in rig.files


async def test_a_sweep_spares_what_is_being_made(rig: Rig) -> None:
    disk = await rig.storage.prepare(rig.spec())
    unused = await rig.storage.sweep([])
    assert (unused.deleted, unused.left) == ((), ())
    assert rig.files == rig.noted == [Path(disk.path).name]


async def test_a_removal_cut_short_is_finished(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    with pytest.raises(asyncio.CancelledError):
        async with rig.storage.removing("web", disk):
            raise asyncio.CancelledError  # the end of the process, as far as files can tell
    assert len(rig.noted) == 1
    assert (await rig.started().sweep([domain("web", disk.path)])).deleted == ()
    assert rig.noted == []


async def test_a_removal_cut_short_after_the_vm_went_is_finished(rig: Rig) -> None:
    disk = await rig.made(rig.spec())
    with pytest.raises(asyncio.CancelledError):
        async with rig.storage.removing("web", disk):
            raise asyncio.CancelledError
    assert (await rig.started().sweep([])).deleted == (disk.path,)
    assert (rig.files, rig.noted) == ([], [])


@pytest.mark.parametrize("leave", ["note", "partial", "whole"])
async def test_a_start_after_kill_9_at_any_point(rig: Rig, leave: str) -> None:
    disk = await rig.storage.prepare(rig.spec())
    if leave != "whole":
        os.rename(disk.path, f"{disk.path}.partial")
    if leave == "note":
        os.unlink(f"{disk.path}.partial")
    unused = await rig.started().sweep([])
    assert unused.deleted == (() if leave == "note" else (disk.path,))
    assert (rig.files, rig.noted) == ([], [])


MAKES_DISKS = """
import asyncio, sys
from fractions import Fraction
from pathlib import Path
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.storage import Storage

async def main(folder):
    storage = Storage(image_dirs=[folder / "images"], disk_dir=folder / "disks",
                      notes_dir=folder / "notes", host_name="host1")
    image = str(folder / "images" / "hello.qcow2")
    for number in range(1000):
        spec = VmSpec(name=f"vm{number}", vcpus=1, memory_mib=1, level=Fraction(1), image=image)
        disk = await storage.prepare(spec)
        if number % 2:
            await storage.hand_over(spec.name)
            print(disk.path, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("delay_ms", range(0, 30, 5))
def test_what_kill_9_leaves_is_cleared_away(tmp_path: Path, delay_ms: int) -> None:
    rig = Rig(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", MAKES_DISKS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        time.sleep(delay_ms / 1000)  # whatever it is doing then
        process.kill()
        told += process.stdout.read()
    kept = [domain(f"vm{n}", path) for n, path in enumerate(told.decode().split())]
    eventually(lambda: not _running_on(rig.disks))
    unused = asyncio.run(rig.storage.sweep(kept))
    assert unused.deleted, "at least the first VM was never handed over"
    assert len(unused.left) <= 1, "handed over and not told so"
    assert {f"{rig.disks}/{name}" for name in rig.files} == {
        *(each.disks[0].path for each in kept),
        *unused.left,
    }
    assert rig.noted == []
    rig.close()


def _running_on(folder: Path) -> list[int]:
    """Processes with *folder* among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{folder}/".encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


async def test_a_note_knows_its_folder_after_another_was_set(rig: Rig) -> None:
    first = await rig.storage.prepare(rig.spec("first"))
    elsewhere = rig.disks.with_name("elsewhere")
    elsewhere.mkdir()
    other = rig.started(disk_dir=elsewhere)
    second = await other.prepare(rig.spec("second"))
    third = await other.prepare(rig.spec("third"))
    await other.hand_over("third")
    # as an earlier version noted it
    old = rig.disks / "old@host1.0123456789abcdef0123456789abcdef.qcow2"
    old.touch()
    (rig.notes / old.name).symlink_to(old)
    gone = {str(old), first.path, second.path}
    assert len(rig.noted) == len(gone)
    there = [domain("third", Path(third.path))]
    assert set((await rig.started(disk_dir=elsewhere).sweep(there)).deleted) == gone
    assert rig.files == rig.noted == []
    assert [str(path) for path in elsewhere.iterdir()] == [third.path]


async def test_a_note_about_anything_else_deletes_nothing(rig: Rig) -> None:
    rig.notes.mkdir()
    (rig.notes / "hello.qcow2").symlink_to(rig.image)
    (rig.notes / "README").write_text("not a note")
    assert (await rig.storage.sweep([])).deleted == ()
    assert rig.image.exists()


# --- cost -----------------------------------------------------------------------------------------


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
