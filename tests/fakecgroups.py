"""A cgroup v2 tree of files in a temporary folder, with the kernel's rules for sets of CPUs.

A group has what it asks for of what its parent has; where that is nothing, all its parent has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EBUSY, ENOENT
from pathlib import Path

from schedulerlocal.adapters.partitions import Hands
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist

CONTROLLERS = "cpuset cpu io memory hugetlb pids"


@dataclass
class FakeCgroups:
    """``made`` is what was asked of the kernel, and by :meth:`systemctl`, in order."""

    root: Path
    online: set[int]
    made: list[tuple[str, str]] = field(default_factory=list)
    fails_at: int | None = None
    """The number, from 1, of the write to ``cpuset.cpus`` that is refused."""
    watch: Callable[[], object] = lambda: None
    """Called after every write."""

    def __post_init__(self) -> None:
        self._group(self.root, CONTROLLERS)
        self._spread()

    @property
    def hands(self) -> Hands:
        return Hands(self.make, self.write, self.remove, self.systemctl)

    @property
    def writes(self) -> list[tuple[str, str]]:
        """What CPUs were asked for, by the name of the group."""
        return [each for each in self.made if "=" not in each[1] and each[1] not in ("", "start")]

    def make(self, folder: Path) -> None:
        if not folder.is_dir():
            parent = folder.parent
            folder.mkdir()
            self.made.append((folder.name, ""))
            self._group(folder, (parent / "cgroup.subtree_control").read_text())
        self._spread()

    def remove(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(ENOENT, "No such file or directory", str(folder))
        if any(each.is_dir() for each in folder.iterdir()):
            raise OSError(EBUSY, "Device or resource busy", str(folder))
        shutil.rmtree(folder)

    def write(self, path: Path, text: str) -> None:
        if not path.is_file():
            raise FileNotFoundError(ENOENT, "No such file or directory", str(path))
        if path.name == "cgroup.subtree_control":
            controller = text.removeprefix("+")
            if controller not in (path.parent / "cgroup.controllers").read_text().split():
                raise FileNotFoundError(ENOENT, "No such file or directory", str(path))
            passed = f"{path.read_text().strip()} {controller}".strip()
            path.write_text(passed + "\n")
            for child in path.parent.iterdir():
                if child.is_dir():
                    self._give_files(child, passed)
            return
        assert path.name == "cpuset.cpus"
        self.made.append((path.parent.name, text))
        if len(self.writes) == self.fails_at:
            raise OSError(EBUSY, "Device or resource busy", str(path))
        path.write_text(format_cpulist(parse_cpulist(text)) + "\n")
        self._spread()
        self.watch()

    def systemctl(self, arguments: Sequence[str]) -> None:
        *verb, unit = arguments[:2] if arguments[0] == "start" else arguments[:3]
        folder = self.root / "machine.slice" / unit
        if verb == ["start"]:
            for each in (folder.parent, folder):
                with suppress(FileNotFoundError):
                    self.write(each.parent / "cgroup.subtree_control", "+cpuset")
                self.make(each)
        else:
            assert verb == ["set-property", "--runtime"]
            name, _, cpus = arguments[3].partition("=")
            assert name == "AllowedCPUs"
            self.write(folder / "cpuset.cpus", cpus)

    def enter(self, partition: str, vm: str) -> None:
        """What libvirt does as a VM starts; raises OSError."""
        folder = self.root / f"{partition.strip('/')}.partition"
        if not folder.is_dir():
            raise FileNotFoundError(ENOENT, "No such file or directory", str(folder))
        (folder / vm).mkdir()
        self._note_populated(folder)

    def leave(self, vm: str) -> None:
        for folder in self.root.glob(f"machine/*/{vm}"):
            folder.rmdir()
            self._note_populated(folder.parent)

    def effective(self) -> dict[str, tuple[int, ...]]:
        """What each partition that has somebody in it runs on, by level as in its name."""
        return {
            folder.stem.removeprefix("vmstack_l"): parse_cpulist(
                (folder / "cpuset.cpus.effective").read_text()
            )
            for folder in sorted(self.root.glob("machine/*.partition"))
            if any(each.is_dir() for each in folder.iterdir())
        }

    def partitions(self) -> list[str]:
        return sorted(folder.stem for folder in self.root.glob("machine/*.partition"))

    def reboot(self) -> None:
        shutil.rmtree(self.root / "machine")
        self.made.clear()

    def change_online(self, cpus: set[int]) -> None:
        self.online = cpus
        self._spread()

    def _group(self, folder: Path, controllers: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("\n")
        if folder == self.root:
            (folder / "cgroup.controllers").write_text(controllers + "\n")
            return
        (folder / "cgroup.events").write_text("populated 0\nfrozen 0\n")
        self._give_files(folder, controllers)

    def _give_files(self, folder: Path, controllers: str) -> None:
        (folder / "cgroup.controllers").write_text(controllers.strip() + "\n")
        if "cpuset" in controllers.split() and not (folder / "cpuset.cpus").exists():
            (folder / "cpuset.cpus").write_text("\n")
            self._spread()

    def _note_populated(self, folder: Path) -> None:
        populated = int(any(each.is_dir() for each in folder.iterdir()))
        (folder / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")

    def _spread(self) -> None:
        has = {self.root: self.online}
        # a parent comes before its children
        for path in sorted(self.root.rglob("cpuset.cpus")):
            folder = path.parent
            above = has[folder.parent]
            has[folder] = above.intersection(parse_cpulist(path.read_text())) or above
            (folder / "cpuset.cpus.effective").write_text(format_cpulist(has[folder]) + "\n")
