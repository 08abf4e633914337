"""Every plan, stopped by a failure after every number of steps, leaves what it may leave."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulercommon.model import VmSpec
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_deploy, plan_remove, plan_resize
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Adopt, Create, Pin, Plan, Remove, Resize, Step, way_back
from tests import strategies
from tests.fakes import FakeHypervisor, broken_promises, perform_or_undo

LAPTOP = machine_topology(Machine(cores=4, threads=2, memory_mib=31_776))


def interrupt_everywhere(before: HostState, plan: Plan) -> int:
    """Fail each step of *plan* in turn, and none; how many endings were seen."""
    start, end = FakeHypervisor.showing(before), FakeHypervisor.showing(plan.after)
    for fails_after in range(len(plan.steps) + 1):
        hypervisor = deepcopy(start)
        for moment in perform_or_undo(plan, hypervisor, fails_after):
            assert broken_promises(moment, before, plan.after) == []
        done = plan.steps[:fails_after]
        if fails_after == len(plan.steps):
            assert hypervisor == end
        elif any(isinstance(step, Remove) for step in done):
            assert way_back(done) is None
            assert hypervisor.vms == end.vms
            # the repair pass catches up on the rest
            for step in plan.steps[fails_after:]:
                hypervisor.perform(step)
            assert hypervisor == end
        else:
            assert len(way_back(done) or ()) == len(done)
            assert hypervisor == start
    return len(plan.steps) + 1


@given(data=st.data(), host=strategies.hosts)
@settings(max_examples=150)
def test_an_interrupted_plan_is_undone_or_done(data: st.DataObject, host: Host) -> None:
    state = HostState(host, {})
    names = [f"vm{number}" for number in range(data.draw(st.integers(1, 9)))]
    for name in names:
        plan = plan_deploy(state, data.draw(strategies.specs(name)))
        if isinstance(plan, Plan):
            assert interrupt_everywhere(state, plan) > 1
            state = plan.after
    for vm in list(state.vms()):
        vcpus = data.draw(st.none() | strategies.vcpus)
        memory_mib = data.draw(st.none() | strategies.memory_mib)
        change = plan_resize(state, vm.name, vcpus, memory_mib)
        if isinstance(change, Plan):
            assert interrupt_everywhere(state, change) > 1
            state = change.after if data.draw(st.booleans()) else state
    for vm in list(state.vms()):
        plan = plan_remove(state, vm.name)
        assert interrupt_everywhere(state, plan) > 1
        state = plan.after
    assert state.subsets == {}


def deployed(*vms: tuple[str, int, str], critical_size: int = 6) -> HostState:
    """A laptop with (name, vCPUs, level) in that order."""
    state = HostState(Host(LAPTOP, Rules(critical_size=critical_size)), {})
    for vm in vms:
        plan = plan_deploy(state, spec(*vm))
        assert isinstance(plan, Plan)
        state = plan.after
    return state


def spec(name: str, vcpus: int, level: str) -> VmSpec:
    return VmSpec(name=name, vcpus=vcpus, memory_mib=1_024, level=Fraction(level))


def outline(steps: tuple[Step, ...]) -> list[str]:
    """Steps as a reader would note them down."""
    return [_line(step) for step in steps]


def _line(step: Step) -> str:
    match step:
        case Pin(level, vms, before, after):
            return f"pin {level} [{' '.join(vms)}] {_list(before)} > {_list(after)}"
        case Create(vm, cpus):
            return f"create {vm.name} on {_list(cpus)}"
        case Remove(vm, cpus):
            return f"remove {vm.name} from {_list(cpus)}"
        case Resize(before, after):
            return f"resize {before.name} {before.vcpus} > {after.vcpus}"
        case Adopt(before, _):
            return f"adopt {before.name}"


def _list(cpus: tuple[int, ...]) -> str:
    return ",".join(map(str, cpus)) or "-"


def test_borrowers_are_narrowed_before_a_deploy_starts() -> None:
    state = deployed(("a", 2, "1"), ("b", 2, "2"), ("c", 1, "3"))
    plan = plan_deploy(state, spec("d", 2, "1"))
    assert isinstance(plan, Plan)
    assert outline(plan.steps) == [
        "pin 2 [b] 1,3,5,6,7 > 1,5,6",
        "pin 3 [c] 2,3,6,7 > 2,6",
        "pin 1 [a] 0,4 > 0,3,4,7",
        "create d on 0,3,4,7",
    ]
    assert interrupt_everywhere(state, plan) == 5


def test_a_sibling_of_level_1_is_taken_back_too() -> None:
    state = deployed(("b", 2, "2"))
    plan = plan_deploy(state, spec("a", 1, "1"))
    assert isinstance(plan, Plan)
    assert outline(plan.steps) == [
        "pin 2 [b] 0,1,2,3,4,5,6,7 > 0,2,3,4,6,7",
        "pin 1 [] - > 1",
        "create a on 1",
    ]


def test_a_remove_narrows_then_stops_then_widens() -> None:
    state = deployed(("a", 2, "1"), ("d", 2, "1"), ("b", 2, "2"))
    plan = plan_remove(state, "d")
    assert outline(plan.steps) == [
        "pin 1 [a] 0,1,4,5 > 0,4",
        "remove d from 0,1,4,5",
        "pin 2 [b] 2,3,6,7 > 1,2,3,5,6,7",
    ]
    assert interrupt_everywhere(state, plan) == 4


def test_the_last_vm_takes_its_level_with_it() -> None:
    plan = plan_remove(deployed(("a", 2, "1"), ("b", 2, "2")), "a")
    assert outline(plan.steps) == [
        "remove a from 0,4",
        "pin 1 [] 0,4 > -",
        "pin 2 [b] 1,2,3,5,6,7 > 0,1,2,3,4,5,6,7",
    ]


def test_enough_vms_end_borrowing_and_too_few_begin_it_again() -> None:
    state = deployed(("b", 1, "2"), critical_size=2)
    plan = plan_deploy(state, spec("c", 1, "2"))
    assert isinstance(plan, Plan)
    assert outline(plan.steps) == ["pin 2 [b] 0,1,2,3,4,5,6,7 > 0", "create c on 0"]
    assert outline(plan_remove(plan.after, "c").steps) == [
        "remove c from 0",
        "pin 2 [b] 0 > 0,1,2,3,4,5,6,7",
    ]


@pytest.mark.parametrize(
    ("vcpus", "steps"),
    [
        (3, ["pin 1 [a] 0,4 > 0,1,4", "resize a 2 > 3"]),
        (1, ["resize a 2 > 1", "pin 1 [a] 0,4 > 0"]),
        (2, ["resize a 2 > 2"]),
    ],
    ids=["CPUs come before vCPUs", "vCPUs go before CPUs", "nothing moves"],
)
def test_a_vm_never_has_more_vcpus_than_cpus_while_resized(vcpus: int, steps: list[str]) -> None:
    state = deployed(("a", 2, "1"))
    plan = plan_resize(state, "a", vcpus)
    assert isinstance(plan, Plan)
    assert outline(plan.steps) == steps
    assert interrupt_everywhere(state, plan) == len(steps) + 1
