from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import (
    BadRequest,
    ConfigError,
    HypervisorError,
    InputError,
    NameTaken,
    UnknownVm,
    WrongState,
)
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.simulatedfaults import Fault, FaultKind, Faults, parse_faults
from schedulerlocal.adapters.simulatedusage import profile
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.host import Host
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain

ROOT = Path(__file__).resolve().parent.parent
HOST = Host(machine_topology(Machine(cores=8, threads=2, memory_mib=65_536)))
TWO = Fraction(2)
IMAGE = "/images/debian.qcow2"


class Clock:
    """Time that passes when it is told to, or slept through."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s


def vm(name: str, vcpus: int = 2, **changes: object) -> Vm:
    usual: dict[str, object] = {"memory_mib": 1024, "level": TWO, "image": IMAGE}
    spec = VmSpec(name=name, vcpus=vcpus, **{**usual, **changes})  # type: ignore[arg-type]
    return Vm(spec, spec.vcpus, spec.max_memory_mib, ((0, spec.max_memory_mib),))


A, B = vm("a"), vm("b", request_id="r-1", owner="me", labels=(("env", "test"),))


async def simulated(
    *existing: Vm,
    file: Path | None = None,
    faults: str = "",
    clock: Clock | None = None,
    changed: Callable[[], None] = lambda: None,
) -> SimulatedHypervisor:
    """One with *existing*, on CPUs 0 and 1; *faults* count from then on."""
    clock = clock or Clock()
    hypervisor = SimulatedHypervisor(
        HOST, state_file=file, image_dirs=[Path("/images")], now_s=clock, sleep=clock.sleep
    )
    await hypervisor.open(changed)
    for each in existing:
        await hypervisor.perform(Create(each, (0, 1)))
    hypervisor.points = 0
    hypervisor.arm(parse_faults(faults))
    return hypervisor


async def pins(hypervisor: SimulatedHypervisor) -> dict[str, Cpus]:
    return {each.name: each.found.pinned for each in await hypervisor.domains()}


async def only(hypervisor: SimulatedHypervisor) -> Domain:
    (domain,) = await hypervisor.domains()
    return domain


# --- what it keeps ------------------------------------------------------------------------------


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


# --- faults -------------------------------------------------------------------------------------

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


# --- the state file -----------------------------------------------------------------------------

DEPLOY = """
    import asyncio, sys, time
    from fractions import Fraction
    from pathlib import Path
    from schedulercommon.model import VmSpec
    from schedulerlocal.adapters.simulated import SimulatedHypervisor, parse_faults
    from schedulerlocal.core.host import Host
    from schedulerlocal.core.machine import Machine, machine_topology
    from schedulerlocal.core.state import Vm
    from schedulerlocal.core.steps import Create, Pin

    def vm(name):
        return Vm(VmSpec(name=name, vcpus=2, memory_mib=512, level=Fraction(2)), 2, 512, ())

    async def main():
        hypervisor = SimulatedHypervisor(
            Host(machine_topology(Machine(cores=8, memory_mib=8192))),
            state_file=Path(sys.argv[1]), faults=parse_faults(sys.argv[2]),
            now_s=time.monotonic, sleep=asyncio.sleep,
        )
        await hypervisor.open(lambda: None)
        await hypervisor.perform(Create(vm("a"), (0, 1)))
        await hypervisor.perform(Pin(Fraction(2), ("a",), (0, 1), (0, 1, 2)))
        await hypervisor.perform(Create(vm("b"), (0, 1, 2)))

    asyncio.run(main())
"""
AFTER_POINTS = [
    {},
    {"a": ("down", (0, 1))},
    {"a": ("running", (0, 1))},
    {"a": ("running", (0, 1, 2))},
    {"a": ("running", (0, 1, 2)), "b": ("down", (0, 1, 2))},
    {"a": ("running", (0, 1, 2)), "b": ("running", (0, 1, 2))},
]


def run_until_killed(folder: Path, faults: list[str]) -> None:
    """DEPLOY with each fault, side by side; the state file is called like the fault."""
    program = textwrap.dedent(DEPLOY)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder / fault), fault],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        for fault in faults
    ]
    for process in started:
        _, problem = process.communicate()
        assert process.returncode == -signal.SIGKILL, problem.decode()


async def test_a_killed_process_leaves_the_points_it_passed(tmp_path: Path) -> None:
    faults = {f"crash@{point}": point - 1 for point in (1, 3, 5)}
    faults |= {f"crash-after@{point}": point for point in (2, 4, 5)}
    run_until_killed(tmp_path, list(faults))
    for fault, passed in faults.items():
        domains = await (await simulated(file=tmp_path / fault)).domains()
        found = {each.name: (each.state.value, each.found.pinned) for each in domains}
        assert found == AFTER_POINTS[passed], fault


def rewrite(file: Path, vms: list[dict[str, object]]) -> None:
    """As an editor does."""
    beside = file.with_suffix(".edited")
    beside.write_text(json.dumps({"vms": vms}, indent=2))
    beside.replace(file)


async def test_an_edited_file_is_followed_and_told(tmp_path: Path) -> None:
    file = tmp_path / "vms.json"
    told: list[str] = []
    hypervisor = await simulated(A, B, file=file, changed=lambda: told.append("changed"))
    vms = json.loads(file.read_text())["vms"]
    assert [each["name"] for each in vms] == ["a", "b"]
    vms[0]["pins"] = "4-6"
    stranger = {"name": "by hand", "vcpus": 1, "memory_mib": 256, "foreign": True}
    rewrite(file, [vms[0], stranger])
    await hypervisor.usage()
    assert told == ["changed"]
    assert await pins(hypervisor) == {"a": (4, 5, 6), "by hand": ()}
    await hypervisor.perform(Pin(TWO, ("a",), (4, 5, 6), (4,)))
    assert told == ["changed"]
    reread = await simulated(file=file)
    assert await reread.domains() == await hypervisor.domains()


async def test_an_edit_in_place_is_noticed_too(tmp_path: Path) -> None:
    file = tmp_path / "vms.json"
    hypervisor = await simulated(A, file=file)
    text = file.read_text().replace('"pins": "0-1"', '"pins": "3"')
    file.write_text(text)
    assert await pins(hypervisor) == {"a": (3,)}


async def test_a_removed_file_holds_no_vms(tmp_path: Path) -> None:
    file = tmp_path / "vms.json"
    hypervisor = await simulated(A, file=file)
    file.unlink()
    assert await hypervisor.domains() == []


async def test_a_file_edited_while_a_call_waits_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "vms.json"
    await simulated(A, B, file=file)

    async def edit(_: float) -> None:
        rewrite(file, json.loads(file.read_text())["vms"][:1])

    hypervisor = await with_sleep(file, edit, "slow@1:1")
    with pytest.raises(HypervisorError, match="no VM named 'b'"):
        await hypervisor.perform(Pin(TWO, ("b", "a"), (0, 1), (2,)))
    assert await pins(hypervisor) == {"a": (0, 1)}


async def test_a_file_edited_before_a_disk_is_made_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "vms.json"
    hypervisor = await simulated(A, B, file=file)
    rewrite(file, json.loads(file.read_text())["vms"][:1])
    await hypervisor.prepare(VmSpec(name="c", vcpus=1, memory_mib=1, level=TWO, image=IMAGE))
    assert [each["name"] for each in json.loads(file.read_text())["vms"]] == ["a"]
    assert list(await pins(hypervisor)) == ["a"]


async def with_sleep(
    file: Path, sleep: Callable[[float], Awaitable[None]], faults: str
) -> SimulatedHypervisor:
    hypervisor = SimulatedHypervisor(
        HOST, state_file=file, faults=parse_faults(faults), now_s=Clock(), sleep=sleep
    )
    await hypervisor.open(lambda: None)
    return hypervisor


VALID = '{"vms": [{"name": "a", "vcpus": 2, "memory_mib": 512, %s}]}'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not JSON"),
        ('{"vms": [', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no list of VMs"),
        ('{"vms": {}}', "has no list of VMs"),
        ('{"vms": [7]}', "VM 1 is not a JSON object"),
        ('{"vms": [{"vcpus": 1, "memory_mib": 1}]}', "VM 1 lacks name"),
        ('{"vms": [{"name": "a", "vcpus": 1}]}', r"VM 1 \('a'\) lacks memory_mib"),
        (VALID % '"vcpu": 1', "has an unknown field 'vcpu'"),
        (VALID % '"vcpus": 0', "has vcpus 0"),
        (VALID % '"vcpus": true', "has vcpus True"),
        (VALID % '"memory_mib": 1e3', "has memory_mib 1000.0"),
        (VALID % '"name": "a b"', "has a name no VM can have"),
        (VALID % '"name": 5', "has name 5"),
        (VALID % '"state": "asleep"', "has state 'asleep'"),
        (VALID % '"level": "0.5"', "level 0.5 is out of range"),
        (VALID % '"level": 2', "has level 2; it must be text"),
        (VALID % '"pins": "3-"', "'3-' is not a range of CPUs"),
        (VALID % '"foreign": "yes"', "it must be true or false"),
        (VALID % '"labels": ["x"]', "it must be an object"),
        (VALID % '"labels": {"x": 1}', "a label that is not text"),
        (VALID % '"memory_nodes": {"x": 1}', "memory_nodes that are no nodes"),
        (VALID % '"memory_nodes": {"0": -1}', "has memory_nodes -1"),
        (VALID % '"max_vcpus": 1', "more than the maximum"),
        ('{"vms": [%s, %s]}' % (('{"name": "a", "vcpus": 1, "memory_mib": 1}',) * 2), "VM 2 has"),
    ],
)
async def test_a_broken_file_is_told_and_left_alone(
    text: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "vms.json"
    file.write_text(text)
    with pytest.raises(InputError, match=problem):
        await simulated(file=file)
    assert file.read_text() == text
    file.unlink()
    hypervisor = await simulated(A, file=file)
    good = file.read_text()
    file.write_text(text)
    for call in (hypervisor.domains, hypervisor.usage):
        with pytest.raises(HypervisorError, match=problem):
            await call()
    with pytest.raises(HypervisorError, match=problem):
        await hypervisor.perform(Remove(A, (0, 1)))
    assert file.read_text() == text
    file.write_text(good)
    assert list(await pins(hypervisor)) == ["a"]


async def test_a_file_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written.*SCL_SIMULATED_STATE"):
        await simulated(file=tmp_path / "missing" / "vms.json")
    with pytest.raises(InputError, match="not a regular file"):
        await simulated(file=tmp_path)
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        await simulated(file=pipe)


async def test_what_cannot_be_saved_is_not_done(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    file = folder / "vms.json"
    hypervisor = await simulated(A, file=file)
    # the name the new version is written under is taken, by a folder
    os.mkdir(folder / "vms.json.tmp")
    with pytest.raises(HypervisorError, match="cannot be written"):
        await hypervisor.perform(Pin(TWO, ("a",), (0, 1), (5,)))
    assert await pins(hypervisor) == {"a": (0, 1)}
    os.rmdir(folder / "vms.json.tmp")
    await hypervisor.perform(Pin(TWO, ("a",), (0, 1), (5,)))
    assert await pins(await simulated(file=file)) == {"a": (5,)}


NAMES = ("a", "b", "c")
SIZES = st.integers(1, 6)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    name = draw(st.sampled_from(NAMES))
    cpus = tuple(sorted(draw(st.sets(st.integers(0, 15), min_size=1))))
    kind = draw(st.sampled_from(["create", "remove", "pin", "resize", "adopt"]))
    one = vm(name, draw(SIZES), memory_mib=draw(SIZES) * 256, start=draw(st.booleans()))
    match kind:
        case "create":
            return Create(one, cpus)
        case "remove":
            return Remove(one, cpus)
        case "pin":
            return Pin(TWO, tuple(draw(st.permutations(NAMES)))[: draw(SIZES)], (), cpus)
        case "adopt":
            return Adopt(one, replace(one, foreign=draw(st.booleans())))
    return Resize(one, vm(name, draw(SIZES), memory_mib=draw(SIZES) * 256))


@given(st.lists(steps(), max_size=12), st.sets(st.integers(1, 30)))
def test_a_step_happens_or_leaves_nothing_and_the_file_agrees(
    tmp_path_factory: pytest.TempPathFactory, plan: list[Step], failing: set[int]
) -> None:
    file = tmp_path_factory.mktemp("state") / "vms.json"

    async def run() -> None:
        hypervisor = await simulated(file=file)
        hypervisor.arm(Faults({point: (Fault(FaultKind.FAIL),) for point in failing}))
        for step in plan:
            before = await hypervisor.domains()
            try:
                await hypervisor.perform(step)
            except HypervisorError:
                assert await hypervisor.domains() == before
            reread = await simulated(file=file)
            assert await reread.domains() == await hypervisor.domains()

    asyncio.run(run())


# --- usage --------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_profile_wants_between_nothing_and_everything(
    name: str, start_s: float, first_s: float, second_s: float
) -> None:
    wanted = profile(name).wanted_s
    middle_s, end_s = start_s + first_s, start_s + first_s + second_s
    whole_s = wanted(start_s, end_s)
    assert 0 <= whole_s <= end_s - start_s
    assert wanted(start_s, middle_s) + wanted(middle_s, end_s) == pytest.approx(whole_s, abs=1e-3)


def test_usage_follows_the_day_and_differs_by_name() -> None:
    by_hour = [
        sum(
            profile(f"vm{number}").wanted_s(hour * 3600, hour * 3600 + 3600) for number in range(60)
        )
        for hour in range(24)
    ]
    assert by_hour.index(max(by_hour)) in range(12, 19)
    assert max(by_hour) > 1.3 * min(by_hour)
    assert len({profile(f"vm{number}").resident for number in range(60)}) == 60


async def test_usage_of_running_suspended_and_down_vms() -> None:
    clock = Clock()
    hypervisor = await simulated(A, B, vm("off", start=False), clock=clock)
    await hypervisor.usage()
    clock.now_s += 100
    first = await hypervisor.usage()
    assert 0 < first.vms["a"].cpu_time_s <= 200
    assert 0 < first.vms["a"].memory_used_mib < 1024
    assert (first.vms["off"].cpu_time_s, first.vms["off"].memory_used_mib) == (0, 0)
    await hypervisor.power("a", Verb.SUSPEND, force=False)
    await hypervisor.power("b", Verb.SHUTDOWN, force=False)
    clock.now_s += 100
    second = await hypervisor.usage()
    assert second.vms["a"] == first.vms["a"]
    assert second.vms["b"].cpu_time_s == 0
    await hypervisor.power("a", Verb.RESUME, force=False)
    clock.now_s += 100
    assert (await hypervisor.usage()).vms["a"].cpu_time_s > first.vms["a"].cpu_time_s
    await hypervisor.power("a", Verb.REBOOT, force=False)
    assert (await hypervisor.usage()).vms["a"].cpu_time_s == 0


async def test_usage_does_not_depend_on_when_it_is_read() -> None:
    clocks = Clock(), Clock()
    often, once = [await simulated(A, clock=clock) for clock in clocks]
    for _ in range(50):
        clocks[0].now_s += 7
        await often.usage()
    clocks[1].now_s += 350
    used_s = [(await each.usage()).vms["a"].cpu_time_s for each in (often, once)]
    assert used_s[0] == pytest.approx(used_s[1])


async def test_vms_on_the_same_cpus_cannot_use_more_than_those() -> None:
    clock = Clock()
    crowd = [vm(f"vm{number}", 4) for number in range(20)]
    hypervisor = await simulated(*crowd, clock=clock)
    first = await hypervisor.usage()
    assert (first.cpu_share, first.cpu_shares) == (None, {})
    clock.now_s += 60
    usage = await hypervisor.usage()
    assert sum(each.cpu_time_s for each in usage.vms.values()) == pytest.approx(120)
    assert usage.cpu_shares[0] == usage.cpu_shares[1] == pytest.approx(1)
    assert usage.cpu_shares[2] == 0
    assert usage.cpu_share == pytest.approx(2 / 16)
    assert 0 < usage.memory_share < 1


async def test_two_readings_in_one_tick_are_the_same() -> None:
    clock = Clock()
    hypervisor = await simulated(A, clock=clock)
    await hypervisor.usage()
    clock.now_s += 5
    assert await hypervisor.usage() == await hypervisor.usage()


async def test_an_unpinned_vm_uses_the_whole_host() -> None:
    clock = Clock()
    hypervisor = await simulated(clock=clock)
    spec = VmSpec(name="x", vcpus=4, memory_mib=512, level=Fraction(1))
    hypervisor.gain(FoundVm(spec=spec, vcpus=4, boot_memory_mib=512, foreign=True))
    await hypervisor.usage()
    clock.now_s += 10
    shares = (await hypervisor.usage()).cpu_shares
    assert len(set(shares.values())) == 1
    assert 0 < shares[0] <= 0.25
