"""Levels as cgroups, held to what a real kernel and libvirt made of them.

The recording is of a service on a libvirtd of its own in an emulated machine with 4 CPUs (Linux
6.1, cgroup v2, no systemd): the cgroups that matter at each moment, and where every thread of every
guest's emulator might run, as ``/proc/PID/task/*/status`` had it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from fractions import Fraction
from pathlib import Path

import pytest

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import Level
from schedulerlocal.adapters.partitions import Hands, Partitions, Tree, find_tree, partition_of
from schedulerlocal.core.cpulist import parse_cpulist
from tests.fakecgroups import FakeCgroups

RECORDED = json.loads((Path(__file__).parent / "data" / "cgroup-v2-kernel-6.1.json").read_text())
MOMENTS = {each["moment"]: each for each in RECORDED}
Groups = dict[str, dict[str, str]]
ONE, TWO, THIRD = Fraction(1), Fraction(2), Fraction(4, 3)
LEVELS = {f"{partition_of(level)}.partition": level for level in (ONE, TWO, THIRD)}
SHARED = "machine/vmstack_l2x0.partition/cpuset.cpus"


def refuse(*_: object) -> None:
    raise AssertionError("all that is wanted is there")


@pytest.mark.parametrize("name", [name for name in MOMENTS if name != "booted"])
async def test_what_the_kernel_grants_is_where_threads_run(tmp_path: Path, name: str) -> None:
    moment = MOMENTS[name]
    for group, files in moment["groups"].items():
        for file, text in files.items():
            path = tmp_path / group.lstrip("/") / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    hands = Hands(write=refuse, remove=refuse, systemctl=refuse)
    tree = find_tree(tmp_path, tmp_path / "none", (), hands)
    assert isinstance(tree, Tree)
    partitions = Partitions(tree)
    held = {LEVELS[vm["partition"]] for vm in moment["vms"].values()}
    assert {level for level in LEVELS.values() if partitions.holds_any(level)} == held
    for vm in moment["vms"].values():
        granted = partitions.cpus(LEVELS[vm["partition"]])
        assert {"CPU 0/TCG", "IO mon_iothread"} < set(vm["threads"])
        assert {parse_cpulist(cpus) for cpus in vm["threads"].values()} == {granted}


class Replayed:
    """The recorded scenario, on cgroups of paper."""

    def __init__(self, directory: Path) -> None:
        self.cgroups = FakeCgroups(directory / "cgroup", {0, 1, 2, 3})
        self.directory = directory

    def begin(self) -> Partitions:
        none = self.directory / "none"
        tree = find_tree(self.cgroups.root, none, (), self.cgroups.hands)
        assert isinstance(tree, Tree)
        return Partitions(tree)

    def write(self, file: str, text: str) -> None:
        self.cgroups.write(self.cgroups.root / file, text)

    def groups(self) -> Groups:
        """As they were recorded."""
        root = self.cgroups.root
        return {
            "/" if folder == root else f"/{folder.relative_to(root)}": {
                path.name: path.read_text().strip() for path in folder.iterdir() if path.is_file()
            }
            for folder in (root, *root.glob("machine"), *root.glob("machine/*.partition"))
        }


def told(groups: Groups) -> dict[str, object]:
    """What we read and write of it."""
    shown: dict[str, object] = {}
    for group, files in groups.items():
        if group != "/":  # which has all CPUs
            shown[group] = (files["cpuset.cpus"], files["cpuset.cpus.effective"])
        if group in ("/", "/machine"):
            shown[f"{group} passes on"] = set(files["cgroup.subtree_control"].split())
        else:
            shown[f"{group} is in use"] = "populated 1" in files["cgroup.events"]
    return shown


async def test_cgroups_of_paper_do_as_the_kernels(tmp_path: Path) -> None:
    here = Replayed(tmp_path)
    assert told(here.groups()) == told(MOMENTS["booted"]["groups"])
    partitions = here.begin()

    async def give(level: Level, *cpus: int) -> None:
        await partitions.give(level, cpus)

    async def enter(level: Level, vm: str) -> None:
        here.cgroups.enter(partition_of(level), vm)

    async def leave(*vms: str) -> None:
        for vm in vms:
            here.cgroups.leave(vm)

    async def write(file: str, cpus: str) -> None:
        here.write(file, cpus)

    async def refused() -> None:
        with pytest.raises(HypervisorError, match="the kernel granted 0-1;"):
            await partitions.give(THIRD, (3,))

    async def end() -> None:
        for level in LEVELS.values():
            await partitions.end(level)

    happened: dict[str, list[Callable[[], Awaitable[None]]]] = {
        "service ready": [],
        "a": [lambda: give(TWO, 0, 1), lambda: enter(TWO, "a")],
        "b p": [lambda: enter(TWO, "b"), lambda: give(ONE, 2), lambda: enter(ONE, "p")],
        "c": [lambda: give(TWO, 0, 1, 3), lambda: enter(TWO, "c")],
        # which the service had set right before anybody looked
        f"'0' > {SHARED}: written": [lambda: write(SHARED, "0"), lambda: give(TWO, 0, 1, 3)],
        "a pass later": [],
        "without c": [lambda: leave("c"), lambda: give(TWO, 0, 1)],
        "'0-1' > machine/cpuset.cpus: written": [lambda: write("machine/cpuset.cpus", "0-1")],
        "x refused": [refused],
        "'0-3' > machine/cpuset.cpus: written": [lambda: write("machine/cpuset.cpus", "0-3")],
        "x": [lambda: give(THIRD, 3), lambda: enter(THIRD, "x")],
        "empty": [lambda: leave("a", "b", "p", "x"), end],
    }
    for name, acts in happened.items():
        for act in acts:
            await act()
        assert told(here.groups()) == told(MOMENTS[name]["groups"]), name
