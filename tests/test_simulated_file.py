"""The state file of the simulated hypervisor: what a crash leaves, edits by hand, a broken one."""

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
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import HypervisorError, InputError
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.simulatedfaults import Fault, FaultKind, Faults, parse_faults
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from tests.simulatedrig import HOST, IMAGE, TWO, A, B, Clock, pins, simulated, vm

ROOT = Path(__file__).resolve().parent.parent

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
