"""What a host's state may not be: names, sizes and states that are refused, each in a sentence."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from schedulercommon.errors import NameTaken, UnknownVm
from schedulercommon.levels import Level
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from schedulerlocal.core.host import Host
from schedulerlocal.core.planner import plan_deploy, plan_remove, plan_resize
from schedulerlocal.core.state import HostState, Subset, Vm, violations
from schedulerlocal.core.topology import Cpu, Cpus, Topology
from tests.examplehosts import LAPTOP, SMALL, vm, with_vms


def test_a_name_is_of_one_vm() -> None:
    state = with_vms(Host(LAPTOP), vm("a"))
    with pytest.raises(NameTaken, match="another VM is already named 'a'"):
        plan_deploy(state, vm("a", 2, "2"))
    for decide in (plan_remove, plan_resize):
        with pytest.raises(UnknownVm, match="there is no VM named 'b' here"):
            decide(state, "b")
    with pytest.raises(ValueError, match="at least 1 vCPU"):
        plan_resize(state, "a", vcpus=0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"vcpus": 0}, "at least 1 vCPU"),
        ({"memory_mib": 0}, "at least 1 vCPU and 1 MiB"),
        ({"max_vcpus": 1}, "more than the maximum"),
        ({"max_memory_mib": 99}, "more than the maximum"),
        ({"level": Fraction(1, 2)}, "out of range"),
        ({"level": Fraction(65)}, "out of range"),
        ({"level": Fraction(2000, 1001)}, "too fine"),
        ({"runs_at": Fraction(3)}, "worse level than it bought"),
        ({"runs_at": Fraction(1, 2)}, "worse level than it bought"),
    ],
)
def test_an_impossible_vm_is_never_born(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(vm("a", 2, "2"), **wrong)  # type: ignore[arg-type]


def test_what_a_policy_gives_is_within_what_was_bought() -> None:
    assert vm("a", 1, "3").runs_at == 3
    assert vm("a", 1, "3", runs_at="2").runs_at == 2


def broken(level: Level, cpus: Cpus, *vms: Vm) -> tuple[Level, Subset]:
    return level, Subset(cpus, vms)


GOOD = Vm(vm("a", 2, "2"), 2, 100, ((0, 100),))


@pytest.mark.parametrize(
    ("subsets", "sentence"),
    [
        ([broken(Fraction(2), (0, 99), GOOD)], "which the host does not have"),
        ([broken(Fraction(2), (0,), GOOD)], "owns 1 CPUs and needs 2"),
        ([broken(Fraction(2), (0, 1, 2), GOOD)], "more than its 2"),
        ([broken(Fraction(2), ())], "has no VM"),
        ([broken(Fraction(2), (0, 1), replace(GOOD, memory_nodes=()))], "do not hold its 100 MiB"),
        ([broken(Fraction(3), (0, 1), GOOD)], "runs at another"),
        (
            [
                broken(Fraction(2), (0, 1), GOOD),
                broken(Fraction(3), (1,), replace(GOOD, spec=vm("b", 1, "3"), vcpus=1)),
            ],
            "CPU 1 is owned twice, by 2.0 and 3.0",
        ),
        ([broken(Fraction(2), (0, 1), GOOD, GOOD)], "there twice"),
        (
            [
                broken(
                    Fraction(2),
                    (0, 1),
                    replace(GOOD, memory_mib=8_002, memory_nodes=((0, 8_002),)),
                )
            ],
            "2 MiB more than the host has",
        ),
    ],
)
def test_a_broken_state_says_what_is_broken(
    subsets: list[tuple[Level, Subset]], sentence: str
) -> None:
    assert any(sentence in found for found in violations(HostState(Host(SMALL), dict(subsets))))


@pytest.mark.parametrize(
    ("text", "cpus", "shown"),
    [
        ("", (), ""),
        ("0", (0,), "0"),
        ("0-3,8", (0, 1, 2, 3, 8), "0-3,8"),
        (" 8,0-1,1-2\n", (0, 1, 2, 8), "0-2,8"),
        ("0,1,,", (0, 1), "0-1"),
        ("5-5", (5,), "5"),
    ],
)
def test_sets_of_cpus_read_and_print_as_the_kernel_does(text: str, cpus: Cpus, shown: str) -> None:
    assert parse_cpulist(text) == cpus
    assert format_cpulist(cpus) == shown


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1-", "0x1", "1 2", "70000", "٣", "0-3:2/1"])
def test_what_is_no_set_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write like 0-3,8"):
        parse_cpulist(text)


def test_nodes_with_two_distances_are_as_far_apart_as_the_larger() -> None:
    cpus = tuple(Cpu(id=number, node=number, siblings=(), caches=(number,)) for number in (0, 1))
    topology = Topology(cpus, {0: (10, 20), 1: (32, 10)}, 1024, 1024)
    assert topology.distances.tolist() == [[0, 42], [42, 0]]
