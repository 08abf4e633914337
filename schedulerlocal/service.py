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
from random import SystemRandom

from schedulercommon.errors import HypervisorError
from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.monitoringcsv import LiveWriter, WholeRecords
from schedulerlocal.adapters.topologyjson import write_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import HostSettings, LibvirtSettings, ServiceSettings, journal_directory
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper
from schedulerlocal.monitoring import Monitor
from schedulerlocal.ports import Hypervisor
from schedulerprocess.collector import calm_collector
from schedulerprocess.lifetime import ended, stop_on_signals, stopped_before
from schedulerprocess.logs import log_to_stderr
from schedulerweb.server import urls

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RealHypervisor:
    """What the operator decided about libvirt."""

    libvirt: LibvirtSettings
    host: HostSettings


@dataclass(frozen=True, slots=True)
class ServiceFiles:
    """What ``--debug`` writes, and where."""

    output: Path
    write: bool


def run_service(
    host: Host, settings: ServiceSettings, real: RealHypervisor | None, files: ServiceFiles
) -> None:
    """Serve until a signal, simulated unless *real*; raises VmStackError if that cannot begin."""
    log_to_stderr()
    asyncio.run(_serve(host, settings, real, files))


async def _serve(
    host: Host, settings: ServiceSettings, real: RealHypervisor | None, files: ServiceFiles
) -> None:
    stop = stop_on_signals()
    boot_id = _boot_id()
    state_dir = journal_directory(settings, simulated=real is None)
    hypervisor = (
        _simulated(host, settings)
        if real is None
        else _on_libvirt(host, settings, real, state_dir, boot_id)
    )
    keeper = HostKeeper(
        host,
        hypervisor,
        FileJournal(state_dir, boot_id),
        now_s=time.time,
        repair=settings.repair,
        call_timeout_s=settings.call_timeout_s,
        boot_id=boot_id,
    )
    agent = HostAgent(settings.name, keeper)
    monitor = Monitor(agent, hypervisor, judged=keeper.note_crowding)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.close)
        runner = await serve(create_app(agent, settings, monitor), settings.address, settings.port)
        stack.push_async_callback(runner.cleanup)
        for url in urls(runner):
            _log.info("listening on %s", url)
        starting = asyncio.create_task(keeper.start(), name="start")
        stack.push_async_callback(ended, starting)
        if await stopped_before(stop, starting):
            _log.info("stopping: it was not ready yet")
            return
        _log.info("local scheduler of %s is ready; VMs found: %d", agent.name, len(agent.states))
        if files.write:
            file = stack.enter_context(WholeRecords(_cleared(files.output / "monitoring.csv")))
            write_topology(files.output / "topology_local.json", host.topology)
            monitor.record(LiveWriter(file))
        tasks = [
            asyncio.create_task(keeper.keep_watch(settings.delay_s), name="watch"),
            asyncio.create_task(monitor.run(settings.delay_s, asyncio.sleep), name="monitoring"),
        ]
        for task in tasks:
            stack.push_async_callback(ended, task)
        calm_collector()
        await stop.wait()
        _log.info("stopping: the plan in hand is finished first")


def _simulated(host: Host, settings: ServiceSettings) -> Hypervisor:
    from schedulerlocal.adapters.simulated import SimulatedHypervisor, parse_faults

    return SimulatedHypervisor(
        host,
        state_file=settings.simulated_state,
        image_dirs=settings.image_dirs,
        faults=parse_faults(settings.simulated_faults),
        now_s=time.monotonic,
        sleep=asyncio.sleep,
    )


def _on_libvirt(
    host: Host, settings: ServiceSettings, real: RealHypervisor, state_dir: Path, boot_id: str
) -> Hypervisor:
    """Raises ConfigError for a template that cannot be used, HypervisorError without libvirt."""
    try:
        from schedulerlocal.adapters.libvirt import Connections
    except ImportError as problem:
        raise HypervisorError(
            f"libvirt cannot be driven: {problem}; install libvirt-dev, pkg-config, gcc and"
            " python3-dev and run make setup again, or simulate a host with"
            " --topology=debug/topology_EPYC-7662.json"
        ) from problem
    from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
    from schedulerlocal.adapters.libvirtlink import LibvirtLink
    from schedulerlocal.adapters.partitions import Partitions, find_tree
    from schedulerlocal.adapters.storage import Storage

    storage = Storage(
        image_dirs=settings.image_dirs,
        disk_dir=real.libvirt.disk_dir or settings.image_dirs[0],
        notes_dir=state_dir.absolute() / "disks",
        host_name=settings.name,
        timeout_s=settings.call_timeout_s / 2,
    )
    ours = real.libvirt.url.startswith("qemu:///system")
    tree = find_tree() if ours else "QEMU_URL is not of this machine's own libvirtd"
    if isinstance(tree, str):
        _log.info("VMs are pinned one by one: %s", tree)
    around = Surroundings(
        state_dir=state_dir,
        boot_id=boot_id,
        host_cpus=real.host.host_cpus,
        call_timeout_s=settings.call_timeout_s,
        now_s=time.monotonic,
        wall_s=time.time,
        rng=SystemRandom(),
        partitions=None if isinstance(tree, str) else Partitions(tree),
    )
    link = LibvirtLink(Connections(real.libvirt.url, rng=around.rng))
    return LibvirtHypervisor(host, link, storage, real.libvirt, around)


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
