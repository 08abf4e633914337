"""A real host's usage, from what libvirt and a recorded ``/proc`` tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.errors import HypervisorError
from schedulerlocal.adapters.guestthreads import GuestThreads
from schedulerlocal.adapters.hostcounters import HostCounters
from schedulerlocal.adapters.hostmeter import HostMeter
from schedulerlocal.core.waiting import VcpuTime

MEMINFO = "MemTotal:        8000 kB\nMemFree:         1000 kB\nMemAvailable:    6000 kB\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def stat(root: Path, **cpus: Sequence[int]) -> None:
    """CPUs ``c0``, ``c1`` … with ticks of user, nice, system, idle, iowait, and the others."""
    lines = [f"cpu{name[1:]} {' '.join(map(str, ticks))}" for name, ticks in cpus.items()]
    text = "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5 4 3", "cpufreq 1", ""])
    write(root / "proc/stat", text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "proc/meminfo", MEMINFO)
    stat(tmp_path, c0=[0] * 10, c1=[0] * 10)
    return tmp_path


# --- the host -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "share"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [25, 0, 0, 75, 0, 0, 0, 0, 0, 0], 0.25),
        ([5, 5, 5, 5, 5, 5, 5, 5, 5, 5], [15, 15, 15, 35, 15, 15, 15, 15, 15, 15], 0.6),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [50, 0, 0, 50, 0, 0, 0, 0, 50, 0], 0.5),
        ([0, 0, 0, 0, 9, 0, 0, 0, 0, 0], [9, 0, 0, 0, 1, 0, 0, 0, 0, 0], 1.0),
        ([9, 0, 0, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 20, 0, 0, 0, 0, 0, 0], 0.0),
        ([9, 9, 9, 9, 9, 9, 9, 9, 9, 9], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9], None),
        ([9, 9, 9, 9, 9, 9, 9, 9, 9, 9], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], None),
    ],
    ids=["user", "all", "guests once", "iowait fell", "busy fell", "no tick", "began anew"],
)
def test_how_busy_a_cpu_is(
    root: Path, before: list[int], now: list[int], share: float | None
) -> None:
    counters = HostCounters(root)
    stat(root, c0=before)
    assert counters.cpu_shares() == {}
    stat(root, c0=now)
    shares = counters.cpu_shares()
    assert shares == ({} if share is None else {0: pytest.approx(share)})


def test_a_cpu_that_comes_and_goes(root: Path) -> None:
    counters = HostCounters(root)
    busy = {number: [number * 10, *[0] * 9] for number in range(1, 5)}
    stat(root, c0=busy[1], c7=busy[1])
    counters.cpu_shares()
    stat(root, c0=busy[2])
    assert counters.cpu_shares() == {0: 1}
    stat(root, c0=busy[3], c7=busy[3])
    assert counters.cpu_shares() == {0: 1}
    stat(root, c0=busy[4], c7=busy[4])
    assert counters.cpu_shares() == {0: 1, 7: 1}


def test_memory_of_the_host(root: Path) -> None:
    counters = HostCounters(root)
    assert counters.memory_share() == pytest.approx(0.25)
    write(root / "proc/meminfo", "MemTotal: 1 kB\n")
    with pytest.raises(HypervisorError, match="MemAvailable; mount /proc"):
        counters.memory_share()
    (root / "proc/meminfo").unlink()
    with pytest.raises(HypervisorError, match="cannot be read"):
        counters.memory_share()


def test_this_machine() -> None:
    counters = HostCounters()
    counters.cpu_shares()
    assert 0 < counters.memory_share() < 1


# --- guests' threads ----------------------------------------------------------------------------


def thread(root: Path, pid: int, tid: int, comm: str, schedstat: str, cgroup: str = "") -> None:
    task = root / f"proc/{pid}/task/{tid}"
    write(task / "comm", f"{comm}\n")
    write(task / "schedstat", f"{schedstat}\n")
    write(task / "cgroup", cgroup)


V1 = "6:freezer:/x\n3:cpuset:/m/{group}\n2:cpu,cpuacct:/m/{group}\n1:name=systemd:/\n0::/\n"
V2 = "0::/m/libvirt/{group}\n"


def guest(root: Path, cgroup: str = V1) -> GuestThreads:
    """Of a guest called ``vm`` with two vCPUs and a thread of its emulator."""
    write(root / "run/vm.pid", "77")
    thread(root, 77, 77, "qemu-system-x86", "9000000000 9000000000 5", cgroup.format(group="emu"))
    thread(root, 77, 78, "CPU 0/KVM", "1500000000 250000000 10", cgroup.format(group="vcpu0"))
    thread(root, 77, 79, "CPU 12/TCG", "2000000000 0 10", cgroup.format(group="vcpu12"))
    return GuestThreads(root, root / "run")


def test_times_of_vcpus(root: Path) -> None:
    threads = guest(root)
    assert threads.times("vm") == {0: VcpuTime(1.5, 0.25), 12: VcpuTime(2.0, 0.0)}
    assert threads.throttled_s("vm") == 0
    assert threads.times("other") == {}
    (root / "proc/77/task/78/schedstat").unlink()  # it ended as we looked
    assert threads.times("vm") == {12: VcpuTime(2.0, 0.0)}
    write(root / "run/vm.pid", "78")
    assert threads.times("vm") == {}
    write(root / "run/vm.pid", "../77")
    assert threads.times("vm") == {}


@pytest.mark.parametrize(
    ("cgroup", "place", "text"),
    [
        (V1, "cpu/m", "nr_periods 7\nthrottled_time {ms}000000\n"),
        (V2, "m/libvirt", "usage_usec 9\nthrottled_usec {ms}000\n"),
    ],
    ids=["cgroup v1", "cgroup v2"],
)
def test_throttled_by_a_quota(root: Path, cgroup: str, place: str, text: str) -> None:
    threads = guest(root, cgroup)
    for group, ms in {"emu": 5000, "vcpu0": 1250, "vcpu12": 250}.items():
        write(root / "sys/fs/cgroup" / place / group / "cpu.stat", text.format(ms=ms))
    assert threads.throttled_s("vm") == pytest.approx(1.5)


# --- all together -------------------------------------------------------------------------------


class Link:
    """Tells one recorded answer after the other, none while ``answering`` is not set."""

    def __init__(self, *answers: dict[str, dict[str, Any]]) -> None:
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked = 0
        self._answers = list(answers)

    async def all_stats(self) -> list[tuple[str, dict[str, Any]]]:
        self.asked += 1
        await self.answering.wait()
        return list(self._answers.pop(0).items())


def meter(root: Path, link: Link, threads: GuestThreads, patience_s: float = 10) -> HostMeter:
    times = count(100.0, 10.0)
    return HostMeter(
        link, (0, 1), lambda: next(times), HostCounters(root), threads, patience_s=patience_s
    )


def running(ran_s: float, waited_s: float | None) -> dict[str, Any]:
    told = {"state.state": 1, "cpu.time": round(ran_s * 1e9), "vcpu.current": 1, "vcpu.maximum": 1}
    told["vcpu.0.time"] = round(ran_s * 1e9)
    return told if waited_s is None else {**told, "vcpu.0.delay": round(waited_s * 1e9)}


async def test_what_a_host_uses(root: Path) -> None:
    down = {"state.state": 5, "cpu.time": 190_000_000}
    link = Link({"vm": running(1, 1), "off": down}, {"vm": running(3, 2), "off": down})
    reading = meter(root, link, GuestThreads(root, root / "run"))
    first = await reading.usage()
    assert (first.at_s, first.cpu_share, dict(first.cpu_shares)) == (100, None, {})
    assert first.memory_share == pytest.approx(0.25)
    # CPU 7 is not for VMs
    stat(root, c0=[10, *[0] * 9], c1=[5, 0, 0, 5, *[0] * 6], c7=[1] * 10)
    second = await reading.usage()
    assert second.at_s == 110
    assert second.cpu_share == pytest.approx(0.75)
    assert dict(second.cpu_shares) == {0: 1, 1: pytest.approx(0.5)}
    assert set(second.vms) == {"vm"}
    assert second.vms["vm"].cpu_time_s == pytest.approx(3)
    assert second.vms["vm"].vcpus == {0: VcpuTime(pytest.approx(3), pytest.approx(2))}


async def test_an_older_libvirt_is_helped_out(root: Path) -> None:
    reading = meter(root, Link({"vm": running(1, None)}), guest(root))
    assert (await reading.usage()).vms["vm"].vcpus[0] == VcpuTime(1.5, 0.25)


async def test_an_emulator_that_hangs_does_not_hide_the_others(root: Path) -> None:
    link = Link({"vm": running(1, 1), "gone": running(1, 1)}, {"vm": running(3, 2)})
    reading = meter(root, link, guest(root), patience_s=0.01)
    await reading.usage()
    link.answering.clear()
    for _ in range(3):
        stat(root, c0=[link.asked * 10, *[0] * 9], c1=[0] * 10)
        usage = await reading.usage()
        assert usage.vms["vm"].vcpus[0] == VcpuTime(1.5, 0.25)
        assert (usage.vms["vm"].cpu_time_s, usage.vms["vm"].memory_used_mib) == (None, None)
        assert usage.vms["gone"].vcpus == {}
    assert link.asked == 2  # the one that is late is waited for
    link.answering.set()
    usage = await reading.usage()
    assert link.asked == 2
    assert usage.vms["vm"].vcpus == {0: VcpuTime(pytest.approx(3), pytest.approx(2))}


async def test_nothing_is_known_if_libvirt_never_answered(root: Path) -> None:
    link = Link()
    link.answering.clear()
    usage = await meter(root, link, guest(root), patience_s=0.01).usage()
    assert usage.vms == {}
    assert usage.memory_share == pytest.approx(0.25)


async def test_quotas_are_looked_up_for_those_that_waited(root: Path) -> None:
    threads = guest(root)
    write(root / "sys/fs/cgroup/cpu/m/vcpu0/cpu.stat", "throttled_time 4000000000\n")
    answers = [{"vm": running(1, waited_s)} for waited_s in (0, 0.09, 4.09)]
    reading = meter(root, Link(*answers), threads)
    throttled_s = [(await reading.usage()).vms["vm"].throttled_s for _ in answers]
    assert throttled_s == [None, None, pytest.approx(4)]
