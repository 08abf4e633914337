"""Monitoring: what levels and VMs use, read every so often, shown and recorded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from schedulercommon.errors import HypervisorError, OutputError
from schedulercommon.levels import Level
from schedulercommon.model import VmState
from schedulerlocal.core.state import HostState
from schedulerlocal.core.waiting import Crowding, crowded
from schedulerlocal.ports import HostUsage
from schedulerlocal.readings import Readings, read_usage

_log = logging.getLogger(__name__)

_LEAST_TIMEOUT_S = 1.0
_SAME_BEAT = 0.1  # of the delay


class Watched(Protocol):
    """What monitoring needs of the agent."""

    @property
    def state(self) -> HostState: ...
    @property
    def states(self) -> Mapping[str, VmState]: ...


class Metered(Protocol):
    """What monitoring needs of the hypervisor."""

    async def usage(self) -> HostUsage: ...


class Recorder(Protocol):
    def write(self, state: HostState, readings: Readings) -> None:
        """Raises OutputError."""


Judged = Callable[[Mapping[Level, Crowding], Mapping[Level, float | None]], None]
"""Told after each reading which levels' VMs wait too long, and how long those of each level do."""


class Monitor:
    """``readings`` are the latest, None before the first and while nothing can be read."""

    def __init__(
        self,
        agent: Watched,
        hypervisor: Metered,
        recorder: Recorder | None = None,
        judged: Judged | None = None,
    ) -> None:
        self.readings: Readings | None = None
        self.crowding: Mapping[Level, Crowding] = {}
        """Of the levels that are not calm."""
        self._agent = agent
        self._hypervisor = hypervisor
        self._recorder = recorder
        self._judged = judged
        self._before: HostUsage | None = None

    def record(self, recorder: Recorder) -> None:
        """From now on, write every reading there."""
        self._recorder = recorder

    async def run(
        self,
        delay_s: float,
        sleep: Callable[[float], Awaitable[None]],
        timeout_s: float | None = None,
    ) -> None:
        """Read every *delay_s*, for ever; a reading that fails is logged.

        So is one that takes longer than *timeout_s*, by default *delay_s* or a second.
        """
        first_s: float | None = None
        if timeout_s is None:
            timeout_s = max(delay_s, _LEAST_TIMEOUT_S)
        while True:
            wait_s = delay_s
            try:
                async with asyncio.timeout(timeout_s):
                    at_s = (await self.read()).at_s
            except HypervisorError as problem:
                _log.warning("reading the usage failed: %s", problem)
                self.readings = None
            except TimeoutError:
                _log.warning("the hypervisor did not tell the usage in time; trying again")
                self.readings = None
            except Exception:  # noqa: BLE001 (the loop lives)
                _log.exception("reading the usage failed unexpectedly")
                self.readings = None
            else:
                if first_s is None:
                    first_s = at_s
                # on the beat, however long readings take; a beat just ahead has been read now
                wait_s -= (at_s - first_s) % delay_s
                if wait_s < delay_s * _SAME_BEAT:
                    wait_s += delay_s
            await sleep(wait_s)

    async def read(self) -> Readings:
        """Take one reading; raises HypervisorError.

        Two in one tick of the clock are one: the earlier stands and is returned.
        """
        usage = await self._hypervisor.usage()
        before = self._before
        if before is not None and self.readings is not None and usage.at_s <= before.at_s:
            return self.readings
        state = self._agent.state
        readings = read_usage(state, self._agent.states, before, usage)
        self._before, self.readings = usage, readings
        shares = {level: each.waiting for level, each in readings.levels.items()}
        self.crowding = crowded(self.crowding, shares)
        if self._judged is not None:
            self._judged(self.crowding, shares)
        if self._recorder is not None:
            try:
                self._recorder.write(state, readings)
            except OutputError as problem:
                _log.error("recording ends here: %s", problem)
                self._recorder = None
        return readings
