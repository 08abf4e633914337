"""The agent on a simulated hypervisor that fails, hangs and changes behind its back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from schedulercommon.errors import (
    HypervisorError,
    NameTaken,
    NoCapacity,
    NotReady,
    Overloaded,
    RequestCancelled,
    UnknownVm,
    WrongState,
)
from schedulercommon.model import VmState
from schedulerlocal.agent import Deployment, HostAgent, Resized
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.host import Host
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.keeper import HostKeeper
from tests.agentrig import ONE, THREE, TOPOLOGY, TWO, Rig, rig, spec

CHANGES: dict[str, Callable[[HostAgent], Awaitable[object]]] = {
    "deploy": lambda agent: agent.deploy(spec("new", 2, TWO)),
    "deploy at level 1": lambda agent: agent.deploy(spec("new", 1, ONE)),
    "remove": lambda agent: agent.remove("one"),
    "resize up": lambda agent: agent.resize("one", 3, 2048),
    "resize down": lambda agent: agent.resize("two", 1, None),
}


async def furnish(agent: HostAgent) -> int:
    for name, level in (("one", ONE), ("two", TWO), ("three", THREE)):
        await agent.deploy(spec(name, 2 if level < THREE else 1, level))
    return len(agent.states)


async def points_used(directory: Path, change: Callable[[HostAgent], Awaitable[object]]) -> range:
    """The points that *change* passes on a furnished host."""
    async with rig(directory) as made:
        await furnish(made.agent)
        first = made.hypervisor.points + 1
        await change(made.agent)
        return range(first, made.hypervisor.points + 1)


@pytest.mark.parametrize("label", CHANGES)
async def test_a_failure_at_any_point_leaves_nothing(label: str, tmp_path: Path) -> None:
    change = CHANGES[label]
    points = await points_used(tmp_path / "count", change)
    assert len(points) >= 2
    succeeded = 0
    for point in points:
        async with rig(tmp_path / str(point), f"fail@{point}") as made:
            await furnish(made.agent)
            before = made.agent.state
            try:
                await change(made.agent)
            except HypervisorError:
                assert made.agent.state is before
            else:
                # past the stop a remove has succeeded, and the repair pass does the rest
                assert label == "remove"
                succeeded += 1
                await made.settle()
            await made.check()
            if made.agent.state is before:
                await change(made.agent)
                await made.check()
    assert succeeded < len(points)


@pytest.mark.parametrize("label", CHANGES)
async def test_a_call_that_hangs_fails_the_request_and_is_settled(
    label: str, tmp_path: Path
) -> None:
    change = CHANGES[label]
    points = await points_used(tmp_path / "count", change)
    for point in points:
        async with rig(tmp_path / str(point), f"hang@{point}", timeout_s=0.05) as made:
            await furnish(made.agent)
            before = made.agent.state
            # past the stop a remove has succeeded, and the repair pass does the rest
            outcome = (await asyncio.gather(change(made.agent), return_exceptions=True))[0]
            if not isinstance(outcome, BaseException):
                assert label == "remove"
            else:
                assert isinstance(outcome, HypervisorError)
                assert "0.05 s" in str(outcome)
                assert made.agent.state is before
            await made.settle()
            await made.check()


async def test_the_same_deploy_asked_at_once_is_made_once(tmp_path: Path) -> None:
    async with rig(tmp_path, "slow@1:0.01") as made:
        agent = made.agent
        answers = await asyncio.gather(*(agent.deploy(spec("a")) for _ in range(20)))
        assert sum(answer.created for answer in answers) == 1
        assert {answer.vm.name for answer in answers} == {"a"}
        with pytest.raises(NameTaken):
            await agent.deploy(spec("a", 1))
        assert not (await agent.deploy(spec("a"))).created
        await made.check()


async def test_another_deploy_under_a_name_in_flight_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path, "slow@1:0.01") as made:
        first = asyncio.create_task(made.agent.deploy(spec("a")))
        await asyncio.sleep(0)
        with pytest.raises(NameTaken):
            await made.agent.deploy(spec("a", 1))
        removed = asyncio.create_task(made.agent.remove("a"))
        assert (await first).created
        await removed
        assert list(made.agent.state.vms()) == []
        await made.check()


async def test_cancelled_in_flight(tmp_path: Path) -> None:
    async with rig(tmp_path, "slow@1:0.01") as made:
        agent = made.agent
        flying = asyncio.create_task(agent.deploy(spec("a", request_id="id-1")))
        namesake = asyncio.create_task(agent.deploy(spec("a", request_id="id-2")))
        await asyncio.sleep(0)
        # the first is still preparing its disk, outside the lock
        assert await agent.cancel("id-1") == "cancelled"
        with pytest.raises(RequestCancelled):
            await flying
        assert (await namesake).created, "another request for the same VM is not cancelled"
        assert await agent.cancel("id-2") == "deployed"
        assert agent.state.vm("a").spec.request_id == "id-2"
        await made.check()


async def test_a_vm_made_after_all_is_removed_once_its_deploy_was_undone(tmp_path: Path) -> None:
    made_late = spec("a", request_id="id-1")
    async with rig(tmp_path, "fail@2") as made:
        with pytest.raises(HypervisorError):
            await made.agent.deploy(made_late)
        made.hypervisor.gain(FoundVm(spec=made_late, vcpus=2, boot_memory_mib=1024))
        await made.settle()
        assert await made.hypervisor.domains() == []
        assert list(made.agent.state.vms()) == []


async def test_a_vm_brought_back_by_its_operator_stays(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.agent.deploy(spec("a", request_id="id-1"))
        (domain,) = await made.hypervisor.domains()
        await made.agent.remove("a")
        made.hypervisor.gain(domain.found)
        await made.settle()
        assert [vm.name for vm in made.agent.state.vms()] == ["a"]
        await made.check()


async def test_who_waits_too_long_behind_others_is_told(tmp_path: Path) -> None:
    async with rig(tmp_path, "hang@2", timeout_s=0.05) as made:
        first = asyncio.create_task(made.agent.deploy(spec("a")))
        others = [asyncio.create_task(made.agent.deploy(spec(f"b{n}"))) for n in range(3)]
        with pytest.raises(HypervisorError):
            await first
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        assert all(isinstance(each, Deployment | Overloaded) for each in outcomes)
        assert any(isinstance(each, Overloaded) for each in outcomes)
        await made.settle()
        await made.check()


async def test_changes_behind_our_back_are_followed_and_pins_put_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await furnish(made.agent)
        generation = made.agent.state.generation
        made.hypervisor.lose("one")
        made.hypervisor.change_pins("two", (0, 1, 2, 3))
        made.hypervisor.set_state("three", VmState.SUSPENDED)
        stranger = FoundVm(
            spec=spec("guest", 1, ONE), vcpus=1, boot_memory_mib=512, pinned=(7,), foreign=True
        )
        made.hypervisor.gain(stranger)
        await made.settle()
        await made.check()
        agent = made.agent
        assert agent.state.generation > generation
        assert {vm.name for vm in agent.state.vms()} == {"two", "three", "guest"}
        assert 7 in agent.state.subsets[ONE].cpus
        assert agent.states["three"] is VmState.SUSPENDED
        kinds = {event.kind for event in agent.events.since(0)}
        assert {"vanished", "appeared", "repair", "state"} <= kinds
        for forbidden in (agent.remove("guest"), agent.resize("guest", 2, None)):
            with pytest.raises(WrongState, match="adopt"):
                await forbidden
        adopted = await agent.adopt("guest", THREE)
        assert (adopted.foreign, adopted.spec.level) == (False, THREE)
        await made.check()
        await agent.remove("guest")
        await made.check()


async def test_report_only_touches_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path, repair=False) as made:
        await furnish(made.agent)
        made.hypervisor.change_pins("two", (0, 1))
        for _ in range(3):
            await made.settle()
        (found,) = [each for each in await made.hypervisor.domains() if each.name == "two"]
        assert found.found.pinned == (0, 1)
        (event,) = [event for event in made.agent.events.since(0) if event.kind == "repair"]
        assert (event.data["vm"], event.data["done"], event.data["before"]) == ("two", False, "0-1")


async def test_verbs_change_states_and_nothing_else(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        agent = made.agent
        await agent.deploy(spec("a", start=False))
        assert agent.states["a"] is VmState.DOWN
        held = agent.state.subsets[TWO].cpus
        for verb, after in (
            (Verb.START, VmState.RUNNING),
            (Verb.SUSPEND, VmState.SUSPENDED),
            (Verb.RESUME, VmState.RUNNING),
            (Verb.REBOOT, VmState.RUNNING),
            (Verb.SHUTDOWN, VmState.DOWN),
        ):
            assert await agent.power("a", verb) is after
            assert agent.states["a"] is after
            await made.check()
        with pytest.raises(WrongState, match="down"):
            await agent.power("a", Verb.SUSPEND)
        assert agent.state.subsets[TWO].cpus == held
        with pytest.raises(UnknownVm):
            await agent.power("b", Verb.START)


async def test_a_smaller_size_counts_once_the_guest_has_booted(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        agent = made.agent
        await agent.deploy(spec("a", 4, ONE))
        assert await agent.resize("a", 2, 512) == Resized("next-boot", "next-boot")
        assert len(agent.state.subsets[ONE].cpus) == 4
        assert agent.state.allocated_memory_mib == 1024
        await agent.power("a", Verb.REBOOT)
        assert len(agent.state.subsets[ONE].cpus) == 2
        assert agent.state.allocated_memory_mib == 512
        await made.check()
        assert await agent.resize("a", None, None) == Resized("unchanged", "unchanged")
        with pytest.raises(NoCapacity, match="CPUs"):
            await agent.resize("a", 9, None)
        with pytest.raises(NoCapacity, match="memory"):
            await agent.resize("a", None, 1 << 20)
        await made.check()


async def test_growth_is_live_up_to_what_the_guest_was_booted_with(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        agent = made.agent
        await agent.deploy(spec("a", 2, TWO, max_vcpus=4, max_memory_mib=4096))
        assert agent.state.allocated_memory_mib == 4096, "the boot maximum counts"
        assert await agent.resize("a", 4, 2048) == Resized("live", "live")
        assert await agent.resize("a", 6, None) == Resized("next-boot", "unchanged")
        assert len(agent.state.subsets[TWO].cpus) == 6, "counted before it is there"
        await agent.power("a", Verb.REBOOT)
        await made.check()
        assert await agent.resize("a", 5, 8192) == Resized("next-boot", "next-boot")
        assert agent.state.allocated_memory_mib == 8192


async def test_restarted_it_finds_what_was_there(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await furnish(made.agent)
        before = made.agent.state
        hypervisor = made.hypervisor
    again = Rig(tmp_path, "", repair=True, timeout_s=30.0)
    keeper = HostKeeper(Host(TOPOLOGY), hypervisor, again.journal, now_s=lambda: 0.0)
    agent = HostAgent("testhost", keeper)
    with pytest.raises(NotReady):
        await agent.deploy(spec("x"))
    await keeper.start()
    assert agent.state.subsets == before.subsets
    assert agent.state.generation > before.generation, "also if the clock went back"
    await agent.close()
    with pytest.raises(NotReady):
        await agent.remove("one")


async def test_runs_at_decides_the_cpus_and_level_what_was_bought(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        bought = replace(spec("a", 2, THREE), runs_at=TWO)
        await made.agent.deploy(bought)
        assert list(made.agent.state.subsets) == [TWO]
        assert made.agent.state.vm("a").spec.level == THREE
        assert not (await made.agent.deploy(bought)).created
        await made.check()
