"""Reading a host's promise back from what runs on it, and setting right what differs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.core.adoption import FoundVm, adopt
from schedulerlocal.core.decisions import deployed
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_adopt
from schedulerlocal.core.reconcile import reconcile, warnings
from schedulerlocal.core.state import HostState, Vm, violations
from schedulerlocal.core.steps import Adopt, Pin, Plan

ONE, TWO, THREE = Fraction(1), Fraction(2), Fraction(3)


def host(cpus: int = 16, isolation: bool = False) -> Host:
    machine = Machine(
        sockets=1, cores=cpus // 2, threads=2, l3_cores=4, memory_mib=65_536, max_freq_khz=1
    )
    return Host(machine_topology(machine), Rules(smt_isolation=isolation))


def spec(name: str, vcpus: int, level: Fraction = ONE, memory_mib: int = 1024) -> VmSpec:
    return VmSpec(name=name, vcpus=vcpus, memory_mib=memory_mib, level=level)


def filled(on: Host, *specs: VmSpec) -> HostState:
    state = HostState(on, {})
    for each in specs:
        after = deployed(state, each)
        assert not isinstance(after, Rejection)
        state = after
    return state


def as_found(state: HostState) -> list[FoundVm]:
    return [
        found(vm, vm.pinned if vm.foreign else state.reach[level])
        for level, subset in state.subsets.items()
        for vm in subset.vms
    ]


def found(vm: Vm, pinned: tuple[int, ...]) -> FoundVm:
    return FoundVm(
        spec=vm.spec,
        vcpus=vm.vcpus,
        boot_memory_mib=vm.memory_mib,
        pinned=pinned,
        memory_nodes=vm.memory_nodes,
        foreign=vm.foreign,
    )


def stranger(name: str, vcpus: int, *pinned: int) -> FoundVm:
    return FoundVm(
        spec=spec(name, vcpus), vcpus=vcpus, boot_memory_mib=1024, pinned=pinned, foreign=True
    )


REQUESTS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([ONE, Fraction(3, 2), TWO, THREE])), max_size=9
)


@given(REQUESTS, st.booleans())
def test_what_was_promised_is_read_back_as_it_was(
    requests: list[tuple[int, Fraction]], isolation: bool
) -> None:
    state = HostState(host(isolation=isolation), {})
    for number, (vcpus, level) in enumerate(requests):
        after = deployed(state, spec(f"vm{number}", vcpus, level))
        state = state if isinstance(after, Rejection) else after
    owned = {level: subset.cpus for level, subset in state.subsets.items()}
    assert adopt(state.host, as_found(state), owned).subsets == state.subsets
    result = reconcile(state, as_found(state))
    assert (result.after, result.steps, result.findings) == (state, (), ())


@given(REQUESTS)
def test_without_a_journal_sizes_hold_and_level_1_stays_where_it_is(
    requests: list[tuple[int, Fraction]],
) -> None:
    state = HostState(host(), {})
    for number, (vcpus, level) in enumerate(requests):
        after = deployed(state, spec(f"vm{number}", vcpus, level))
        state = state if isinstance(after, Rejection) else after
    again = adopt(state.host, as_found(state), {})
    assert violations(again) == []
    assert {level: len(subset.cpus) for level, subset in again.subsets.items()} == {
        level: len(subset.cpus) for level, subset in state.subsets.items()
    }
    if ONE in state.subsets:
        assert set(again.subsets[ONE].cpus) == set(state.subsets[ONE].cpus)


@pytest.mark.parametrize(
    ("strangers", "owns"),
    [
        ([stranger("s", 2, 4, 5)], {4, 5}),
        ([stranger("s", 2, 4, 5, 6, 7)], {4, 5}),
        ([stranger("s", 1, 4), stranger("t", 1, 4)], {4}),
        ([stranger("s", 3, 4)], {4}),
    ],
    ids=["its CPUs", "the first of them", "two on one CPU", "fewer than its vCPUs"],
)
def test_level_1_owns_the_cpus_a_foreign_vm_is_pinned_to(
    strangers: list[FoundVm], owns: set[int]
) -> None:
    state = adopt(host(), strangers, {})
    assert owns <= set(state.subsets[ONE].cpus)
    assert len(state.subsets[ONE].cpus) == sum(each.vcpus for each in strangers)
    assert violations(state) == []


def test_a_level_moves_off_cpus_a_foreign_vm_turns_up_on() -> None:
    before = filled(host(), spec("a", 4, TWO), spec("b", 4, TWO))
    taken = before.subsets[TWO].cpus[:2]
    arrivals = [*as_found(before), stranger("s", 2, *taken)]
    result = reconcile(before, arrivals)
    assert set(taken) <= set(result.after.subsets[ONE].cpus)
    assert set(taken).isdisjoint(result.after.reach[TWO])
    assert len(result.after.subsets[TWO].cpus) == 4
    assert violations(result.after) == []
    assert result.after.generation > before.generation
    # the VMs of level 2 are moved, the foreign one never is
    assert result.steps
    assert {name for step in result.steps if isinstance(step, Pin) for name in step.vms} == {
        "a",
        "b",
    }
    first = result.findings[0]
    assert (first.kind, first.vm) == ("appeared", "s")


def test_growth_and_shrinkage_beside_a_foreign_vm_leave_it_its_cpus() -> None:
    state = adopt(host(), [stranger("s", 2, 9, 13)], {})
    for number in range(3):
        after = deployed(state, spec(f"vm{number}", 3))
        assert not isinstance(after, Rejection)
        state = after
    result = reconcile(state, [each for each in as_found(state) if each.foreign])
    assert set(result.after.subsets[ONE].cpus) == {9, 13}


def test_an_over_committed_host_is_told_and_left_alone() -> None:
    crowd = [
        replace(as_found(filled(host(32), spec(f"vm{n}", 8)))[0], spec=spec(f"vm{n}", 8))
        for n in range(3)
    ]
    result = reconcile(HostState(host(16), {}), crowd)
    assert result.steps == ()
    assert len(result.after.subsets[ONE].cpus) == 16
    assert [text for text in warnings(result.after) if text.startswith("over-committed")]
    assert isinstance(deployed(result.after, spec("more", 1)), Rejection)


def test_a_foreign_vm_that_may_run_anywhere_is_warned_about() -> None:
    state = adopt(host(), [stranger("s", 2), *as_found(filled(host(), spec("a", 4, TWO)))], {})
    assert len(state.subsets[ONE].cpus) == 2
    (warning,) = warnings(state)
    assert "'s'" in warning
    assert "2.0" in warning
    assert "adopt" in warning


def test_a_vm_pinned_behind_our_back_is_put_back_narrow_before_wide() -> None:
    state = filled(host(), spec("a", 2), spec("b", 4, TWO))
    there = as_found(state)
    there[0] = replace(there[0], pinned=state.subsets[TWO].cpus)
    result = reconcile(state, there)
    assert result.after == state
    (pin,) = result.steps
    assert isinstance(pin, Pin)
    assert (pin.vms, set(pin.after)) == (("a",), set(state.subsets[ONE].cpus))
    (finding,) = result.findings
    assert (finding.kind, finding.vm) == ("moved", "a")


def test_vanished_and_resized_vms_change_what_is_counted() -> None:
    state = filled(host(), spec("a", 2), spec("b", 4))
    gone, kept = as_found(state)
    grown = replace(kept, vcpus=6, spec=spec("b", 6))
    result = reconcile(state, [grown])
    assert gone.spec.name not in result.after.subsets[ONE].by_name
    assert len(result.after.subsets[ONE].cpus) == 6
    assert {(each.kind, each.vm) for each in result.findings} >= {
        ("vanished", "a"),
        ("changed", "b"),
    }


def test_a_reserve_that_shrank_the_host_is_no_reason_to_forget_a_vm() -> None:
    state = filled(host(), spec("a", 2, memory_mib=60_000))
    smaller = Host(state.host.topology, Rules(reserved_memory_mib=10_000))
    again = adopt(smaller, as_found(state), {})
    assert [vm.name for vm in again.vms()] == ["a"]
    assert again.free_memory_mib < 0
    assert any("more than the host has" in text for text in warnings(again))


def test_adopting_leaves_the_cpus_it_was_found_on_before_others_come() -> None:
    state = adopt(host(), [stranger("s", 2, 4, 12)], {})
    after = deployed(state, spec("b", 2, THREE))
    assert not isinstance(after, Rejection)
    plan = plan_adopt(after, "s", spec("s", 2, TWO))
    assert isinstance(plan, Plan)
    assert isinstance(plan.steps[0], Adopt)
    assert plan.after.vm("s").spec.level == TWO
    assert not plan.after.vm("s").foreign
    assert ONE not in plan.after.subsets
    moves = [step for step in plan.steps if isinstance(step, Pin)]
    own = next(place for place, step in enumerate(moves) if step.vms == ("s",))
    assert moves[own].before == (4, 12)
    widened = [place for place, step in enumerate(moves) if set(step.after) & {4, 12}]
    assert all(place >= own for place in widened)
