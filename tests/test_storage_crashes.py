"""The overlays of VMs that end, or whose making was cut short: cleared away, nothing else is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from schedulercommon.errors import HypervisorError, WrongState
from schedulerlocal.adapters.storage import Disk
from tests.qcow2files import qemu_img
from tests.servers import ROOT, eventually
from tests.storagerig import Rig, _rig, domain

__all__ = ["_rig"]


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


@pytest.mark.parametrize("leave", ["note", "half", "half of an earlier version", "whole"])
async def test_a_start_after_kill_9_at_any_point(rig: Rig, leave: str) -> None:
    disk = await rig.storage.prepare(rig.spec())
    if leave == "half":
        os.truncate(disk.path, 100)
    elif leave == "note":
        os.unlink(disk.path)
    elif leave != "whole":
        os.rename(disk.path, f"{disk.path}.partial")
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
