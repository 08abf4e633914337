"""What a 1:1 VM has of its CPU while its neighbours burn theirs: real guests, measured.

Its share is its vCPU's CPU time over that and the time it waited, in windows with the neighbours
running and suspended in turn. A machine has other processes too, and with the neighbours running
they move onto the premium CPU: time on it that was neither the premium VM's own nor a neighbour's
is not counted as waiting. Whose it was is told by where each thread is when it is looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from tests.hypervisorlab import Lab, libvirt, thread_pins, threads, vcpu_threads, wait_for_line
from tests.realhost import real_host

CPUS = tuple(sorted(os.sched_getaffinity(0)))[:2]
PAIRS = 7
CONTRAST_PAIRS = 3
WINDOW_S = 0.8
LOOK_S = 0.05
SETTLE_S = 0.1
BOUND = 0.95

_TICKS = os.sysconf("SC_CLK_TCK")
_CGROUPS = Path("/sys/fs/cgroup")

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(len(CPUS) < 2, reason="a level each wants two CPUs"),
    pytest.mark.timeout(240),
]


@dataclass(slots=True)
class Window:
    """What was seen in one window; seconds."""

    used_s: float = 0.0
    waited_s: float = 0.0
    """These two by the premium VM's vCPU."""
    busy_s: float = 0.0
    """Of the CPU that vCPU was on."""
    neighbours_s: float = 0.0
    """Of that, by neighbours."""
    looks: int = 0
    seen: int = 0
    """How often a thread of a neighbour's had run there."""

    @property
    def share(self) -> float:
        others_s = max(self.busy_s - self.used_s - self.neighbours_s, 0.0)
        return self.used_s / (self.used_s + max(self.waited_s - others_s, 0.0))

    @property
    def share_beside_others(self) -> float:
        return self.used_s / (self.used_s + self.waited_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    ratios: list[float]
    """Of the share with neighbours to that without, a pair of windows each."""
    ratios_beside_others: list[float]
    looks: int
    seen: int

    @property
    def sentence(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        return (
            f"{median(self.ratios):.3f} of its share ({low:.3f} to {high:.3f};"
            f" {median(self.ratios_beside_others):.3f} beside other processes);"
            f" neighbours seen on its CPU: {self.seen} in {self.looks} looks"
        )


class Guests:
    """A premium VM and its neighbours, by process."""

    def __init__(self, lab: Lab, premium: str, neighbours: Sequence[str]) -> None:
        self.premium = lab.pid(premium)
        self.neighbours = [lab.pid(name) for name in neighbours]
        (vcpu,) = vcpu_threads(self.premium).values()
        self._vcpu = vcpu.thread_id
        self._connection = lab.connect()
        self.domains = [self._connection.lookupByName(name) for name in (premium, *neighbours)]
        self._run = True
        self._ran_s: dict[int, float] = {}
        self._busy_s: dict[int, float] = {}
        self._vcpu_s = (0.0, 0.0)

    def close(self) -> None:
        self._connection.close()

    def let_neighbours(self, *, run: bool) -> None:
        if run is not self._run:
            for domain in self.domains[1:]:
                domain.resume() if run else domain.suspend()
        self._run = run

    def watch(self, check: Callable[[], None]) -> Window:
        """One window, with *check* at every look."""
        window = Window()
        self._look(Window())
        end_s = time.monotonic() + WINDOW_S
        while time.monotonic() < end_s:
            time.sleep(LOOK_S)
            check()
            self._look(window)
        return window

    def _look(self, window: Window) -> None:
        """Add what happened since the last look."""
        here = cpu_of(self._vcpu)
        # these two at one go: others may well run before the next line does
        busy_s, vcpu_s = busy_by_cpu_s(), run_and_waited_s(self._vcpu)
        window.busy_s += busy_s[here] - self._busy_s.get(here, busy_s[here])
        window.used_s += vcpu_s[0] - self._vcpu_s[0]
        window.waited_s += vcpu_s[1] - self._vcpu_s[1]
        self._busy_s, self._vcpu_s = busy_s, vcpu_s
        there = self._ran_on(here, *self.neighbours)
        window.neighbours_s += sum(there)
        window.seen += len(there)
        window.looks += 1

    def _ran_on(self, cpu: int, *pids: int) -> list[float]:
        """How long each thread ran that did so since the last look, and last on *cpu*.

        A thread that slept all the time may still be told to be where it was before it was moved.
        """
        found = []
        for thread in [each.thread_id for pid in pids for each in threads(pid)]:
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended as we looked
                ran_s, _ = run_and_waited_s(thread)
                before_s = self._ran_s.get(thread, ran_s)
                self._ran_s[thread] = ran_s
                if ran_s > before_s and cpu_of(thread) == cpu:
                    found.append(ran_s - before_s)
        return found


def run_and_waited_s(thread: int) -> tuple[float, float]:
    ran, waited, _ = Path(f"/proc/{thread}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


def cpu_of(thread: int) -> int:
    """Where it runs, or ran last."""
    return int(Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[36])


def busy_by_cpu_s() -> dict[int, float]:
    """CPU time that was used on each of the two CPUs, by whomever."""
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *spent = line.split()
        if name in {f"cpu{each}" for each in CPUS}:
            user, nice, system, _idle, _iowait, interrupts, soft = map(int, spent[:7])
            ticks = user + nice + system + interrupts + soft
            found[int(name.removeprefix("cpu"))] = ticks / _TICKS
    return found


def alternate(guests: Guests, pairs_wanted: int, check: Callable[[], None]) -> Outcome:
    windows: dict[bool, list[Window]] = {True: [], False: []}
    for number in range(pairs_wanted):
        # what changes slowly is not to favour either
        for run in (True, False) if number % 2 else (False, True):
            guests.let_neighbours(run=run)
            time.sleep(SETTLE_S)
            windows[run].append(guests.watch(check))
    guests.let_neighbours(run=True)
    pairs = list(zip(windows[True], windows[False], strict=True))
    return Outcome(
        [beside.share / alone.share for beside, alone in pairs],
        [beside.share_beside_others / alone.share_beside_others for beside, alone in pairs],
        looks=sum(each.looks for each in windows[True]),
        seen=sum(each.seen for each in windows[True]),
    )


@contextmanager
def watching_from(cpu: int) -> Iterator[None]:
    """So that looking takes nothing of what is looked at."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def unpin(guests: Guests) -> None:
    """As they would run without levels: anywhere, and weighing the same."""
    everywhere = tuple(cpu in CPUS for cpu in range(CPUS[-1] + 1))
    for domain, pid in zip(guests.domains, (guests.premium, *guests.neighbours), strict=True):
        domain.pinVcpuFlags(0, everywhere, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        domain.pinEmulator(everywhere, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        with suppress(libvirt.libvirtError):  # where there are no cgroups
            domain.setSchedulerParametersFlags({"cpu_shares": 1024}, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        for partition in partitions(pid):
            (partition / "cpuset.cpus").write_text(format_cpulist(CPUS))
        assert {thread.cpus for thread in vcpu_threads(pid).values()} == {CPUS}


def partitions(pid: int) -> list[Path]:
    """With cgroup v2, the one that the process' level has."""
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = [line.removeprefix("0::/") for line in groups if line.startswith("0::/")]
    folders = [_CGROUPS / path for path in paths]
    above = [each for folder in folders for each in (folder, *folder.parents)]
    return [each for each in above if "vmstack_l" in each.name]


def test_a_premium_vm_keeps_its_cpu_to_itself(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = real_host(lab, tmp_path)
    online = parse_cpulist(Path("/sys/devices/system/cpu/online").read_text().strip())
    excluded = format_cpulist([cpu for cpu in online if cpu not in CPUS])
    premium, *neighbours = [lab.name(stem) for stem in ("premium", *("shared",) * 3)]
    with host.service("lab.burn=1", TOPO_EXCLUDE=excluded) as driver:
        for name in neighbours:
            driver.deployed(name, level="3")
        driver.wait_until_all_burn(neighbours)
        driver.deployed(premium, level="1")  # takes back the CPU that they borrowed
        wait_for_line(host.console(premium), "^guest burns")
        (own,) = driver.vm(premium)["pinned_cpus"]
        (shared,) = {*CPUS} - {own}
        guests = Guests(lab, premium, neighbours)

        def check() -> None:
            assert set(thread_pins(guests.premium).values()) == {(own,)}
            for pid in guests.neighbours:
                assert set(thread_pins(pid).values()) == {(shared,)}

        with watching_from(shared):
            pinned = alternate(guests, PAIRS, check)
    # nobody puts right any more what differs from the plan
    unpin(guests)
    unpinned = alternate(guests, CONTRAST_PAIRS, lambda: None)
    guests.close()
    with capsys.disabled():
        print(f"\na 1:1 VM beside three burning 3:1 VMs keeps {pinned.sentence}")  # noqa: T201
        print(f"the same four unpinned: it keeps {unpinned.sentence}")  # noqa: T201
    assert pinned.looks > PAIRS
    assert pinned.seen == 0
    assert median(pinned.ratios) >= BOUND
    assert unpinned.seen > 0, "neighbours are seen where they are"
    assert median(unpinned.ratios) < median(pinned.ratios)
