"""A service whose levels are cgroups: one write moves a level, and pins where there can be none."""

from __future__ import annotations

import asyncio
import threading
from xml.etree import ElementTree as ET

import pytest

from schedulercommon.errors import HypervisorError
from schedulercommon.model import VmState
from schedulerlocal.adapters.hypervisorlink import PinWish
from schedulerlocal.adapters.partitions import find_tree, partition_of
from schedulerlocal.agent import HostAgent
from schedulerlocal.core.lifecycle import Verb
from tests.fakecgroups import FakeCgroups
from tests.partitionsrig import CPUS, LENDING, ONE, THREE, TWO, Machinery, machine, reach

__all__ = ["machine"]


async def test_a_level_of_many_is_moved_by_one_write(machine: Machinery) -> None:
    async with machine.service() as agent:
        for number in range(6):
            await agent.deploy(machine.spec(f"vm{number}"))
        assert machine.cgroups.effective() == reach(agent) == {"2x0": (0, 1, 2, 3, 4, 5)}
        for number in range(6):
            assert machine.link.partition(f"vm{number}") == "/machine/vmstack_l2x0"
            assert machine.link.places(f"vm{number}") == {"0-7"}
        machine.link.calls.clear()
        machine.cgroups.made.clear()
        await agent.deploy(machine.spec("last"))
        assert machine.cgroups.writes == [("vmstack_l2x0.partition", "0-6")]
        await agent.remove("vm0")
        assert len(machine.cgroups.writes) == 2
        assert machine.cgroups.effective() == reach(agent)
        assert not machine.link.calls["pin"]
        before = machine.keeper.state
        await machine.look()
        assert machine.keeper.state is before  # nothing differs
        assert len(machine.cgroups.writes) == 2


async def test_a_levels_partition_lives_as_long_as_it(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("shared"))
        await agent.deploy(machine.spec("down", THREE, start=False))
        await agent.deploy(machine.spec("premium", ONE))
        assert machine.cgroups.partitions() == ["vmstack_l1x0", "vmstack_l2x0", "vmstack_l3x0"]
        await agent.power("down", Verb.START)
        assert machine.cgroups.effective() == reach(agent)
        for name in ("premium", "shared", "down"):
            await agent.remove(name)
        assert machine.cgroups.partitions() == []


async def test_no_cpu_is_ever_in_two_levels(machine: Machinery) -> None:
    seen = 0

    def look() -> None:
        nonlocal seen
        seen += 1
        held = [cpu for cpus in machine.cgroups.effective().values() for cpu in cpus]
        assert len(held) == len(set(held))

    async with machine.service() as agent:
        machine.cgroups.watch = look
        await agent.deploy(machine.spec("a", TWO, 4))
        await agent.deploy(machine.spec("b", THREE, 3))
        await agent.deploy(machine.spec("c", ONE, 1))
        await agent.resize("a", 2, None)
        await agent.power("a", Verb.SHUTDOWN)
        await agent.deploy(machine.spec("d", THREE, 3))
        await agent.deploy(machine.spec("e", THREE, 4))
        await agent.remove("b")
        await agent.power("a", Verb.START)
        await agent.remove("a")
        assert machine.cgroups.effective() == reach(agent)
    assert seen >= 5


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
async def test_a_change_whose_write_fails_leaves_every_level_where_it_was(
    machine: Machinery, fails_at: int
) -> None:
    async with machine.service(host=LENDING) as agent:
        await agent.deploy(machine.spec("a", TWO, 4))
        await agent.deploy(machine.spec("b", THREE, 2))
        await agent.deploy(machine.spec("c", TWO, 1))
        before, names = machine.cgroups.effective(), machine.cgroups.partitions()
        assert before == reach(agent)
        state, shown = agent.state, machine.link.shown()
        machine.cgroups.made.clear()
        machine.cgroups.fails_at = fails_at
        try:
            # both others give back what they borrowed, level 1 begins
            await agent.deploy(machine.spec("d", ONE, 1))
        except HypervisorError:
            assert fails_at <= 3
            machine.cgroups.fails_at = None
            assert machine.cgroups.effective() == before
            assert machine.cgroups.partitions() == names
            assert agent.state.subsets == state.subsets
            assert machine.link.shown() == shown
        else:
            assert len(machine.cgroups.writes) == 3 < fails_at
            assert machine.cgroups.effective() == reach(agent) != before


async def test_a_write_that_hangs_is_given_up_and_settled_later(machine: Machinery) -> None:
    released = threading.Event()
    async with machine.service(call_timeout_s=0.3) as agent:
        await agent.deploy(machine.spec("a"))
        machine.cgroups.watch = lambda: released.wait(10)
        with pytest.raises(HypervisorError, match=r"within 0\.3 s"):
            await agent.deploy(machine.spec("b", TWO, 4))
        assert agent.state.level_of("b") is None
        released.set()
        await settled(machine, agent)
        await agent.deploy(machine.spec("b", TWO, 4))
        assert machine.cgroups.effective() == reach(agent)


async def settled(machine: Machinery, agent: HostAgent) -> None:
    async with asyncio.timeout(5):
        while machine.cgroups.effective() != reach(agent):
            await machine.look()


async def test_a_deploy_that_fails_in_libvirt_takes_its_partition_along(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a"))
        before = machine.cgroups.effective()
        for fails_at in range(1, 3):
            machine.link.made.clear()
            machine.link.fails_at = fails_at
            with pytest.raises(HypervisorError):
                await agent.deploy(machine.spec("b", THREE))
            assert machine.cgroups.effective() == before
            assert machine.cgroups.partitions() == ["vmstack_l2x0"]


async def test_the_first_vm_is_pinned_until_partitions_are_seen_to_work(machine: Machinery) -> None:
    pinned = []

    async with machine.service() as agent:
        original = machine.link.start

        async def start(name: str) -> None:
            pinned.append(machine.link.places(name))
            await original(name)

        machine.link.start = start  # type: ignore[method-assign]
        await agent.deploy(machine.spec("first"))
        await agent.deploy(machine.spec("second"))
        assert pinned == [{"0-1"}, {"0-7"}]
        assert machine.link.places("first") == {"0-7"}


async def test_a_libvirt_that_does_not_use_cgroups_is_noticed(
    machine: Machinery, caplog: pytest.LogCaptureFixture
) -> None:
    machine.link.uses_cgroups = False
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a"))
        await agent.deploy(machine.spec("b"))
        await agent.deploy(machine.spec("c", ONE))
        for name, level in (("a", "2x0"), ("b", "2x0"), ("c", "1x0")):
            cpus = reach(agent)[level]
            assert machine.link.places(name) == {f"{cpus[0]}-{cpus[-1]}"}
        assert machine.link.partition("b") is None
    assert sum("does not use cgroup v2" in each.getMessage() for each in caplog.records) == 1


@pytest.mark.parametrize("start", [True, False], ids=["deployed", "started"])
async def test_a_libvirt_that_looks_elsewhere_for_partitions_gets_none(
    machine: Machinery, caplog: pytest.LogCaptureFixture, start: bool
) -> None:
    async with machine.service() as agent:
        machine.link.cgroups = FakeCgroups(machine.directory / "elsewhere", set(CPUS))
        for name in ("a", "b"):
            await agent.deploy(machine.spec(name, start=start))
            if not start:
                await agent.power(name, Verb.START)
        for name in ("a", "b"):
            assert machine.link.partition(name) is None
            assert machine.link.places(name) == {"0-1"}
        await machine.look()
        before = machine.keeper.state
        await machine.look()
        assert machine.keeper.state is before
    assert sum("no /machine/vmstack_l2x0" in each.getMessage() for each in caplog.records) == 1


async def test_level_one_is_pinned_where_its_emulators_have_cpus_of_the_hosts(
    machine: Machinery,
) -> None:
    async with machine.service(host_cpus=(8, 9)) as agent:
        await agent.deploy(machine.spec("shared"))
        await agent.deploy(machine.spec("premium", ONE))
        assert machine.cgroups.partitions() == ["vmstack_l2x0"]
        assert machine.link.partition("premium") is None
        cpus = reach(agent)["1x0"]
        assert machine.link.places("premium") == {f"{cpus[0]}-{cpus[-1]}", "8-9"}


async def test_vms_from_before_there_were_partitions_move_in_as_they_start(
    machine: Machinery,
) -> None:
    async with machine.service(partitions=False) as agent:
        await agent.deploy(machine.spec("old", TWO))
        await agent.deploy(machine.spec("down", TWO, start=False))
        assert machine.cgroups.partitions() == []
    async with machine.service() as agent:
        assert machine.cgroups.partitions() == ["vmstack_l2x0"]
        await agent.deploy(machine.spec("new", TWO, 4))
        assert machine.link.partition("old") is None
        assert machine.link.places("old") == {"0-3"}
        assert machine.cgroups.effective() == reach(agent) == {"2x0": (0, 1, 2, 3)}
        await agent.power("down", Verb.START)
        await agent.power("old", Verb.SHUTDOWN)
        await agent.power("old", Verb.START)
        for name in ("old", "down", "new"):
            assert machine.link.partition(name) == "/machine/vmstack_l2x0"
            assert machine.link.places(name) == {"0-7"}
        machine.link.made.clear()
        await agent.deploy(machine.spec("more", TWO, 2))
        assert machine.cgroups.effective() == reach(agent) == {"2x0": (0, 1, 2, 3, 4)}
        assert not [each for each in machine.link.made if each[0] == "pin"]


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_a_level_in_and_out_of_its_partition_moves_as_one(
    machine: Machinery, fails_at: int
) -> None:
    async with machine.service(partitions=False) as agent:
        await agent.deploy(machine.spec("old", TWO))
        await agent.deploy(machine.spec("older", TWO))
    async with machine.service() as agent:
        await agent.deploy(machine.spec("new", TWO))
        shown, before = machine.link.shown(), machine.cgroups.effective()
        machine.link.made.clear()
        machine.link.fails_at = fails_at
        with pytest.raises(HypervisorError):
            await agent.deploy(machine.spec("more", TWO))
        assert (machine.link.shown(), machine.cgroups.effective()) == (shown, before)
        machine.link.fails_at = None
        await agent.deploy(machine.spec("more", TWO))
        assert machine.cgroups.effective() == reach(agent) == {"2x0": (0, 1, 2, 3)}
        assert machine.link.places("old") == machine.link.places("older") == {"0-3"}


async def test_back_without_partitions_vms_are_pinned_and_start_without(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("vm"))
    machine.stop_all()
    async with machine.service(partitions=False, boot_id="second") as agent:
        assert agent.states == {"vm": VmState.RUNNING}
        assert machine.link.partition("vm") is None
        assert machine.link.places("vm") == {"0-1"}


async def test_an_adopted_vm_is_pinned_until_its_next_start(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a"))
        await machine.link.start_transient("found", FOUND)
        await machine.look()
        await agent.adopt("found", TWO)
        cpus = reach(agent)["2x0"]
        assert machine.cgroups.effective() == {"2x0": cpus}
        assert machine.link.places("found") == {f"{cpus[0]}-{cpus[-1]}"}
        await agent.power("found", Verb.SHUTDOWN)
        await agent.power("found", Verb.START)
        assert machine.link.partition("found") == "/machine/vmstack_l2x0"
        assert machine.link.places("found") == {"0-7"}


FOUND = (
    "<domain type='kvm'><name>found</name><uuid>6a1f8a4e-52b7-4b1c-9d8a-0d3f6a7b8c9d</uuid>"
    "<memory unit='MiB'>512</memory><currentMemory unit='MiB'>512</currentMemory><vcpu>2</vcpu>"
    "<os><type>hvm</type></os></domain>"
)


async def test_what_foreign_hands_change_is_set_right(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a", TWO, 4))
        await agent.deploy(machine.spec("b", TWO, 4))
        path = machine.cgroups.root / "machine" / "vmstack_l2x0.partition" / "cpuset.cpus"
        machine.cgroups.write(path, "6-7")
        await machine.look()
        assert machine.cgroups.effective() == reach(agent) == {"2x0": (0, 1, 2, 3)}
        machine.link.pin_one("a", [PinWish(1, (0, 1), live=True, config=False)])
        assert machine.link.places("a") == {"0-7", "0-1"}
        await machine.look()
        assert machine.link.places("a") == {"0-7"}
        machine.link.pin_one("a", [PinWish(1, (7,), live=True, config=True)])
        await machine.look()
        assert machine.link.places("a") == {"0-7"}
        assert machine.cgroups.effective() == reach(agent)


@pytest.mark.parametrize("repair", [True, False], ids=["repairing", "only reporting"])
@pytest.mark.parametrize("vcpus", [2, 8], ids=["some CPUs", "all CPUs"])
async def test_after_a_reboot_partitions_come_before_vms(
    machine: Machinery, repair: bool, vcpus: int
) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a", TWO, vcpus))
        await agent.deploy(machine.spec("off", TWO, 1, start=False))
        was = reach(agent)
    machine.stop_all()
    async with machine.service(repair=repair, boot_id="second") as agent:
        assert agent.states == {"a": VmState.RUNNING, "off": VmState.DOWN}
        assert machine.cgroups.effective() == reach(agent) == was


async def test_a_vm_is_not_started_without_its_partition(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a", start=False))
        machine.cgroups.reboot()
        with pytest.raises(HypervisorError, match=r"level 2\.0 has no partition"):
            await agent.power("a", Verb.START)
        find_tree(machine.cgroups.root, machine.directory / "none", (), machine.cgroups.hands)
        await machine.look()
        await agent.power("a", Verb.START)
        assert machine.cgroups.effective() == reach(agent)


async def test_a_restart_finds_everything_in_its_place(machine: Machinery) -> None:
    async with machine.service() as agent:
        await agent.deploy(machine.spec("a"))
        await agent.deploy(machine.spec("b", ONE))
        was, shown = reach(agent), machine.link.shown()
    async with machine.service() as agent:
        assert reach(agent) == was
        assert machine.link.shown() == shown
        assert ET.fromstring(shown["a"][0]).findtext("resource/partition") == partition_of(TWO)
        assert machine.cgroups.effective() == was
