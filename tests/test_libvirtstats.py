"""Recorded answers of libvirt's bulk statistics, read as usage.

``burners.json`` has two answers 5 s apart of a real libvirtd: two guests that burn on one CPU, an
idle one of two vCPUs, and one that is down.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.libvirtstats import read_stats
from schedulerlocal.core.host import Host
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_deploy
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Plan
from schedulerlocal.ports import HostUsage, VmUsage
from schedulerlocal.readings import Readings, read_usage

RECORDED = Path(__file__).parent / "golden" / "stats" / "burners.json"
ONE, TWO = Fraction(1), Fraction(2)
Domains = list[tuple[str, dict[str, Any]]]


def recorded() -> list[tuple[float, Domains]]:
    answers = json.loads(RECORDED.read_text())
    return [(each["at_s"], [(name, told) for name, told in each["domains"]]) for each in answers]


def usage(at_s: float, vms: dict[str, VmUsage]) -> HostUsage:
    return HostUsage(at_s=at_s, cpu_share=None, memory_share=0.5, vms=vms)


def between(before: dict[str, VmUsage], now: dict[str, VmUsage], over_s: float) -> Readings:
    """Readings of a host with the VMs of the recording, the burners at level 2."""
    host = Host(machine_topology(Machine(cores=4, threads=1, memory_mib=16_384)))
    state = HostState(host, {})
    sizes = {"burner-a": (1, TWO), "burner-b": (1, TWO), "idle": (2, ONE), "off": (1, ONE)}
    for name, (vcpus, level) in sizes.items():
        plan = plan_deploy(state, VmSpec(name=name, vcpus=vcpus, memory_mib=192, level=level))
        assert isinstance(plan, Plan)
        state = plan.after
    states = dict.fromkeys(sizes, VmState.RUNNING) | {"off": VmState.DOWN}
    return read_usage(state, states, usage(100, before), usage(100 + over_s, now))


def test_two_burners_on_one_cpu() -> None:
    (before_s, before), (now_s, now) = recorded()
    readings = between(read_stats(before), read_stats(now), now_s - before_s)
    burners = [readings.vms[name] for name in ("burner-a", "burner-b")]
    for each in burners:
        assert each.cpus == pytest.approx(0.5, abs=0.05)
        assert each.waiting == pytest.approx(0.5, abs=0.03)
    crowd, calm = readings.levels[TWO], readings.levels[ONE]
    assert crowd.cpus == pytest.approx(1.0, abs=0.1)
    assert crowd.waiting == pytest.approx(0.5, abs=0.02)
    assert crowd.waiting_p95 == max(each.waiting or 0 for each in burners)
    idle = readings.vms["idle"]
    assert idle.cpus == pytest.approx(0.05, abs=0.01)
    assert calm.waiting == idle.waiting
    off = readings.vms["off"]
    assert (off.cpus, off.memory_mib, off.waiting) == (0, 0, 0)


def test_a_vm_as_it_is_told() -> None:
    _, now = recorded()[1]
    usages = read_stats(now)
    assert set(usages) == {"burner-a", "burner-b", "idle"}  # the time of one that is down is noise
    idle = usages["idle"]
    assert idle.cpu_time_s == pytest.approx(4.255545)
    assert set(idle.vcpus) == {0, 1}
    assert idle.vcpus[1].ran_s == pytest.approx(1.22)
    assert idle.vcpus[1].waited_s == pytest.approx(0.806569799)
    assert idle.throttled_s is None
    assert idle.memory_used_mib == pytest.approx((196608 - 133584) / 1024)


@pytest.mark.parametrize(
    ("changed", "memory_mib"),
    [
        ({}, (200_000 - 120_000) / 1024),
        ({"balloon.usable": None}, (200_000 - 100_000) / 1024),
        ({"balloon.usable": None, "balloon.unused": None}, 150_000 / 1024),
        ({"balloon.usable": None, "balloon.unused": None, "balloon.rss": 230_000}, 200_000 / 1024),
        ({"balloon.usable": 300_000}, 0),
        ({"balloon.usable": None, "balloon.unused": None, "balloon.rss": None}, None),
        ({"balloon.current": None}, None),
    ],
    ids=["usable", "unused", "no driver", "with QEMU", "ballooned a moment ago", "hung", "untold"],
)
def test_memory(changed: dict[str, int | None], memory_mib: float | None) -> None:
    told = {
        "state.state": 1,
        "balloon.current": 200_000,
        "balloon.rss": 150_000,
        "balloon.unused": 100_000,
        "balloon.usable": 120_000,
        **changed,
    }
    stats = {name: value for name, value in told.items() if value is not None}
    assert read_stats([("vm", stats)])["vm"].memory_used_mib == memory_mib


def vcpus(**told: tuple[int, int | None]) -> dict[str, int]:
    """What is told of vCPUs ``v0``, ``v3`` …: time and delay in seconds."""
    stats: dict[str, int] = {"vcpu.current": len(told), "vcpu.maximum": 8}
    for name, (ran_s, waited_s) in told.items():
        stats[f"vcpu.{name[1:]}.time"] = ran_s * 10**9
        if waited_s is not None:
            stats[f"vcpu.{name[1:]}.delay"] = waited_s * 10**9
    return stats


def test_vcpus_may_have_gaps() -> None:
    told = vcpus(v0=(1, 2), v5=(3, 4))
    assert set(read_stats([("vm", {"state.state": 1, **told})])["vm"].vcpus) == {0, 5}


def test_an_older_libvirt_tells_no_delay() -> None:
    told = {"state.state": 1, "cpu.time": 5 * 10**9, **vcpus(v0=(1, None), v1=(3, None))}
    usage = read_stats([("vm", told)])["vm"]
    assert usage.vcpus == {}
    assert usage.cpu_time_s == pytest.approx(5)


def test_time_without_cgroups_is_that_of_the_vcpus() -> None:
    first = {"state.state": 1, **vcpus(v0=(1, 0), v1=(3, 0))}
    usages = read_stats([("a", first), ("b", {"state.state": 1})])
    assert usages["a"].cpu_time_s == pytest.approx(4)
    assert usages["b"].cpu_time_s is None
    # never for one VM only: its emulator's time would come and go
    usages = read_stats([("a", first), ("b", {"state.state": 1, "cpu.time": 7 * 10**9})])
    assert usages["a"].cpu_time_s is None
    assert usages["b"].cpu_time_s == pytest.approx(7)


def test_a_hung_emulator_is_told_of_in_part() -> None:
    """Its answer has neither balloon nor vCPU times; all the rest stands."""
    (before_s, before), (now_s, now) = recorded()
    hung = [
        (name, {key: told[key] for key in told if not key.startswith(("balloon.", "vcpu.0."))})
        if name == "burner-a"
        else (name, told)
        for name, told in now
    ]
    readings = between(read_stats(before), read_stats(hung), now_s - before_s)
    vm = readings.vms["burner-a"]
    assert vm.cpus == pytest.approx(0.5, abs=0.05)
    assert (vm.memory_mib, vm.waiting) == (None, None)
    assert readings.levels[TWO].waiting == readings.vms["burner-b"].waiting


def test_a_vm_booted_anew_waits_for_its_second_reading() -> None:
    (before_s, before), (now_s, now) = recorded()
    readings = between(read_stats(now), read_stats(before), now_s - before_s)
    assert readings.vms["burner-a"].cpus is None
    assert readings.vms["burner-a"].waiting is None
    assert readings.levels[TWO].waiting is None
    assert readings.levels[ONE].waiting is None  # although one that is down does not wait


@pytest.mark.parametrize(
    ("before_s", "now_s", "waiting"),
    [(None, None, 0.5), (None, 0.0, 0.5), (None, 1.0, None), (1.0, 1.0, 0.5), (1.0, 3.0, 0.25)],
    ids=["not looked at", "no quota", "a quota, first seen", "unused quota", "a quota"],
)
def test_what_a_quota_does_is_no_waiting(
    before_s: float | None, now_s: float | None, waiting: float | None
) -> None:
    def told(ran_s: int, waited_s: int, throttled_s: float | None) -> dict[str, VmUsage]:
        stats = {"state.state": 1, "cpu.time": ran_s * 10**9, **vcpus(v0=(ran_s, waited_s))}
        read = read_stats([("burner-a", stats)])["burner-a"]
        return {
            "burner-a": VmUsage(
                cpu_time_s=read.cpu_time_s,
                memory_used_mib=read.memory_used_mib,
                vcpus=read.vcpus,
                throttled_s=throttled_s,
            )
        }

    readings = between(told(10, 10, before_s), told(13, 13, now_s), over_s=6)
    assert readings.vms["burner-a"].waiting == (None if waiting is None else pytest.approx(waiting))
    assert readings.vms["burner-a"].cpus == pytest.approx(0.5)
