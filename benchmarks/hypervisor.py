"""What the real hypervisor costs us, with libvirt's test driver in the place of QEMU.

First our own CPU time for a deploy and for a removal, see :mod:`benchmarks.hypervisorcost`. Then
requests per second, with 60 VMs there, of a service that is a process of its own, each VM on an
image of its own. The test driver knows but eight CPUs, so that what it says of pins is reported and
not repaired.
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
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import Figure, Progress
from benchmarks.hypervisorplace import MEMORY_MIB, THERE, TOPOLOGY, Place
from benchmarks.processes import ROOT, NotMeasured, apart
from benchmarks.undisturbed import ADDING, Probe

if TYPE_CHECKING:
    from benchmarks.hypervisorcost import Spent

VMS = 60
CLIENTS, PAIRS_EACH = 4, 150
RATE_BOUND = 150

_PATIENCE_S = 30.0


def run(progress: Progress) -> list[Figure]:
    """Raises NotMeasured where there is no libvirt."""
    try:
        import libvirt  # noqa: F401
    except ImportError as problem:
        raise NotMeasured("libvirt-python is not here; run make setup and read it") from problem
    if not shutil.which("qemu-img"):
        raise NotMeasured("qemu-img is not here; install qemu-utils")
    from benchmarks.hypervisorcost import costs

    spent: dict[str, Spent] = {}
    with apart(scheduler=True):  # on one CPU, for which alone the probe speaks
        probe = Probe()
        for pins in (False, True):
            with ExitStack() as places:

                def place(places: ExitStack = places) -> Place:
                    return Place(Path(places.enter_context(tempfile.TemporaryDirectory())))

                spent |= asyncio.run(costs(place, progress, probe, pins=pins))
    figures = [figure for about, each in spent.items() for figure in each.figures(about)]
    slowest_ns = probe.limits()[ADDING]
    figures.append(Figure("numbers added up beside undisturbed rounds", slowest_ns / 1e6, "ms"))
    with tempfile.TemporaryDirectory() as directory:
        return [*figures, _rate(Place(Path(directory)), progress)]


def _rate(place: Place, progress: Progress) -> Figure:
    there = [f"vm{number}" for number in range(VMS)]
    extra = [f"extra{client}" for client in range(CLIENTS)]
    place.images([*there, *extra])
    with _service(place) as port:
        progress(f"filling a host with {VMS} VMs")
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
    name = f"deploys and removals in place, {VMS} VMs there"
    return Figure(name, rate, "1/s", RATE_BOUND, at_least=True)


def _deploy(place: Place, name: str, number: int) -> tuple[str, str, str | None]:
    vcpus, level = THERE[number % len(THERE)]
    about = {"name": name, "vcpus": vcpus, "memory_mib": MEMORY_MIB, "level": level}
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
