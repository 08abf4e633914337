"""The disks of VMs: overlays made on images, or images themselves, and none used by two at once.

Making a disk may take long and happens without the agent's lock; whatever stops it leaves nothing
behind. File work runs in threads of its own, so that a share that hangs holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from schedulercommon.errors import HypervisorError, RefusedError, StoreUnavailable, WrongState
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.callthreads import CallThreads
from schedulerlocal.adapters.imagechain import Image, ImageReader
from schedulerlocal.adapters.imageuse import ImageUses, Use
from schedulerlocal.adapters.overlays import (
    FileId,
    OverlayNotes,
    Unused,
    begin_overlay,
    delete_overlay,
    file_at,
    finish_overlay,
    overlay_name,
    owner_of,
    unused_overlays,
)
from schedulerlocal.adapters.qemuimg import Run, create_overlay
from schedulerlocal.adapters.vmdisk import Base, Disk, base_changed

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 4
_MAKING_AT_ONCE = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """A disk as a domain names it."""

    path: str
    format: str = "qcow2"
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDisks:
    """All disks of a domain, ours or not."""

    vm: str
    disks: tuple[DiskFile, ...]
    running: bool
    """Suspended and migrating count too."""


class Storage:
    """See the module. Every refusal is a RefusedError, and nothing has changed.

    *notes_dir* belongs to this local scheduler alone; *disk_dir* may be shared with other hosts.
    """

    def __init__(
        self,
        *,
        image_dirs: Sequence[Path],
        disk_dir: Path,
        notes_dir: Path,
        host_name: str,
        qemu_img: str = "qemu-img",
        timeout_s: float = 30.0,
    ) -> None:
        self._disk_dir = Path(os.path.abspath(disk_dir))
        self._host_name = host_name
        self._qemu_img = qemu_img
        self._timeout_s = timeout_s
        self._images = ImageReader(image_dirs)
        self._notes = OverlayNotes(notes_dir)
        self._uses = ImageUses()
        self._found: dict[str, tuple[DiskFile, ...]] = {}
        self._prepared: dict[str, Disk] = {}
        self._in_making: set[str] = set()
        self._starting: set[str] = set()
        self._turns = asyncio.Semaphore(_MAKING_AT_ONCE)
        self._threads = CallThreads("storage", _THREADS)
        self._makers = CallThreads("disks", _MAKING_AT_ONCE)

    def close(self) -> None:
        self._threads.close()
        self._makers.close()

    # --- making a VM ------------------------------------------------------------------------------

    async def prepare(self, spec: VmSpec) -> Disk:
        """Check the image and make the disk; then :meth:`hand_over` or :meth:`discard` it.

        Raises BadRequest if the image may not be used, WrongState if another VM uses it, and
        HypervisorError or StoreUnavailable if the disk cannot be made.
        """
        name = spec.name
        if spec.disk == "in-place":
            image = await self._in_thread(self._images.check, spec.image)
            disk = Disk(path=image.path, base=None)
            wanted = use = Use(name, (image.file,), image.reads, spec.start)
        else:
            # what it builds on is looked at where it is made: another turn of a thread, each time,
            # costs more than an overlay made for nothing now and then; nobody reads through it yet
            image, disk, file = await self._make_overlay(spec)
            wanted = Use(name, (), (image.file, *image.reads), spec.start)
            use = replace(wanted, writes=(file,))
        if taken := self._uses.against_making(wanted):
            mend = "or shut that VM down" if disk.base else "or disk=overlay"
            if disk.base:
                await self._clear_away(disk.path)
            raise WrongState(f"VM {name!r} {taken}, {image.path}; use another {mend}")
        self._uses.put((name, True), use)
        self._prepared[name] = disk
        return disk

    def prepared(self, name: str) -> Disk | None:
        """The disk made for the VM called *name*, which is not made itself yet."""
        return self._prepared.get(name)

    async def hand_over(self, name: str) -> None:
        """The VM has its prepared disk: from now on only its removal deletes that."""
        disk = self._prepared.pop(name)
        use = self._uses.find((name, True))
        assert use is not None
        self._uses.drop((name, True))
        self._uses.put((name, False), use)
        self._found[name] = (DiskFile(path=disk.path),)
        if disk.base is not None:
            self._in_making.discard(disk.path)
            self._erase_note(disk.path)

    async def discard(self, spec: VmSpec) -> None:
        """Undo :meth:`prepare`, if it was done and no VM came of it."""
        disk = self._prepared.pop(spec.name, None)
        if disk is None:
            return
        self._uses.drop((spec.name, True))
        if disk.base is not None:
            await self._clear_away(disk.path)

    # --- the life of a VM -------------------------------------------------------------------------

    async def follow(self, found: Iterable[VmDisks]) -> None:
        """Take note of the domains there are, all of them, and of what each uses."""
        before = self._uses.made()
        there = {each.vm: each for each in found}
        for name, each in there.items():
            if self._found.get(name) != each.disks:
                use = await self._in_thread(self._use, each)
                self._uses.put((name, False), use)
                self._found[name] = each.disks
            self._uses.set_running((name, False), each.running or name in self._starting)
        for name in before:
            if name not in there:
                self._forget(name)

    async def check_start(self, name: str, disk: Disk) -> None:
        """Raise WrongState if *disk*, or what it builds on, may not be used as it is by now."""
        await self._in_thread(self.check_start_now, name, disk)

    def check_start_now(self, name: str, disk: Disk) -> None:
        """Like :meth:`check_start`, in a thread that may wait for a disk."""
        if unfit := self._unfit(disk):
            raise WrongState(f"VM {name!r} cannot start: {unfit}")

    @asynccontextmanager
    async def starting(self, name: str, disk: Disk | None) -> AsyncIterator[None]:
        """Around starting a VM of ours, which counts as running from now on unless that fails.

        Raises WrongState as :meth:`check_start` does, and if a running VM is in the way.
        """
        if disk is not None:
            await self.check_start(name, disk)
        use = self._uses.find((name, False))
        if use is not None and (taken := self._uses.against_start(use)):
            raise WrongState(f"VM {name!r} cannot start: it {taken}; shut that VM down first")
        self._uses.set_running((name, False), True)
        self._starting.add(name)
        try:
            yield
        except RefusedError:
            self.stopped(name)
            raise
        finally:
            self._starting.discard(name)

    def stopped(self, name: str) -> None:
        """The VM called *name* does not run any more."""
        self._uses.set_running((name, False), False)

    @asynccontextmanager
    async def removing(self, name: str, disk: Disk | None) -> AsyncIterator[None]:
        """Around undefining a VM of ours: its overlay goes with it, or stays if that fails.

        After a crash, or if nobody knows what became of the VM, :meth:`sweep` decides. That the
        overlay cannot be deleted does not bring the VM back, and is only logged.
        """
        overlay = ""
        if disk is not None and disk.base is not None:
            owner = owner_of(disk.path)
            if owner is not None and owner.vm == name:
                overlay = disk.path
            else:
                _log.warning("%s is no overlay of VM %s and is left alone", disk.path, name)
        if overlay:
            try:
                self._notes.write(overlay)
            except OSError as problem:
                _log.warning("the removal of %s cannot be noted: %s", overlay, problem.strerror)
        try:
            yield
        except RefusedError:
            if overlay:
                self._erase_note(overlay)
            raise
        self._forget(name)
        if overlay:
            await self._clear_away(overlay)

    async def sweep(self, found: Iterable[VmDisks]) -> Unused:
        """At the start: delete the overlays made here that no domain ever had; list the others.

        Raises ConfigError if the folder of the disks cannot be read.
        """
        await self.follow(found)
        paths = {disk.path for disks in self._found.values() for disk in disks}
        in_use = frozenset(paths | self._in_making)
        return await self._in_thread(self._sweep, self._uses.files(), in_use)

    # --- parts ------------------------------------------------------------------------------------

    async def _make_overlay(self, spec: VmSpec) -> tuple[Image, Disk, FileId]:
        name = spec.name
        path = str(self._disk_dir / overlay_name(name, self._host_name))
        self._in_making.add(path)
        try:
            async with self._turns:
                run = Run()
                making = self._makers.submit(partial(self._make, spec, path, run))
                try:
                    image, file = await self._makers.outcome(making)
                except asyncio.CancelledError:
                    run.end()
                    await asyncio.wait([making], timeout=self._timeout_s)
                    raise
        except BaseException as problem:
            await self._clear_away(path)
            if isinstance(problem, OSError):
                raise HypervisorError(
                    f"no disk for VM {name!r} can be made in {self._disk_dir}: {problem.strerror};"
                    " make that (SCL_DISK_DIR) a folder with room that this user may write to"
                ) from problem
            if isinstance(problem, HypervisorError):
                raise HypervisorError(
                    f"no disk for VM {name!r} can be made in {self._disk_dir}: {problem}"
                ) from problem
            raise
        base = Base(path=image.path, size_bytes=image.file_bytes, mtime_ns=image.mtime_ns)
        return image, Disk(path=path, base=base), file

    def _make(self, spec: VmSpec, path: str, run: Run) -> tuple[Image, FileId]:
        image = self._images.check(spec.image)
        run.check()  # looking at it may have taken longer than anybody waited
        self._begin(spec.name, path)
        create_overlay(self._qemu_img, image.path, image.disk_bytes, path, self._timeout_s, run)
        return image, finish_overlay(path)

    def _begin(self, name: str, path: str) -> None:
        try:
            self._notes.write(path)
        except OSError as problem:
            raise StoreUnavailable(
                f"cannot note the disk of VM {name!r} in {self._notes.directory}:"
                f" {problem.strerror}; make room for it (SCL_STATE_DIR)"
            ) from problem
        begin_overlay(path)

    def _unfit(self, disk: Disk) -> str | None:
        files = [disk.path]
        if disk.base is not None:
            if changed := base_changed(disk.base):
                return f"{changed}; put it back, or remove the VM and deploy it again"
            files.append(disk.base.path)
        # the settings may name other folders than when it was made
        return self._images.unfit(disk.path, [os.path.dirname(file) for file in files])

    def _use(self, each: VmDisks) -> Use:
        writes: list[FileId] = []
        reads: list[FileId] = []
        for disk in each.disks:
            files = self._images.files_of(disk.path, disk.format)
            (reads if disk.read_only else writes).extend(files[:1])
            reads.extend(files[1:])
        return Use(each.vm, tuple(writes), tuple(reads), each.running)

    def _forget(self, name: str) -> None:
        self._uses.drop((name, False))
        self._found.pop(name, None)

    def _sweep(self, used: set[FileId], in_use: frozenset[str]) -> Unused:
        deleted = []
        for path in self._notes.paths():
            if path in self._in_making:
                continue
            try:
                if path in in_use or owner_of(path) is None or file_at(path) in used:
                    self._notes.erase(path)
                elif delete_overlay(path, self._notes):
                    deleted.append(path)
            except OSError as problem:
                _log.warning("%s is left behind: %s", path, problem.strerror)
        left, others = unused_overlays(self._disk_dir, self._host_name, used, in_use)
        return Unused(tuple(deleted), left, others)

    def _erase_note(self, path: str) -> None:
        try:
            self._notes.erase(path)
        except OSError as problem:
            # a domain has the overlay, so that the next start erases it
            _log.warning("the note about %s cannot be erased: %s", path, problem.strerror)

    async def _clear_away(self, path: str) -> None:
        """Delete an overlay, and the note about it; what cannot be deleted stays noted.

        It is waited for, but not for ever, and done even if whoever waits is cancelled.
        """
        future = self._in_background(delete_overlay, path, self._notes)
        done, _ = await asyncio.wait([future], timeout=self._timeout_s)
        try:
            if done:
                future.result()
            else:
                _log.warning("deleting %s takes too long", path)
        except OSError as problem:
            _log.warning("%s is left behind: %s", path, problem.strerror)
        self._in_making.discard(path)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *work* in a thread. Cancelled, wait for its end, so that it can be undone.

        Not for ever: what a hanging disk leaves behind is noted.
        """
        future = self._in_background(work, *args, **kwargs)
        try:
            return await self._threads.outcome(future)
        except asyncio.CancelledError:
            await asyncio.wait([future], timeout=self._timeout_s)
            raise

    def _in_background(
        self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        return self._threads.submit(lambda: work(*args, **kwargs))
