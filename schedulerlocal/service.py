"""``python -m schedulerlocal`` without a trace: the service, from its start to its end.

The port is opened first, so that whoever waits for ``/readyz`` finds it; the state is read next;
only then are changes taken. A signal ends it once the plan in hand is finished.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.monitoringcsv import LiveWriter, WholeRecords
from schedulerlocal.adapters.simulated import SimulatedHypervisor, parse_faults
from schedulerlocal.adapters.topologyjson import write_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import ServiceSettings, journal_directory
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper
from schedulerlocal.monitoring import Monitor
from schedulerprocess.collector import calm_collector
from schedulerprocess.lifetime import ended, stop_on_signals, stopped_before
from schedulerweb.server import urls

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceFiles:
    """What ``--debug`` writes, and where."""

    output: Path
    write: bool


def run_service(host: Host, settings: ServiceSettings, files: ServiceFiles) -> None:
    """Serve until a signal; raises VmStackError if that cannot begin."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    asyncio.run(_serve(host, settings, files))


async def _serve(host: Host, settings: ServiceSettings, files: ServiceFiles) -> None:
    stop = stop_on_signals()
    hypervisor = SimulatedHypervisor(
        host,
        state_file=settings.simulated_state,
        image_dirs=settings.image_dirs,
        faults=parse_faults(settings.simulated_faults),
        now_s=time.monotonic,
        sleep=asyncio.sleep,
    )
    boot_id = _boot_id()
    keeper = HostKeeper(
        host,
        hypervisor,
        FileJournal(journal_directory(settings, simulated=True), boot_id),
        now_s=time.time,
        repair=settings.repair,
        call_timeout_s=settings.call_timeout_s,
        boot_id=boot_id,
    )
    agent = HostAgent(settings.name, keeper)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.close)
        runner = await serve(create_app(agent, settings), settings.address, settings.port)
        stack.push_async_callback(runner.cleanup)
        for url in urls(runner):
            _log.info("listening on %s", url)
        starting = asyncio.create_task(keeper.start(), name="start")
        stack.push_async_callback(ended, starting)
        if await stopped_before(stop, starting):
            _log.info("stopping: it was not ready yet")
            return
        _log.info("local scheduler of %s is ready; VMs found: %d", agent.name, len(agent.states))
        writer = None
        if files.write:
            file = stack.enter_context(WholeRecords(_cleared(files.output / "monitoring.csv")))
            write_topology(files.output / "topology_local.json", host.topology)
            writer = LiveWriter(file)
        monitor = Monitor(agent, hypervisor, writer)
        tasks = [
            asyncio.create_task(keeper.keep_watch(settings.delay_s), name="watch"),
            asyncio.create_task(monitor.run(settings.delay_s, asyncio.sleep), name="monitoring"),
        ]
        for task in tasks:
            stack.push_async_callback(ended, task)
        calm_collector()
        await stop.wait()
        _log.info("stopping: the plan in hand is finished first")


def _cleared(recording: Path) -> Path:
    """*recording*, out of whose way an earlier one and its refusals were moved."""
    for path in (recording, recording.with_name("rejections.csv")):
        if path.is_file():
            path.replace(path.with_name(path.name + ".old"))
            _log.info("%s of an earlier run is kept as %s.old", path, path.name)
    return recording


def _boot_id() -> str:
    """Which boot of the machine this is; tells a restart of ours from one of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
