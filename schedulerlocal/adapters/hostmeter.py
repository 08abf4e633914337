"""The usage of a real host: one call to libvirt for all VMs, and what ``/proc`` adds to it.

One emulator that hangs can hold up libvirt's answer about all of them. Then ``/proc`` has to do,
which still tells how long VMs wait; and until that call has ended no other is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from schedulerlocal.adapters.guestthreads import GuestThreads
from schedulerlocal.adapters.hostcounters import HostCounters
from schedulerlocal.adapters.libvirtstats import Stats, read_stats
from schedulerlocal.core.topology import Cpus
from schedulerlocal.core.waiting import LEAST_CPUS, demand
from schedulerlocal.ports import HostUsage, VmUsage

_PATIENCE_S = 5.0

_log = logging.getLogger(__name__)


class Told(Protocol):
    """What is needed of the link to libvirt."""

    def all_stats(self) -> Coroutine[Any, Any, Iterable[Stats]]: ...


class HostMeter:
    """*cpus* are those VMs may use; *now_s* is monotonic."""

    def __init__(
        self,
        link: Told,
        cpus: Cpus,
        now_s: Callable[[], float],
        counters: HostCounters | None = None,
        threads: GuestThreads | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._link = link
        self._cpus = cpus
        self._now_s = now_s
        self._counters = counters or HostCounters()
        self._threads = threads or GuestThreads()
        self._patience_s = patience_s
        self._before: HostUsage | None = None
        self._asked: asyncio.Task[Iterable[Stats]] | None = None

    async def usage(self) -> HostUsage:
        """Raises HypervisorError."""
        told: Iterable[Stats]
        try:
            async with asyncio.timeout(self._patience_s):
                told = await asyncio.shield(self._under_way())
        except TimeoutError:
            _log.warning("libvirt is late with what VMs use, as when an emulator hangs")
            told = [(name, {}) for name in self._before.vms] if self._before else []
        return await asyncio.to_thread(self._read, told, self._now_s())

    def _under_way(self) -> asyncio.Task[Iterable[Stats]]:
        """The call to libvirt that was given up and goes on, or a new one."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._link.all_stats(), name="statistics")
            # one nobody waits for any more may fail
            self._asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._asked

    def _read(self, told: Iterable[Stats], at_s: float) -> HostUsage:
        shares = self._counters.cpu_shares()
        ours = [shares[cpu] for cpu in self._cpus if cpu in shares]
        before = self._before
        self._before = HostUsage(
            at_s=at_s,
            cpu_share=sum(ours) / len(ours) if ours else None,
            memory_share=self._counters.memory_share(),
            cpu_shares=shares,
            vms=self._completed(read_stats(told), before, at_s),
        )
        return self._before

    def _completed(
        self, vms: Mapping[str, VmUsage], before: HostUsage | None, at_s: float
    ) -> dict[str, VmUsage]:
        earlier = before.vms if before else {}
        elapsed_s = at_s - before.at_s if before else 0.0
        completed = {}
        for name, usage in vms.items():
            if not usage.vcpus:
                usage = replace(usage, vcpus=self._threads.times(name))
            then = earlier.get(name)
            wanted = demand(then.vcpus, usage.vcpus) if then else None
            if wanted is not None and wanted.waited_s > LEAST_CPUS * elapsed_s:
                # perhaps by a quota of its own: that takes looking at each of its threads
                usage = replace(usage, throttled_s=self._threads.throttled_s(name))
            completed[name] = usage
        return completed
