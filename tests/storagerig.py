"""A host's folders for images and disks, and the storage on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.model import VmSpec
from schedulerlocal.adapters.storage import Disk, DiskFile, Storage, VmDisks
from tests.qcow2files import make_image


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


def program(folder: Path, text: str) -> str:
    path = folder / "stand-in"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
