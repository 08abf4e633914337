"""What is asked of libvirt, in which order and how often, and that a failure leaves nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from schedulercommon.errors import HypervisorError
from schedulercommon.model import VmState
from schedulerlocal.adapters.hypervisorlink import Why
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.state import Vm
from schedulerlocal.core.steps import Adopt, Create, Pin, Remove, Resize, Step
from tests.hypervisorrig import NARROW, ONE, TWO, WIDE, Rig, rig

__all__ = ["rig"]


async def test_a_level_is_pinned_with_no_call_too_many(rig: Rig) -> None:
    vms = [await rig.make(rig.vm(f"vm{number}")) for number in range(20)]
    apart = await rig.make(rig.vm("apart"))
    names = tuple(vm.name for vm in vms)
    rig.link.calls.clear()
    await rig.hypervisor.perform(Pin(TWO, names, WIDE, NARROW))
    # two vCPUs and the emulator each, live and for the next boot in one call
    assert rig.link.calls == {"pin": 20, "pin-one": 60}
    await rig.hypervisor.perform(Pin(TWO, names, WIDE, NARROW))
    assert rig.link.calls["pin-one"] == 60  # they are there already
    rig.link.calls.clear()
    await rig.hypervisor.perform(Pin(TWO, (), NARROW, ()))
    assert not rig.link.calls
    found = {each.name: each.found.pinned for each in await rig.hypervisor.domains()}
    assert found == {**dict.fromkeys(names, NARROW), apart.name: WIDE}
    assert not rig.link.calls["read"]
    assert await rig.quiet() == 0


async def test_a_vm_that_is_down_is_pinned_for_its_next_boot(rig: Rig) -> None:
    vm = await rig.make(rig.vm("down", start=False, max_vcpus=3))
    await rig.hypervisor.perform(Pin(TWO, (vm.name,), WIDE, NARROW))
    ((_, name, *wishes),) = rig.link.changes
    assert name == vm.name
    assert [(wish.live, wish.config) for wish in wishes] == [(False, True)] * 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
async def test_pinning_that_fails_leaves_all_where_they_were(rig: Rig, fails_at: int) -> None:
    names = tuple([(await rig.make(rig.vm(f"vm{number}"))).name for number in range(3)])
    before = rig.link.shown()
    rig.link.fails_at = fails_at
    with pytest.raises(HypervisorError):
        await rig.hypervisor.perform(Pin(TWO, names, WIDE, NARROW))
    assert rig.link.shown() == before


async def test_a_vm_that_vanished_cannot_be_pinned(rig: Rig) -> None:
    vm = await rig.make(rig.vm("here"))
    with pytest.raises(HypervisorError, match="'gone'"):
        await rig.hypervisor.perform(Pin(TWO, (vm.name, "gone"), WIDE, NARROW))
    del rig.link.domains[vm.name]
    with pytest.raises(HypervisorError, match="'here'"):
        await rig.hypervisor.perform(Pin(TWO, (vm.name,), WIDE, NARROW))


@pytest.mark.parametrize("everything", [False, True], ids=["one", "all"])
async def test_what_is_read_meanwhile_is_not_taken_for_newer(rig: Rig, everything: bool) -> None:
    moved, gone = [await rig.make(rig.vm(name)) for name in ("moved", "gone")]
    made = rig.vm("made")
    await rig.hypervisor.prepare(made.spec)
    if everything:
        rig.link.ears.doubt()
    for name in ("moved", "gone", "made"):
        rig.link.hear(name)
    rig.link.tells = told = asyncio.Event()
    looking = asyncio.create_task(rig.hypervisor.domains())
    async with asyncio.timeout(10):
        await rig.link.looked.wait()
        assert rig.link.calls["read_all" if everything else "read"] == 1
        await rig.hypervisor.perform(Pin(TWO, (moved.name,), WIDE, NARROW))
        await rig.hypervisor.perform(Create(made, WIDE))
        await rig.hypervisor.perform(Remove(gone, WIDE))
    rig.link.tells = None
    told.set()
    await looking
    found = {each.name: each.found.pinned for each in await rig.hypervisor.domains()}
    assert found == {"moved": NARROW, "made": WIDE}
    await rig.hypervisor.perform(Pin(TWO, ("moved", "made"), WIDE, WIDE))


async def test_emulators_of_level_one_stay_on_the_hosts_cpus(tmp_path: Path) -> None:
    rig = await Rig(tmp_path, host_cpus=(6, 7)).open()
    premium = await rig.make(rig.vm("premium", level=ONE), NARROW)
    shared = await rig.make(rig.vm("shared"), NARROW)

    def emulator(name: str) -> str:
        live = rig.link.domains[name].live
        assert live is not None
        (pin,) = live.findall("cputune/emulatorpin")
        return pin.get("cpuset", "")

    assert (emulator(premium.name), emulator(shared.name)) == ("6-7", "0-1")
    await rig.hypervisor.perform(Pin(ONE, (premium.name,), NARROW, WIDE))
    await rig.hypervisor.perform(Pin(TWO, (shared.name,), NARROW, WIDE))
    assert (emulator(premium.name), emulator(shared.name)) == ("6-7", "0-3")
    await rig.hypervisor.close()


async def test_making_asks_in_this_order(rig: Rig) -> None:
    vm = rig.vm("new")
    await rig.hypervisor.prepare(vm.spec)
    await rig.hypervisor.perform(Create(vm, WIDE))
    assert [each[0] for each in rig.link.changes] == ["define", "start", "note"]
    await rig.hypervisor.discard(vm.spec)  # which is too late
    assert rig.overlays() == 1
    (domain,) = await rig.hypervisor.domains()
    assert (domain.name, domain.state) == ("new", VmState.RUNNING)
    assert domain.found.pinned == WIDE
    assert not domain.vcpus_pending
    assert not domain.memory_pending
    assert await rig.quiet() == 0


@pytest.mark.parametrize("fails_at", [1, 2, 3])
async def test_making_that_fails_leaves_nothing(rig: Rig, fails_at: int) -> None:
    vm = rig.vm("new")
    await rig.hypervisor.prepare(vm.spec)
    rig.link.fails_at = fails_at
    with pytest.raises(HypervisorError):
        await rig.hypervisor.perform(Create(vm, WIDE))
    assert rig.link.domains == {}
    assert rig.overlays() == 1  # until it is discarded, as whoever prepared it does
    await rig.hypervisor.discard(vm.spec)
    assert rig.overlays() == 0


async def test_a_disk_that_a_vm_has_after_all_is_kept(rig: Rig) -> None:
    vm = rig.vm("new")
    await rig.hypervisor.prepare(vm.spec)
    rig.link.fails_at, rig.link.why = 2, Why.AWAY
    with pytest.raises(HypervisorError):
        await rig.hypervisor.perform(Create(vm, WIDE))
    (path,) = rig.directory.glob("*.qcow2")
    other = await rig.make(rig.vm("other"))
    twin = rig.link.domains[other.name]
    (name,) = twin.config.findall("name")
    name.text = "new"  # the call was lost, and did its work
    (source,) = twin.config.findall("devices/disk/source")
    source.set("file", str(path))
    rig.link.domains = {"new": twin}
    await rig.hypervisor.discard(vm.spec)
    assert path.exists()


async def test_removing_is_done_once_and_for_all(rig: Rig) -> None:
    vm = await rig.make(rig.vm("old"))
    await rig.hypervisor.perform(Remove(vm, WIDE))
    assert [each[0] for each in rig.link.changes] == ["destroy", "undefine"]
    assert (rig.link.domains, rig.overlays()) == ({}, 0)
    await rig.hypervisor.perform(Remove(vm, WIDE))


async def test_a_vm_is_looked_at_before_its_removal_only_if_it_changed(rig: Rig) -> None:
    await rig.make(rig.vm("first"))  # whose machine and CPU model are those of the next
    vm = await rig.make(rig.vm("web"))
    await rig.hypervisor.perform(Remove(vm, WIDE))
    assert [kind for kind, *_ in rig.link.made] == ["destroy", "undefine"]
    vm = await rig.make(rig.vm("web"))
    await rig.link.destroy("web")  # by somebody else, and nobody was told yet
    await rig.hypervisor.perform(Remove(vm, WIDE))
    assert [kind for kind, *_ in rig.link.made] == ["destroy", "read", "undefine"]
    assert (list(rig.link.domains), rig.overlays()) == (["first"], 1)


async def test_nothing_is_defined_on_a_disk_that_was_swapped(rig: Rig) -> None:
    await rig.hypervisor.prepare((vm := rig.vm("web")).spec)
    next(rig.directory.glob("*.qcow2")).write_bytes(b"no image at all")
    with pytest.raises(HypervisorError, match="cannot start"):
        await rig.hypervisor.perform(Create(vm, WIDE))
    assert not rig.link.changes


async def test_removing_never_takes_a_namesake(rig: Rig) -> None:
    vm = await rig.make(rig.vm("old"))
    (metadata,) = rig.link.domains["old"].config.findall("metadata")
    rig.link.domains["old"].config.remove(metadata)
    rig.link.domains["old"].live = None
    before = rig.link.shown()
    with pytest.raises(HypervisorError, match="not made here"):
        await rig.hypervisor.perform(Remove(vm, WIDE))
    assert (rig.link.shown(), rig.overlays()) == (before, 1)


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_removing_that_fails_keeps_the_disk(rig: Rig, fails_at: int) -> None:
    vm = await rig.make(rig.vm("old"))
    rig.link.fails_at = fails_at
    with pytest.raises(HypervisorError):
        await rig.hypervisor.perform(Remove(vm, WIDE))
    assert "old" in rig.link.domains
    assert rig.overlays() == 1
    await rig.hypervisor.perform(Remove(vm, WIDE))
    assert (rig.link.domains, rig.overlays()) == ({}, 0)


def resized(vm: Vm, **changes: int) -> Vm:
    spec = replace(vm.spec, **changes)
    return Vm(spec, spec.vcpus, spec.max_memory_mib, ((0, spec.max_memory_mib),))


@pytest.mark.parametrize(
    ("changes", "plugs", "pending"),
    [
        ({"vcpus": 3}, True, (False, False)),
        ({"memory_mib": 2048}, True, (False, False)),
        ({"vcpus": 3, "memory_mib": 512}, False, (True, True)),
        ({"vcpus": 5, "max_vcpus": 5}, True, (True, False)),
        ({"memory_mib": 4096, "max_memory_mib": 4096}, True, (False, True)),
    ],
    ids=["plugged", "ballooned", "a guest that cannot", "beyond its vCPUs", "beyond its memory"],
)
async def test_a_size_is_live_or_waits_for_the_next_boot(
    rig: Rig, changes: dict[str, int], plugs: bool, pending: tuple[bool, bool]
) -> None:
    vm = await rig.make(rig.vm("vm", max_vcpus=4, max_memory_mib=2048))
    rig.link.plugs = plugs
    after = resized(vm, **changes)
    await rig.hypervisor.perform(Resize(vm, after))
    (domain,) = await rig.hypervisor.domains()
    assert domain.found.spec == after.spec
    assert (domain.vcpus_pending, domain.memory_pending) == pending
    assert domain.found.pinned == WIDE
    assert domain.found.boot_memory_mib == max(2048, after.spec.max_memory_mib)
    await rig.hypervisor.power("vm", Verb.REBOOT, force=False)
    (domain,) = await rig.hypervisor.domains()
    assert (domain.vcpus_pending, domain.memory_pending) == (False, False)
    assert domain.found.vcpus == after.spec.vcpus


@pytest.mark.parametrize("fails_at", range(1, 6))
async def test_a_resize_that_fails_leaves_the_size(rig: Rig, fails_at: int) -> None:
    vm = await rig.make(rig.vm("vm", max_vcpus=4, max_memory_mib=2048))
    (before,) = await rig.hypervisor.domains()
    config = rig.link.shown()["vm"][0]
    rig.link.fails_at, rig.link.why = fails_at, Why.AWAY
    with pytest.raises(HypervisorError):
        await rig.hypervisor.perform(Resize(vm, resized(vm, vcpus=3, memory_mib=2048)))
    assert rig.link.shown()["vm"][0] == config
    assert await rig.hypervisor.domains() == [before]


async def test_adopting_changes_what_is_noted_and_nothing_else(rig: Rig) -> None:
    vm = await rig.make(rig.vm("vm"))
    for xml in (rig.link.domains["vm"].config, rig.link.domains["vm"].live):
        assert xml is not None
        for metadata in xml.findall("metadata"):
            metadata.clear()
    rig.link.hear("vm")
    assert await rig.quiet() == 1
    before = rig.link.shown()
    (domain,) = await rig.hypervisor.domains()
    assert domain.found.foreign
    foreign = Vm(domain.found.spec, 2, 1024, (), foreign=True)
    adopted: Step = Adopt(foreign, vm)
    await rig.hypervisor.perform(adopted)
    (domain,) = await rig.hypervisor.domains()
    assert (domain.found.foreign, domain.found.spec) == (False, vm.spec)
    assert [each[0] for each in rig.link.changes] == ["note"]
    assert adopted.inverse is not None
    await rig.hypervisor.perform(adopted.inverse)
    assert rig.link.shown() == before


async def test_adopting_leaves_it_to_us_to_start_a_vm(rig: Rig) -> None:
    foreign, vm = (replace(rig.vm("vm"), foreign=each) for each in (True, False))
    await rig.make(vm)
    rig.link.autostart.add("vm")
    adopted = Adopt(foreign, vm)
    await rig.hypervisor.perform(adopted)
    assert rig.link.autostart == set()
    await rig.hypervisor.perform(adopted.inverse)
    assert rig.link.autostart == {"vm"}
    await rig.hypervisor.perform(adopted)
    assert rig.link.autostart == set()


async def test_what_starts_by_itself_is_seen(rig: Rig) -> None:
    await rig.make(rig.vm("vm"))
    (domain,) = await rig.hypervisor.domains()
    assert not domain.autostart
    rig.link.autostart.add("vm")
    rig.now_s += 11
    (domain,) = await rig.hypervisor.domains()
    assert domain.autostart
    await rig.hypervisor.forbid_autostart("vm")
    (domain,) = await rig.hypervisor.domains()
    assert not domain.autostart


async def test_only_what_changed_is_told_and_read(rig: Rig) -> None:
    for number in range(5):
        await rig.make(rig.vm(f"vm{number}"))
    await rig.hypervisor.domains()
    rig.link.made.clear()
    rig.link.hear("vm3")  # the echo of something we did
    rig.link.hear("vm2", {"vcpupin0": "0-3", "emulatorpin": "0-3"})
    assert await rig.quiet() == 0
    assert rig.link.made == [("read", "vm3")]
    rig.link.domains["vm3"].state = VmState.SUSPENDED
    rig.link.hear("vm3")
    assert await rig.quiet() == 1
    states = {each.name: each.state for each in await rig.hypervisor.domains()}
    assert states == {**dict.fromkeys(states, VmState.RUNNING), "vm3": VmState.SUSPENDED}
    assert rig.link.made == [("read", "vm3")] * 2
    rig.now_s += 11
    await rig.hypervisor.domains()
    assert rig.link.made[-1] == ("read_all",)
    rig.link.ears.doubt()
    assert rig.told == 2
    await rig.hypervisor.domains()
    assert rig.link.made[-1] == ("read_all",)


async def test_a_step_that_fails_has_everybody_look_again(rig: Rig) -> None:
    vm = await rig.make(rig.vm("vm"))
    rig.link.fails_at = 1
    rig.link.hear(vm.name)  # somebody stopped it, which is why
    with pytest.raises(HypervisorError):
        await rig.hypervisor.perform(Pin(TWO, (vm.name,), WIDE, NARROW))
    assert rig.told


async def test_a_verb_that_somebody_undoes_at_once_has_everybody_look_again(rig: Rig) -> None:
    vm = await rig.make(rig.vm("vm"))
    await rig.hypervisor.power(vm.name, Verb.SUSPEND, force=False)
    assert await rig.quiet() == 0
    rig.link.resumes = False
    await rig.hypervisor.power(vm.name, Verb.RESUME, force=False)
    assert await rig.quiet() == 1
