"""The simulated hypervisor: what it keeps of its VMs, and what power does to them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from schedulercommon.errors import BadRequest, HypervisorError, UnknownVm, WrongState
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from schedulerlocal.ports import Domain
from tests.simulatedrig import TWO, A, B, only, pins, simulated, vm


async def test_a_created_vm_is_found_as_it_was_asked_for() -> None:
    hypervisor = await simulated(A, B)
    second = (await hypervisor.domains())[1]
    assert second == Domain(
        found=FoundVm(
            spec=B.spec,
            vcpus=2,
            boot_memory_mib=1024,
            pinned=(0, 1),
            memory_nodes=((0, 1024),),
        ),
        state=VmState.RUNNING,
    )


async def test_vms_come_in_order_of_their_making() -> None:
    hypervisor = await simulated(vm("c"), vm("a"), vm("b"))
    await hypervisor.perform(Pin(TWO, ("a",), (0, 1), (2,)))
    await hypervisor.perform(Remove(vm("c"), (0, 1)))
    await hypervisor.perform(Create(vm("c"), (5,)))
    assert await pins(hypervisor) == {"a": (2,), "b": (0, 1), "c": (5,)}
    assert list(await pins(hypervisor)) == ["a", "b", "c"]


async def test_a_vm_not_to_be_started_is_down() -> None:
    hypervisor = await simulated(vm("a", start=False))
    domain = await only(hypervisor)
    assert (domain.state, domain.found.spec.start) == (VmState.DOWN, False)


async def test_removing_a_vm_that_is_gone_is_no_error() -> None:
    hypervisor = await simulated(A, faults="fail@1")
    await hypervisor.perform(Remove(B, (0, 1)))
    assert list(await pins(hypervisor)) == ["a"]


@pytest.mark.parametrize(
    "step",
    [
        Create(A, (3,)),
        Pin(TWO, ("a", "gone"), (0, 1), (0, 1, 2)),
        Resize(vm("gone"), vm("gone", 4)),
        Adopt(vm("gone"), vm("gone")),
    ],
    ids=["a name in use", "pinning nobody", "resizing nobody", "adopting nobody"],
)
async def test_an_impossible_step_changes_nothing(step: Step) -> None:
    hypervisor = await simulated(A)
    before = await hypervisor.domains()
    with pytest.raises(HypervisorError, match="VM named"):
        await hypervisor.perform(step)
    assert await hypervisor.domains() == before


@pytest.mark.parametrize(
    ("verb", "force", "from_state", "to_state", "wanted"),
    [
        (Verb.START, False, VmState.DOWN, VmState.RUNNING, True),
        (Verb.SHUTDOWN, False, VmState.RUNNING, VmState.DOWN, False),
        (Verb.SHUTDOWN, True, VmState.SUSPENDED, VmState.DOWN, False),
        (Verb.REBOOT, False, VmState.RUNNING, VmState.RUNNING, True),
        (Verb.SUSPEND, False, VmState.RUNNING, VmState.SUSPENDED, True),
        (Verb.RESUME, False, VmState.SUSPENDED, VmState.RUNNING, True),
        (Verb.START, False, VmState.RUNNING, None, True),
        (Verb.SHUTDOWN, False, VmState.SUSPENDED, None, True),
    ],
)
async def test_power(
    verb: Verb, force: bool, from_state: VmState, to_state: VmState | None, wanted: bool
) -> None:
    hypervisor = await simulated(A)
    hypervisor.set_state("a", from_state)
    if to_state is None:
        with pytest.raises(WrongState):
            await hypervisor.power("a", verb, force)
    else:
        await hypervisor.power("a", verb, force)
    domain = await only(hypervisor)
    assert (domain.state, domain.found.spec.start) == (to_state or from_state, wanted)


async def test_power_over_nobody() -> None:
    with pytest.raises(UnknownVm):
        await (await simulated()).power("a", Verb.START, False)


SMALL = vm("a", 2, max_vcpus=4, max_memory_mib=4096)


@pytest.mark.parametrize(
    ("before", "after", "counted", "counted_after_boot"),
    [
        (SMALL, vm("a", 4, max_vcpus=4, max_memory_mib=4096), (4, 4096), (4, 4096)),
        (SMALL, vm("a", 6, max_memory_mib=4096), (6, 4096), (6, 4096)),
        (SMALL, vm("a", 1, max_vcpus=4, max_memory_mib=4096), (2, 4096), (1, 4096)),
        (
            SMALL,
            vm("a", 2, max_vcpus=4, memory_mib=2048, max_memory_mib=4096),
            (2, 4096),
            (2, 4096),
        ),
        (SMALL, vm("a", 2, max_vcpus=4, memory_mib=8192), (2, 8192), (2, 8192)),
        (SMALL, vm("a", 2, max_vcpus=4, memory_mib=512), (2, 4096), (2, 512)),
    ],
    ids=["plugged", "beyond the maximum", "fewer", "ballooned", "more memory", "less memory"],
)
@pytest.mark.parametrize("boot", ["reboot", "shutdown", "crash", "was down"])
async def test_the_larger_size_counts_until_the_next_boot(
    before: Vm, after: Vm, counted: tuple[int, int], counted_after_boot: tuple[int, int], boot: str
) -> None:
    hypervisor = await simulated(before)
    if boot == "was down":
        hypervisor.set_state("a", VmState.DOWN)
        counted = counted_after_boot
    await hypervisor.perform(Resize(before, after))
    domain = await only(hypervisor)
    assert domain.found.spec == after.spec
    assert (domain.found.vcpus, domain.found.boot_memory_mib) == counted
    if boot in ("reboot", "shutdown"):
        await hypervisor.power("a", Verb(boot), force=False)
    else:
        hypervisor.set_state("a", VmState.DOWN)
    found = (await only(hypervisor)).found
    assert (found.vcpus, found.boot_memory_mib) == counted_after_boot


async def test_plugged_vcpus_count_until_boot_though_the_resize_was_taken_back() -> None:
    hypervisor = await simulated(SMALL)
    larger = vm("a", 4, max_vcpus=4, max_memory_mib=4096)
    await hypervisor.perform(Resize(SMALL, larger))
    await hypervisor.perform(Resize(larger, SMALL))
    found = (await only(hypervisor)).found
    assert (found.spec, found.vcpus) == (SMALL.spec, 4)


async def test_adopting_and_giving_back() -> None:
    hypervisor = await simulated()
    foreign = Vm(VmSpec(name="x", vcpus=2, memory_mib=512, level=Fraction(1)), 2, 512, (), True)
    hypervisor.gain(
        FoundVm(spec=foreign.spec, vcpus=2, boot_memory_mib=512, pinned=(4, 5), foreign=True)
    )
    before = await only(hypervisor)
    assert before.found.foreign
    step = Adopt(foreign, vm("x", memory_mib=512, owner="me"))
    await hypervisor.perform(step)
    ours = await only(hypervisor)
    assert (ours.found.foreign, ours.found.spec.owner, ours.found.pinned) == (False, "me", (4, 5))
    await hypervisor.perform(step.inverse)
    assert await only(hypervisor) == before


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("/images/debian.qcow2", None),
        ("/images/team/ü b.qcow2", None),
        ("", "is missing"),
        ("debian.qcow2", "not an absolute path"),
        ("/images/../etc/shadow", "not a plain path"),
        ("/images/./x", "not a plain path"),
        ("//images/x", "not a plain path"),
        ("/images/", "not a plain path"),
        ("/images", "in none of the folders"),
        ("/images2/x", "in none of the folders"),
        ("/images/a\0b", "cannot be printed"),
        ("/images/a\nb", "cannot be printed"),
        ("/images/\udcff", "cannot be printed"),
        ("/images/" + "x" * 5000, "longer than a path"),
    ],
)
async def test_only_the_path_of_an_image_is_checked(image: str, problem: str | None) -> None:
    hypervisor = await simulated()
    spec = vm("a", image=image).spec
    if problem:
        with pytest.raises(BadRequest, match=problem):
            await hypervisor.prepare(spec)
    else:
        await hypervisor.prepare(spec)
        assert hypervisor.prepared == {"a"}
    await hypervisor.discard(spec)
    assert hypervisor.prepared == set()
