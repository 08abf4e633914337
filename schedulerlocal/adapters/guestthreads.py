"""A guest's vCPUs as the kernel has them: where libvirt is too old to tell how long they wait, or
an emulator hangs; and how long a quota stopped them, which libvirt never tells.

libvirt writes down the process of each guest, QEMU names its threads. Whatever is missing is
missing: a guest may end at any moment, and libvirtd may run elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schedulerlocal.core.waiting import VcpuTime

_VCPU = re.compile(r"CPU ([0-9]+)/")
_CPU_GROUP = re.compile(r"^[0-9]+:(?P<controllers>[^:]*):(?P<path>/.*)$", re.MULTILINE)
_THROTTLED = re.compile(r"^throttled_(time|usec) ([0-9]+)$", re.MULTILINE)
_UNITS_S = {"time": 1e-9, "usec": 1e-6}
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class GuestThreads:
    """*root* holds ``proc`` and ``sys``; *pids* has a file ``NAME.pid`` for each guest."""

    root: Path = Path("/")
    pids: Path = Path("/run/libvirt/qemu")

    def times(self, name: str) -> dict[int, VcpuTime]:
        """The counters of the vCPUs of the guest called *name*; empty if it cannot be found."""
        times = {}
        for vcpu, thread in self._vcpus(name):
            match _text(thread / "schedstat").split():
                case [ran, waited, _]:
                    times[vcpu] = VcpuTime(int(ran) * _NS, int(waited) * _NS)
        return times

    def throttled_s(self, name: str) -> float:
        """How long quotas stopped the vCPUs of the guest called *name* since it started."""
        return sum(self._group_throttled_s(thread) for _, thread in self._vcpus(name))

    def _group_throttled_s(self, thread: Path) -> float:
        groups = self.root / "sys/fs/cgroup"
        for found in _CPU_GROUP.finditer(_text(thread / "cgroup")):
            controllers = found["controllers"].split(",")
            if "cpu" in controllers:
                tree = groups / "cpu"
            elif controllers == [""]:  # version 2 has one tree for all
                tree = groups
            else:
                continue
            stat = _text(tree / found["path"].lstrip("/") / "cpu.stat")
            if throttled := _THROTTLED.search(stat):
                return int(throttled[2]) * _UNITS_S[throttled[1]]
        return 0.0

    def _vcpus(self, name: str) -> Iterator[tuple[int, Path]]:
        pid = _text(self.pids / f"{name}.pid").strip()
        if not pid.isdecimal():
            return
        try:
            threads = list((self.root / "proc" / pid / "task").iterdir())
        except OSError:
            return
        for thread in threads:
            if vcpu := _VCPU.match(_text(thread / "comm")):
                yield int(vcpu[1]), thread


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except (OSError, ValueError):
        return ""
