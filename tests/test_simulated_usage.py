"""What VMs of the simulated hypervisor use: by day and by name, and never more than there is."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.model import VmSpec
from schedulerlocal.adapters.simulatedusage import profile
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.lifecycle import Verb
from tests.simulatedrig import A, B, Clock, simulated, vm


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
