"""What keeps a disk from being made: no room, a bad qemu-img, a hung one, folders that are none."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from schedulercommon.errors import HypervisorError, StoreUnavailable
from tests.storagerig import Rig, _rig, program

__all__ = ["_rig"]


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
    await storage.prepare(rig.in_place("other"))  # nor is the image taken


async def test_a_prepare_that_is_cancelled_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    storage = rig.started(qemu_img=program(tmp_path, HANGS.format(tmp_path)))
    task = asyncio.create_task(storage.prepare(rig.spec()))
    await until((tmp_path / "child").exists)
    await until(lambda: bool((tmp_path / "child").read_text()))
    assert rig.files == rig.noted
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
