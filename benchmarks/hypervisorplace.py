"""A machine for libvirt's test driver, and images and cgroups of plain files, to measure on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT
from schedulercommon.levels import parse_level
from schedulerlocal.adapters.partitions import Hands, Partitions, Tree

TOPOLOGY = ROOT / "debug" / "topology_EPYC-7662.json"
THERE = ((1, "1"), (2, "2"), (2, "2"), (2, "3"), (4, "3"), (2, "3"))
MEMORY_MIB = 1024

_MACHINE = """<node>
<cpu><mhz>2000</mhz><model>x86_64</model><active>256</active><nodes>2</nodes>
<sockets>1</sockets><cores>64</cores><threads>2</threads></cpu><memory>1056514048</memory>
</node>"""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a machine for the test driver, and as many images as are asked for."""

    directory: Path

    @property
    def url(self) -> str:
        path = self.directory / "machine.xml"
        path.write_text(_MACHINE)
        return f"test://{path}"

    def image(self, name: str) -> str:
        path = self.directory / "images" / f"{name}.qcow2"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"]
            subprocess.run(command, check=True)
        return str(path)

    def partitions(self) -> Partitions:
        """Of all levels there will be, in files that grant what is written."""

        def write(path: Path, text: str) -> None:
            # emptied first it would be flushed as it is closed, which none of the kernel's is
            file = os.open(path, os.O_WRONLY)
            os.ftruncate(file, os.write(file, text.encode()))
            os.close(file)

        tree = Tree(self.directory / "cgroup", slices=False, hands=Hands(write=write))
        for level in {level for _, level in THERE}:
            folder = tree.folder(parse_level(level))
            folder.mkdir(parents=True)
            (folder / "cpuset.cpus").touch()
            (folder / "cpuset.cpus.effective").symlink_to("cpuset.cpus")
            (folder / "cgroup.events").write_text("populated 1\n")
        return Partitions(tree)

    def images(self, names: Sequence[str]) -> None:
        """Have an image for each of *names*."""
        first = self.image(names[0])
        for name in names[1:]:
            shutil.copyfile(first, self.directory / "images" / f"{name}.qcow2")
