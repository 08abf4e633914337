"""A cgroup for each level, so that its CPUs change with one write whatever the number of VMs.

Only with cgroup v2: there a change reaches all that is below, at once. libvirt calls such a cgroup
a partition. It must be there before a VM starts in it, and a VM stays in the one it started in.
Without systemd a partition is a folder below ``machine`` whose name libvirt ends in
``.partition``; under systemd, which lets nobody else write there, a slice below ``machine.slice``.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EIO
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import Level, format_level, parse_level
from schedulerlocal.adapters.callthreads import CallThreads
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from schedulerlocal.core.topology import Cpus

T = TypeVar("T")

CGROUPS = Path("/sys/fs/cgroup")
BOOTED_BY_SYSTEMD = Path("/run/systemd/system")
_MACHINED = (Path("/usr/lib/systemd/systemd-machined"), Path("/lib/systemd/systemd-machined"))

_NAME = re.compile(r"/machine/vmstack_l([0-9]+(?:x|by)[0-9]+)", re.ASCII)
# A child may only have what its parent passes on, and libvirt refuses to start a VM with shares
# where the cpu controller is not there.
_PASSED_ON = ("cpuset", "cpu", "memory", "io")
_MOST_BYTES = 1 << 16
_SLICE_LOOKS, _LOOK_S = 100, 0.02
_SYSTEMCTL_S = 10.0

_log = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def partition_of(level: Level) -> str:
    """libvirt's name of the partition of *level*: ``.``, ``-`` and ``/`` mean something there."""
    return "/machine/vmstack_l" + format_level(level).replace(".", "x").replace("/", "by")


def level_of(partition: str) -> Level | None:
    """The level whose partition is called *partition*; None if it is none of ours."""
    match = _NAME.fullmatch(partition)
    if match is None:
        return None
    try:
        level = parse_level(match[1].replace("x", ".").replace("by", "/"))
    except ValueError:
        return None
    return level if partition_of(level) == partition else None


def _make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)


def _write(path: Path, text: str) -> None:
    """In one write and to a file that is there, as the kernel's are; raises OSError."""
    target = os.open(path, os.O_WRONLY)
    try:
        os.write(target, f"{text}\n".encode())
    finally:
        os.close(target)


def _systemctl(arguments: Sequence[str]) -> None:
    """Raises OSError with what it says."""
    try:
        subprocess.run(
            ["systemctl", "--no-ask-password", *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SYSTEMCTL_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as problem:
        raise OSError(EIO, f"systemctl says {problem.stderr.strip()[:200]!r}") from problem
    except subprocess.TimeoutExpired as problem:
        raise OSError(EIO, f"systemctl did not answer within {_SYSTEMCTL_S:g} s") from problem


@dataclass(frozen=True, slots=True)
class Hands:
    """What changes cgroups; each raises OSError."""

    make: Callable[[Path], None] = _make
    write: Callable[[Path, str], None] = _write
    remove: Callable[[Path], None] = Path.rmdir
    systemctl: Callable[[Sequence[str]], None] = _systemctl


@dataclass(frozen=True, slots=True)
class Tree:
    """Where a host's partitions are."""

    root: Path
    slices: bool
    """Whether systemd keeps them."""
    hands: Hands

    def folder(self, level: Level) -> Path:
        stem = Path(partition_of(level)).name
        if self.slices:
            return self.root / "machine.slice" / f"machine-{stem}.slice"
        return self.root / "machine" / f"{stem}.partition"


def find_tree(
    root: Path = CGROUPS,
    booted_by_systemd: Path = BOOTED_BY_SYSTEMD,
    machined: Sequence[Path] = _MACHINED,
    hands: Hands | None = None,
) -> Tree | str:
    """Where partitions can be, ready to have some; or, as a part of a sentence, why nowhere."""
    hands = hands or Hands()
    try:
        controllers = (root / "cgroup.controllers").read_text().split()
    except OSError:
        return f"{root} is not of cgroup v2"
    if "cpuset" not in controllers:
        return f"{root} has no cpuset controller"
    if booted_by_systemd.is_dir():
        if not any(path.exists() for path in machined):
            return "systemd-machined, through which libvirt makes slices, is not installed"
        return Tree(root, True, hands)
    try:
        hands.make(root / "machine")
        for folder in (root, root / "machine"):
            _pass_on(folder, hands)
    except OSError as problem:
        return f"{problem.filename or root} cannot be set up: {problem.strerror}"
    return Tree(root, False, hands)


def _pass_on(folder: Path, hands: Hands) -> None:
    """Let the children of *folder* have controllers; raises OSError if they do not get cpuset."""
    available = (folder / "cgroup.controllers").read_text().split()
    control = folder / "cgroup.subtree_control"
    passed = control.read_text().split()
    for controller in _PASSED_ON:
        if controller in passed or (controller not in available and controller != "cpuset"):
            continue
        try:
            hands.write(control, f"+{controller}")
        except OSError:
            if controller == "cpuset":
                raise


def _read(path: str) -> str:
    """Of a file of the kernel's, which says all in one read; raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _MOST_BYTES).decode().strip()
    finally:
        os.close(file)


@lru_cache(maxsize=256)
def _parsed(cpus: str) -> Cpus:
    return parse_cpulist(cpus)


@lru_cache(maxsize=256)
def _formatted(cpus: Cpus) -> str:
    return format_cpulist(cpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A partition, and those of its files that are read and written at every turn."""

    path: Path
    asked: Path
    granted: str
    events: str


class Partitions:
    """The partitions of a host. A call that was given up is carried out all the same, before those
    that come after it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folders: dict[Level, _Folder] = {}
        self._thread = CallThreads("partitions", 1)

    def cpus(self, level: Level) -> Cpus:
        """What the kernel lets the VMs in the partition of *level* run on; empty without one."""
        try:
            return _parsed(_read(self._folder(level).granted))
        except (OSError, ValueError):
            return ()

    def holds_any(self, level: Level) -> bool:
        """Whether a process is in the partition of *level*."""
        try:
            return "populated 1" in _read(self._folder(level).events)
        except OSError:
            return False

    async def give(self, level: Level, cpus: Cpus) -> str | None:
        """Let the VMs of *level* run on *cpus*, ascending; makes its partition if there is none.

        Returns what :meth:`put_back` wants. Raises HypervisorError with all as it was.
        """
        if self._thread.idle and self._is_given(level, cpus):
            return _formatted(cpus)
        return await self._in_thread(partial(self._give, level, cpus))

    async def put_back(self, level: Level, before: str | None) -> None:
        """Undo a :meth:`give`; what cannot be undone is logged, and is for the repair pass."""
        await self._in_thread(partial(self._put_back, level, before))

    async def end(self, level: Level) -> None:
        """*level* needs its partition no more; one that has VMs in it all the same stays.

        A slice stays too: stopping it would stop what anybody has put into it meanwhile.
        """
        if not self._tree.slices:
            await self._in_thread(partial(self._remove, level))

    def _give(self, level: Level, cpus: Cpus) -> str | None:
        folder, wanted = self._folder(level).path, _formatted(cpus)
        before = self._asked(level)
        if before == wanted and self.cpus(level) == cpus:
            return wanted
        try:
            if before is None:
                self._make(folder)
            self._ask(level, wanted)
            granted = self._granted(level, cpus)
        except OSError as problem:
            self._put_back(level, before)
            raise HypervisorError(
                f"level {format_level(level)} cannot be given CPUs {wanted}: {folder}:"
                f" {problem.strerror}; look at the host's log"
            ) from problem
        if granted != cpus:
            self._put_back(level, before)
            raise HypervisorError(
                f"level {format_level(level)} was to get CPUs {wanted}, and the kernel granted"
                f" {format_cpulist(granted) or 'none'}; see which CPUs are online, and cpuset.cpus"
                f" of the cgroups above {folder}"
            )
        return before

    def _put_back(self, level: Level, before: str | None) -> None:
        if before is None:
            self._remove(level)
            return
        try:
            self._ask(level, before)
        except OSError as problem:
            _log.warning(
                "level %s could not be put back on CPUs %s: %s",
                format_level(level),
                before,
                problem,
            )

    def _is_given(self, level: Level, cpus: Cpus) -> bool:
        return self._asked(level) == _formatted(cpus) and self.cpus(level) == cpus

    def _asked(self, level: Level) -> str | None:
        """What was written last, as the kernel puts it; None if there is no partition."""
        try:
            return _read(str(self._folder(level).asked))
        except OSError:
            return None

    def _make(self, folder: Path) -> None:
        if self._tree.slices:
            self._tree.hands.systemctl(["start", folder.name])
        else:
            self._tree.hands.make(folder)

    def _ask(self, level: Level, cpus: str) -> None:
        folder = self._folder(level)
        if self._tree.slices:
            allowed = f"AllowedCPUs={cpus}"
            self._tree.hands.systemctl(["set-property", "--runtime", folder.path.name, allowed])
        else:
            self._tree.hands.write(folder.asked, cpus)

    def _granted(self, level: Level, wanted: Cpus) -> Cpus:
        """systemd answers first and writes a moment later."""
        looks = _SLICE_LOOKS if self._tree.slices else 1
        for _ in range(looks - 1):
            if self.cpus(level) == wanted:
                break
            time.sleep(_LOOK_S)
        return self.cpus(level)

    def _remove(self, level: Level) -> None:
        if self._tree.slices:
            return
        with suppress(FileNotFoundError):
            try:
                self._tree.hands.remove(self._folder(level).path)
            except OSError as problem:
                _log.info("%s stays: %s", self._folder(level).path, problem.strerror)

    def _folder(self, level: Level) -> _Folder:
        if level not in self._folders:
            path = self._tree.folder(level)
            self._folders[level] = _Folder(
                path=path,
                asked=path / "cpuset.cpus",
                granted=f"{path}/cpuset.cpus.effective",
                events=f"{path}/cgroup.events",
            )
        return self._folders[level]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await self._thread.outcome(self._thread.submit(call))
