"""The simulated hypervisor's faults: what fails, hangs, is slow, or comes and goes by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from schedulercommon.errors import ConfigError, HypervisorError, NameTaken, UnknownVm
from schedulercommon.model import VmState
from schedulerlocal.adapters.simulatedfaults import Fault, FaultKind, Faults, parse_faults
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from tests.simulatedrig import TWO, A, B, Clock, only, pins, simulated, vm

STEPS: dict[str, tuple[Step, int]] = {
    "pin": (Pin(TWO, ("a", "b"), (0, 1), (0, 1, 2)), 2),
    "create": (Create(vm("c"), (0, 1)), 2),
    "create down": (Create(vm("c", start=False), (0, 1)), 1),
    "remove": (Remove(A, (0, 1)), 2),
    "resize": (Resize(A, vm("a", 4, memory_mib=2048)), 3),
    "adopt": (Adopt(A, replace(A, foreign=True)), 1),
}


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "in a file"])
@pytest.mark.parametrize(("step", "points"), STEPS.values(), ids=STEPS)
async def test_a_step_that_fails_at_any_point_leaves_nothing(
    step: Step, points: int, stored: bool, tmp_path: Path
) -> None:
    file = tmp_path / "vms.json" if stored else None
    hypervisor = await simulated(A, B, file=file)
    before, text = await hypervisor.domains(), file and file.read_text()
    for point in range(1, points + 1):
        hypervisor.points = 0
        hypervisor.arm(parse_faults(f"fail@{point}"))
        with pytest.raises(HypervisorError, match="as it was told to"):
            await hypervisor.perform(step)
        assert hypervisor.points == point
        assert await hypervisor.domains() == before
        assert (file and file.read_text()) == text
    hypervisor.points = 0
    hypervisor.arm(Faults())
    await hypervisor.perform(step)
    assert hypervisor.points == points
    assert await hypervisor.domains() != before
    if file:
        assert await (await simulated(file=file)).domains() == await hypervisor.domains()


async def test_prepare_and_power_fail_too() -> None:
    hypervisor = await simulated(A, faults="fail@1,fail@2")
    before = await hypervisor.domains()
    with pytest.raises(HypervisorError):
        await hypervisor.prepare(B.spec)
    with pytest.raises(HypervisorError):
        await hypervisor.power("a", Verb.SHUTDOWN, force=False)
    assert hypervisor.prepared == set()
    assert await hypervisor.domains() == before


async def test_a_hung_call_can_be_given_up_and_keeps_what_it_did() -> None:
    hypervisor = await simulated(A, B, faults="hang@2")
    call = asyncio.create_task(hypervisor.perform(Pin(TWO, ("a", "b"), (0, 1), (4, 5))))
    await asyncio.sleep(0)
    assert await pins(hypervisor) == {"a": (4, 5), "b": (0, 1)}
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await hypervisor.perform(Pin(TWO, ("a", "b"), (4, 5), (0, 1)))
    assert await pins(hypervisor) == {"a": (0, 1), "b": (0, 1)}


async def test_a_slow_call_ends() -> None:
    clock = Clock()
    hypervisor = await simulated(A, clock=clock, faults="slow@1:0.5")
    await hypervisor.perform(Pin(TWO, ("a",), (0, 1), (4, 5)))
    assert clock.slept_s == [0.5]
    assert await pins(hypervisor) == {"a": (4, 5)}


async def test_vms_lost_gained_and_changed_at_a_point() -> None:
    told: list[str] = []
    hypervisor = await simulated(
        A, B, faults="gain@1,lose@2,change@3,seed=3", changed=lambda: told.append("changed")
    )
    for _ in range(3):
        await hypervisor.prepare(vm("other").spec)
    left = await hypervisor.domains()
    assert len(told) == 3
    assert len(left) == 2
    strangers = [each for each in left if each.found.foreign]
    ours = [each for each in left if not each.found.foreign]
    assert all(len(each.found.pinned) == each.found.vcpus for each in strangers)
    assert [each for each in ours if each.found.pinned != (0, 1)]
    again = await simulated(A, B, faults="gain@1,lose@2,change@3,seed=3")
    for _ in range(3):
        await again.prepare(vm("other").spec)
    assert await again.domains() == left


@pytest.mark.parametrize("seed", range(4))
async def test_losing_the_very_vm_is_a_failure_that_brings_nothing_back(seed: int) -> None:
    hypervisor = await simulated(A, faults=f"lose@2,seed={seed}")
    await hypervisor.prepare(A.spec)
    with pytest.raises(HypervisorError, match="no VM named 'a'"):
        await hypervisor.perform(Pin(TWO, ("a",), (0, 1), (4, 5)))
    assert await hypervisor.domains() == []


async def test_a_vm_lost_while_being_removed_is_removed() -> None:
    hypervisor = await simulated(A, faults="lose@1")
    await hypervisor.perform(Remove(A, (0, 1)))
    assert await hypervisor.domains() == []


async def test_what_happens_by_itself_is_told() -> None:
    told: list[str] = []
    hypervisor = await simulated(A, B, changed=lambda: told.append("changed"))
    hypervisor.change_pins("a", (7,))
    hypervisor.set_state("a", VmState.ERROR)
    hypervisor.lose("b")
    assert len(told) == 3
    assert await pins(hypervisor) == {"a": (7,)}
    assert (await only(hypervisor)).state is VmState.ERROR
    with pytest.raises(UnknownVm):
        hypervisor.lose("b")
    with pytest.raises(NameTaken):
        hypervisor.gain((await only(hypervisor)).found)
    await hypervisor.close()
    hypervisor.lose("a")
    assert len(told) == 3


def test_faults_are_read() -> None:
    assert parse_faults(" fail@3, slow@7:0.5,crash-after@3 ,seed=9,") == Faults(
        {
            3: (Fault(FaultKind.FAIL), Fault(FaultKind.CRASH_AFTER)),
            7: (Fault(FaultKind.SLOW, 0.5),),
        },
        seed=9,
    )
    assert parse_faults("") == Faults()


@pytest.mark.parametrize(
    "text",
    [
        *("fail", "fail@", "fail@0", "fail@-1", "fail@1_0", "fail@٣", "boom@3", "fail@3:1"),
        *("slow@3", "slow@3:", "slow@3:x", "slow@3:-1", "slow@3:1e9", "slow@3:90000", "seed=x"),
        "fail@3;hang@4",
        "x" * 10_000,
    ],
)
def test_wrong_faults_are_told_in_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^SCL_SIMULATED_FAULTS: '") as problem:
        parse_faults(text)
    assert len(str(problem.value)) < 200
