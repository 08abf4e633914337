"""How busy the host's CPUs are and how full its memory is, from ``/proc``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from schedulercommon.errors import HypervisorError

# user nice system idle iowait irq softirq steal; a guest's time is in user and nice already
_CPU = re.compile(rb"^cpu([0-9]+)((?: [0-9]+){8})", re.MULTILINE)
_MEMORY = re.compile(rb"^Mem(Total|Available):\s+([0-9]+) kB$", re.MULTILINE)
_IDLE = slice(3, 5)


@dataclass(frozen=True, slots=True)
class _Ticks:
    all: int
    idle: int


class HostCounters:
    """*root* holds ``proc``; readings raise HypervisorError."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._stat = root / "proc/stat"
        self._meminfo = root / "proc/meminfo"
        self._before: dict[int, _Ticks] = {}

    def cpu_shares(self) -> dict[int, float]:
        """By CPU, how busy since the last reading, 0 to 1; empty at the first.

        A CPU that is offline is missing, and so is one that was, until it is read once more.
        """
        before, self._before = self._before, _ticks(_read(self._stat))
        shares = {}
        for cpu, now in self._before.items():
            then = before.get(cpu)
            if then is not None and now.all > then.all:
                # the kernel's idle time sometimes falls a little
                idle = (now.idle - then.idle) / (now.all - then.all)
                shares[cpu] = min(max(1.0 - idle, 0.0), 1.0)
        return shares

    def memory_share(self) -> float:
        """Of all memory, what programs have and cannot be had back at once."""
        found = {name: int(kib) for name, kib in _MEMORY.findall(_read(self._meminfo))}
        if not found.get(b"Total") or b"Available" not in found:
            raise HypervisorError(
                f"{self._meminfo} does not say MemTotal and MemAvailable; mount /proc"
            )
        return min(max(1.0 - found[b"Available"] / found[b"Total"], 0.0), 1.0)


def _ticks(stat: bytes) -> dict[int, _Ticks]:
    ticks = {}
    for cpu, fields in _CPU.findall(stat):
        counts = [int(each) for each in fields.split()]
        ticks[int(cpu)] = _Ticks(sum(counts), sum(counts[_IDLE]))
    return ticks


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise HypervisorError(f"{path} cannot be read: {problem.strerror}; mount /proc") from None
