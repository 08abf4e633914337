"""What a request costs the local scheduler, in CPU time of its thread, beside an empty handler.

The service is the real one over a simulated hypervisor in memory, with 60 VMs; beside it, in the
same loop, an aiohttp application whose only handler answers nothing. One client in a process of
its own keeps a connection to each and asks them in turn, one request here, one there, so that
both meet the same machine in the same state. A request's cost is the time between its bytes
reaching the server and those of the next one doing so; figures are medians over requests.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import thread_time_ns

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from benchmarks import Figure, Progress
from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import ServiceSettings
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper
from schedulerprocess.collector import calm_collector

TOPOLOGY = Path(__file__).resolve().parent.parent / "debug" / "topology_EPYC-7662.json"
IMAGE = "/var/lib/libvirt/images/hello.qcow2"
THERE = ((1, "1"), (2, "1"), (4, "2"), (2, "2"), (2, "3"), (4, "3"))
VMS = 60
ROUNDS = 150
WARM_UP = 10
PAIR_BOUND = 6
READ_BOUND = 2

_SIZES = ("cpu=1&mem=2&oc=1", "cpu=4&mem=8&oc=2", "cpu=2&mem=4&oc=3", "cpu=8&mem=16&oc=2")
_PAIRS = tuple(
    target
    for size in _SIZES
    for target in (f"/deploy?name=extra&{size}&qcow2={IMAGE}", "/remove?name=extra")
)
KINDS = {
    "deploy+remove": _PAIRS,
    "/status": ("/status",),
    "/progress": tuple(f"/progress?{size}" for size in _SIZES),
    "/listvm": ("/listvm",),
    "/v1/host": ("/v1/host",),
    "/v1/vms/vm7": ("/v1/vms/vm7",),
}

# Reads "port target port target …" and sends those requests, one after another.
_CLIENT = r"""
import socket, sys

lines = {}
for command in sys.stdin:
    words = command.split()
    for port, target in zip(words[::2], words[1::2]):
        if port not in lines:
            lines[port] = socket.create_connection(("127.0.0.1", int(port)))
            lines[port].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = lines[port]
        line.sendall(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % target.encode())
        answer = line.recv(65536)
        while b"\r\n\r\n" not in answer:
            answer += line.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), (target, answer)
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < size:
            body += line.recv(65536)
    print("done", flush=True)
"""


def run(progress: Progress) -> list[Figure]:
    return asyncio.run(_measured(progress))


async def _measured(progress: Progress) -> list[Figure]:
    progress("filling a host")
    empty = web.AppRunner(_empty_app(), access_log=None)
    await empty.setup()
    await web.TCPSite(empty, "127.0.0.1", 0).start()
    with tempfile.TemporaryDirectory() as directory:
        agent = await _filled_host(Path(directory))
        app = create_app(agent, ServiceSettings(name="here"))
        service = await serve(app, "127.0.0.1", 0)
        calm_collector()
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _CLIENT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        ports = empty.addresses[0][1], service.addresses[0][1]
        try:
            costs = await _rounds(client, ports, progress)
        finally:
            client.kill()
            await client.wait()
            await service.cleanup()
            await empty.cleanup()
            await agent.close()
    return _figures(costs)


def _figures(costs: dict[str, list[float]]) -> list[Figure]:
    bounds = dict.fromkeys(("/status", "/progress"), READ_BOUND) | {"deploy+remove": PAIR_BOUND}
    empty = median(costs[""])
    figures = [Figure("an empty request", empty, "µs")]
    for kind in KINDS:
        cost = median(costs[kind])
        figures.append(Figure(f"{kind}, {VMS} VMs there", cost / empty, "×", bounds.get(kind)))
        figures.append(Figure(kind, cost, "µs"))
    return figures


async def _rounds(
    client: asyncio.subprocess.Process, ports: tuple[int, int], progress: Progress
) -> dict[str, list[float]]:
    """Microseconds of this thread per request, by kind; "" is an empty one, a pair is one."""
    costs: dict[str, list[float]] = {kind: [] for kind in ("", *KINDS)}
    with _arrivals() as arrivals:
        for number in range(ROUNDS + WARM_UP):
            progress(f"asking, round {number} of {ROUNDS + WARM_UP}")
            for kind, targets in KINDS.items():
                asked = [
                    each for target in targets for each in ((ports[0], "/"), (ports[1], target))
                ]
                # one more empty one, whose arrival ends the last one asked for
                await _ask(client, [*asked, (ports[0], "/")])
                spent = [(b - a) / 1000 for a, b in pairwise(arrivals)]
                arrivals.clear()
                if number < WARM_UP:
                    continue
                costs[""] += spent[::2]
                if kind == "deploy+remove":
                    ours = spent[1::2]
                    costs[kind] += [a + b for a, b in zip(ours[::2], ours[1::2], strict=True)]
                else:
                    costs[kind] += spent[1::2]
    return costs


@contextmanager
def _arrivals() -> Iterator[list[int]]:
    """The CPU time of this thread, in ns, whenever a server's connection gets bytes."""
    arrivals: list[int] = []
    received = RequestHandler.data_received

    def noted(self: RequestHandler, data: bytes) -> None:
        arrivals.append(thread_time_ns())
        received(self, data)

    RequestHandler.data_received = noted  # type: ignore[method-assign]
    try:
        yield arrivals
    finally:
        RequestHandler.data_received = received  # type: ignore[method-assign]


async def _ask(client: asyncio.subprocess.Process, asked: list[tuple[int, str]]) -> None:
    assert client.stdin is not None
    assert client.stdout is not None
    words = " ".join(f"{port} {target}" for port, target in asked)
    client.stdin.write(f"{words}\n".encode())
    if await client.stdout.readline() != b"done\n":
        raise RuntimeError("the client was refused; its complaint is above")


def _empty_app() -> web.Application:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/", nothing)
    return app


async def _filled_host(directory: Path) -> HostAgent:
    host = Host(read_topology(TOPOLOGY))
    hypervisor = SimulatedHypervisor(host, now_s=lambda: 0.0, sleep=asyncio.sleep)
    keeper = HostKeeper(host, hypervisor, FileJournal(directory), now_s=lambda: 1000.0)
    agent = HostAgent("here", keeper)
    await keeper.start()
    for number in range(VMS):
        vcpus, level = THERE[number % len(THERE)]
        await agent.deploy(
            VmSpec(
                name=f"vm{number}",
                vcpus=vcpus,
                memory_mib=vcpus * 2048,
                level=parse_level(level),
                image=IMAGE,
            )
        )
    return agent
