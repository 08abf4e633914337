"""The cgroup of a level: its name, whether there can be any, and what its files then say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import MAX_DENOMINATOR, Level, parse_level
from schedulerlocal.adapters.partitions import Partitions, Tree, find_tree, level_of, partition_of
from tests.fakecgroups import FakeCgroups
from tests.partitionsrig import CPUS, TWO

# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "partition"),
    [
        ("1", "/machine/vmstack_l1x0"),
        ("2", "/machine/vmstack_l2x0"),
        ("1.5", "/machine/vmstack_l1x5"),
        ("1.05", "/machine/vmstack_l1x05"),
        ("10.5", "/machine/vmstack_l10x5"),
        ("4/3", "/machine/vmstack_l4by3"),
        ("6/4", "/machine/vmstack_l1x5"),
    ],
)
def test_the_name_of_a_levels_partition(level: str, partition: str) -> None:
    assert partition_of(parse_level(level)) == partition


@given(
    st.integers(1, MAX_DENOMINATOR).flatmap(
        lambda cpus: st.integers(cpus, 64 * cpus).map(lambda vcpus: Fraction(vcpus, cpus))
    )
)
def test_a_name_says_one_level(level: Level) -> None:
    name = partition_of(level)
    assert level_of(name) == level
    assert not set(".-/") & set(name.removeprefix("/machine/"))


@pytest.mark.parametrize(
    "partition",
    [
        "",
        "/machine",
        "/machine/gold",
        "/machine/vmstack_l2",
        "/machine/vmstack_l2x00",
        "/machine/vmstack_l6by4",
        "/machine/vmstack_l1by0",
        "/machine/vmstack_l99x0",
        "/machine/vmstack_l2x0/below",
        "/vmstack_l2x0",
    ],
)
def test_other_partitions_are_not_ours(partition: str) -> None:
    assert level_of(partition) is None


# --- finding out whether there can be any ---------------------------------------------------------


def found(cgroups: FakeCgroups, *, systemd: bool = False, machined: bool = False) -> Tree | str:
    beside = cgroups.root.parent
    (beside / "systemd").mkdir(exist_ok=True)
    (beside / "machined").touch()
    return find_tree(
        cgroups.root,
        beside / ("systemd" if systemd else "none"),
        [beside / ("machined" if machined else "none")],
        cgroups.hands,
    )


def test_controllers_are_passed_on_down_to_the_partitions(tmp_path: Path) -> None:
    cgroups = FakeCgroups(tmp_path / "cgroup", {0})
    assert found(cgroups) == found(cgroups) == Tree(cgroups.root, False, cgroups.hands)
    for folder in (cgroups.root, cgroups.root / "machine"):
        passed = (folder / "cgroup.subtree_control").read_text().split()
        assert passed == ["cpuset", "cpu", "memory", "io"]


def test_a_host_that_cannot_have_partitions_says_why(tmp_path: Path) -> None:
    assert find_tree(tmp_path / "v1", tmp_path / "none") == f"{tmp_path / 'v1'} is not of cgroup v2"
    cgroups = FakeCgroups(tmp_path / "cgroup", {0})
    why = found(cgroups, systemd=True)
    assert isinstance(why, str)
    assert "systemd-machined" in why
    (cgroups.root / "cgroup.subtree_control").unlink()
    assert found(cgroups) == (
        f"{cgroups.root / 'cgroup.subtree_control'} cannot be set up: No such file or directory"
    )
    (cgroups.root / "cgroup.controllers").write_text("memory pids\n")
    assert found(cgroups) == f"{cgroups.root} has no cpuset controller"


# --- a level's partition --------------------------------------------------------------------------


@pytest.fixture
def cgroups(tmp_path: Path) -> FakeCgroups:
    return FakeCgroups(tmp_path / "cgroup", set(CPUS))


@pytest.fixture
def partitions(cgroups: FakeCgroups) -> Partitions:
    tree = found(cgroups)
    assert isinstance(tree, Tree)
    return Partitions(tree)


async def test_what_is_there_is_not_written_again(
    cgroups: FakeCgroups, partitions: Partitions
) -> None:
    assert partitions.cpus(TWO) == ()
    await partitions.give(TWO, (2, 3))
    await partitions.give(TWO, (2, 3))
    assert cgroups.writes == [("vmstack_l2x0.partition", "2-3")]
    assert partitions.cpus(TWO) == (2, 3)
    await partitions.end(TWO)
    await partitions.end(TWO)
    assert cgroups.partitions() == []


@pytest.mark.parametrize("before", [(), (2, 3)], ids=["none before", "others before"])
async def test_a_kernel_that_grants_less_is_noticed(
    cgroups: FakeCgroups, partitions: Partitions, before: tuple[int, ...]
) -> None:
    if before:
        await partitions.give(TWO, before)
    cgroups.change_online({0, 1, 2, 3, 4, 5})
    with pytest.raises(HypervisorError) as refused:
        await partitions.give(TWO, (4, 5, 6, 7))
    assert str(refused.value).startswith(
        "level 2.0 was to get CPUs 4-7, and the kernel granted 4-5; see which CPUs are online"
    )
    assert partitions.cpus(TWO) == before
    assert cgroups.partitions() == (["vmstack_l2x0"] if before else [])


async def test_a_write_that_is_refused_leaves_nothing(
    cgroups: FakeCgroups, partitions: Partitions
) -> None:
    cgroups.fails_at = 1
    with pytest.raises(HypervisorError, match=r"level 1\.5 cannot be given CPUs 0: .* busy"):
        await partitions.give(Fraction(3, 2), (0,))
    assert cgroups.partitions() == []


async def test_a_partition_in_use_stays(cgroups: FakeCgroups, partitions: Partitions) -> None:
    await partitions.give(TWO, (2, 3))
    cgroups.enter(partition_of(TWO), "somebody's")
    assert partitions.holds_any(TWO)
    await partitions.end(TWO)
    assert cgroups.effective() == {"2x0": (2, 3)}


async def test_under_systemd_a_partition_is_a_slice(tmp_path: Path) -> None:
    cgroups = FakeCgroups(tmp_path / "cgroup", set(CPUS))
    tree = found(cgroups, systemd=True, machined=True)
    assert tree == Tree(cgroups.root, True, cgroups.hands)
    assert isinstance(tree, Tree)
    assert cgroups.made == []  # systemd does it
    partitions = Partitions(tree)
    await partitions.give(TWO, (2, 3))
    folder = cgroups.root / "machine.slice" / "machine-vmstack_l2x0.slice"
    assert (folder / "cpuset.cpus.effective").read_text() == "2-3\n"
    assert partitions.cpus(TWO) == (2, 3)
    cgroups.fails_at = len(cgroups.writes) + 1
    with pytest.raises(HypervisorError):
        await partitions.give(TWO, (4,))
    assert partitions.cpus(TWO) == (2, 3)
    await partitions.end(TWO)
    assert folder.is_dir()  # stopping it would stop what is in it
