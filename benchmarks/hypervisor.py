"""What the real hypervisor costs us, with libvirt's test driver in the place of QEMU.

First our own CPU time for a deploy and for a removal with 200 VMs there: all of the process but
libvirt's threads, in which its client library and, here, all of its work is; ``qemu-img`` is a
process of its own. The VM's level grows and shrinks again, once as with cgroup v2, where that is
one write (to plain files here), once as without, where all its VMs are pinned anew. Then requests
per second, with 60 VMs there, of a service that is a process of its own, each VM on an image of its
own. The test driver knows but eight CPUs, so that what it says of pins is reported and not
repaired.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from benchmarks import Figure, Progress
from benchmarks.processes import ROOT, NotMeasured, apart
from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.partitions import Hands, Partitions, Tree
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import LibvirtSettings
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper
from schedulerprocess.collector import calm_collector

TOPOLOGY = ROOT / "debug" / "topology_EPYC-7662.json"
THERE = ((1, "1"), (2, "2"), (2, "2"), (2, "3"), (4, "3"), (2, "3"))
EXTRA = ((1, "1"), (1, "3"), (2, "2"))
VMS_COSTS, VMS_RATE = 200, 60
ROUNDS = 30
CLIENTS, PAIRS_EACH = 4, 150
COST_BOUND_MS = 3
RATE_BOUND = 150

_MEMORY_MIB = 1024
_PATIENCE_S = 30.0
_MACHINE = """<node>
<cpu><mhz>2000</mhz><model>x86_64</model><active>256</active><nodes>2</nodes>
<sockets>1</sockets><cores>64</cores><threads>2</threads></cpu><memory>1056514048</memory>
</node>"""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a machine for the test driver, and as many images as are asked for."""

    directory: Path

    @property
    def url(self) -> str:
        path = self.directory / "machine.xml"
        path.write_text(_MACHINE)
        return f"test://{path}"

    def image(self, name: str) -> str:
        path = self.directory / "images" / f"{name}.qcow2"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"]
            subprocess.run(command, check=True)
        return str(path)

    def partitions(self) -> Partitions:
        """Of all levels there will be, in files that grant what is written."""

        def write(path: Path, text: str) -> None:
            path.write_text(text)

        tree = Tree(self.directory / "cgroup", slices=False, hands=Hands(write=write))
        for level in {level for _, level in THERE}:
            folder = tree.folder(parse_level(level))
            folder.mkdir(parents=True)
            (folder / "cpuset.cpus").touch()
            (folder / "cpuset.cpus.effective").symlink_to("cpuset.cpus")
            (folder / "cgroup.events").write_text("populated 1\n")
        return Partitions(tree)

    def images(self, names: Sequence[str]) -> None:
        """Have an image for each of *names*."""
        first = self.image(names[0])
        for name in names[1:]:
            shutil.copyfile(first, self.directory / "images" / f"{name}.qcow2")


def run(progress: Progress) -> list[Figure]:
    """Raises NotMeasured where there is no libvirt."""
    try:
        import libvirt  # noqa: F401
    except ImportError as problem:
        raise NotMeasured("libvirt-python is not here; run make setup and read it") from problem
    if not shutil.which("qemu-img"):
        raise NotMeasured("qemu-img is not here; install qemu-utils")
    figures = []
    for pins in (False, True):
        with tempfile.TemporaryDirectory() as directory:
            figures += asyncio.run(_costs(Place(Path(directory)), progress, pins=pins))
    with tempfile.TemporaryDirectory() as directory:
        return [*figures, _rate(Place(Path(directory)), progress)]


# --- our own CPU time -----------------------------------------------------------------------------


async def _costs(place: Place, progress: Progress, *, pins: bool) -> list[Figure]:
    names = [f"vm{number}" for number in range(VMS_COSTS)]
    place.images(["extra", *names])
    agent, calls = await _started(place, pins=pins)
    for number, name in enumerate(names):
        progress(f"filling a host, VM {number} of {VMS_COSTS}")
        await agent.deploy(_spec(place, name, *THERE[number % len(THERE)], disk="in-place"))
    calm_collector()
    figures = []
    for disk in ("overlay", "in-place"):
        for vcpus, level in EXTRA:
            progress(f"deploying and removing, {disk}, {vcpus} vCPUs at {level}")
            spec = _spec(place, "extra", vcpus, level, disk=disk)
            calls.clear()
            spent = [
                (await _own_ms(agent.deploy(spec)), await _own_ms(agent.remove("extra")))
                for _ in range(ROUNDS)
            ]
            deploys, removes = zip(*spent, strict=True)
            about = f"{disk}, level {level}:1"
            about += f", {calls['pinned'] // ROUNDS // 2} VMs pinned" if pins else ""
            bound = None if pins else COST_BOUND_MS
            figures += [
                Figure(f"a deploy, {about}", median(deploys), "ms", bound),
                Figure(f"a removal, {about}", median(removes), "ms", bound),
            ]
    await agent.close()
    return figures


async def _started(place: Place, *, pins: bool) -> tuple[HostAgent, Counter[str]]:
    """An agent that is ready, and the count of the calls it makes."""
    from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
    from schedulerlocal.adapters.libvirt import Connections
    from schedulerlocal.adapters.libvirtlink import LibvirtLink
    from schedulerlocal.adapters.storage import Storage

    host = Host(read_topology(TOPOLOGY))
    link = LibvirtLink(Connections(place.url, rng=Random(1)))
    storage = Storage(
        image_dirs=[place.directory / "images"],
        disk_dir=place.directory,
        notes_dir=place.directory / "notes",
        host_name="here",
    )
    around = Surroundings(
        state_dir=place.directory / "state",
        boot_id="",
        host_cpus=(),
        call_timeout_s=_PATIENCE_S,
        now_s=lambda: 0.0,  # so that nobody reads all of it again meanwhile
        wall_s=time.time,
        rng=Random(1),
        partitions=None if pins else place.partitions(),
    )
    settings = LibvirtSettings(kind="qemu", network="none")
    hypervisor = LibvirtHypervisor(host, link, storage, settings, around)
    journal = FileJournal(place.directory / "journal")
    keeper = HostKeeper(host, hypervisor, journal, now_s=time.time)
    await keeper.start()
    return HostAgent("here", keeper), link.calls


async def _own_ms(change: Awaitable[object]) -> float:
    before_ns = _own_ns()
    await change
    return (_own_ns() - before_ns) / 1e6


def _own_ns() -> int:
    """CPU time of this process without libvirt's threads, which do not end."""
    theirs = [each.ident for each in threading.enumerate() if each.name.startswith("libvirt")]
    clocks = [time.pthread_getcpuclockid(ident) for ident in theirs if ident]
    return time.process_time_ns() - sum(map(time.clock_gettime_ns, clocks))


def _spec(place: Place, name: str, vcpus: int, level: str, *, disk: str) -> VmSpec:
    return VmSpec(
        name=name,
        vcpus=vcpus,
        memory_mib=_MEMORY_MIB,
        level=parse_level(level),
        image=place.image(name),
        disk=disk,
    )


# --- requests per second --------------------------------------------------------------------------


def _rate(place: Place, progress: Progress) -> Figure:
    there = [f"vm{number}" for number in range(VMS_RATE)]
    extra = [f"extra{client}" for client in range(CLIENTS)]
    place.images([*there, *extra])
    with _service(place) as port:
        progress(f"filling a host with {VMS_RATE} VMs")
        _ask(port, [_deploy(place, name, number) for number, name in enumerate(there)])
        progress(f"asking {2 * CLIENTS * PAIRS_EACH} requests")
        pairs = [
            [
                each
                for number in range(PAIRS_EACH)
                for each in (_deploy(place, name, number), ("DELETE", f"/v1/vms/{name}", None))
            ]
            for name in extra
        ]
        with apart(scheduler=False), ThreadPoolExecutor(CLIENTS) as clients:
            begun_s = time.perf_counter()
            list(clients.map(lambda asked: _ask(port, asked), pairs))
            rate = 2 * CLIENTS * PAIRS_EACH / (time.perf_counter() - begun_s)
    name = f"deploys and removals in place, {VMS_RATE} VMs there"
    return Figure(name, rate, "1/s", RATE_BOUND, at_least=True)


def _deploy(place: Place, name: str, number: int) -> tuple[str, str, str | None]:
    vcpus, level = THERE[number % len(THERE)]
    about = {"name": name, "vcpus": vcpus, "memory_mib": _MEMORY_MIB, "level": level}
    body = {**about, "image": place.image(name), "disk": "in-place"}
    return "POST", "/v1/vms", json.dumps(body)


def _ask(port: int, asked: Sequence[tuple[str, str, str | None]]) -> None:
    """One after another; raises NotMeasured for a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    headers = {"Content-Type": "application/json"}
    for method, path, body in asked:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status not in (200, 201):
            raise NotMeasured(f"{method} {path} was answered {answer.decode()[:300]}")
    connection.close()


@contextmanager
def _service(place: Place) -> Iterator[int]:
    """A local scheduler that is ready, by its port; ended at the end."""
    settings = {
        "SCL_HYPERVISOR": "libvirt",
        "SCL_PORT": "0",
        "SCL_STATE_DIR": str(place.directory / "state"),
        "SCL_IMAGE_DIRS": str(place.directory / "images"),
        "SCL_REPAIR": "report",
        "QEMU_URL": place.url,
        "QEMU_TYPE": "qemu",
        "QEMU_NETWORK": "none",
        "PYTHONPATH": str(ROOT),
    }
    printed = place.directory / "printed.txt"
    with apart(scheduler=True), printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "schedulerlocal", f"--topology={TOPOLOGY}"],
            cwd=place.directory,
            env={**os.environ, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _port(process, printed)
    finally:
        process.kill()
        process.wait()


def _port(process: subprocess.Popen[bytes], printed: Path) -> int:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        said = printed.read_text(errors="replace")
        port = re.search(r"listening on http://127\.0\.0\.1:(\d+)", said)
        if port and "is ready" in said:
            return int(port[1])
        time.sleep(0.02)
    raise NotMeasured(f"the service does not come up: {printed.read_text()[-1000:].strip()}")
