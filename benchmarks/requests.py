"""What a request costs the local scheduler, in CPU time of its thread, beside an empty handler.

The service is the real one over a simulated hypervisor in memory, with 60 VMs; beside it, in the
same loop, an aiohttp application whose only handler answers nothing. One client in a process of
its own keeps a connection to each and takes turns between them, so that both see the same
machine. A figure is the median over rounds of a request's cost over that of an empty one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import thread_time_ns

from aiohttp import web

from benchmarks import Figure, Progress
from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.collector import calm_collector
from schedulerlocal.config import ServiceSettings
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper

TOPOLOGY = Path(__file__).resolve().parent.parent / "debug" / "topology_EPYC-7662.json"
IMAGE = "/var/lib/libvirt/images/hello.qcow2"
THERE = ((1, "1"), (2, "1"), (4, "2"), (2, "2"), (2, "3"), (4, "3"))
VMS = 60
ROUNDS = 60
REQUESTS = 24
"""Of one kind in a row."""
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

# Reads "port count target target…" and sends that many requests, the targets in turn.
_CLIENT = r"""
import socket, sys
from itertools import cycle, islice

lines = {}
for command in sys.stdin:
    port, count, *targets = command.split()
    if port not in lines:
        lines[port] = socket.create_connection(("127.0.0.1", int(port)))
        lines[port].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = lines[port]
    for target in islice(cycle(targets), int(count)):
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
    figures = [Figure("an empty request", median(costs[""]), "µs")]
    for kind in KINDS:
        requests = 2 if kind == "deploy+remove" else 1
        ratios = [
            requests * cost / nothing for cost, nothing in zip(costs[kind], costs[""], strict=True)
        ]
        figures.append(Figure(f"{kind}, {VMS} VMs there", median(ratios), "×", bounds.get(kind)))
        figures.append(Figure(kind, requests * median(costs[kind]), "µs"))
    return figures


async def _rounds(
    client: asyncio.subprocess.Process, ports: tuple[int, int], progress: Progress
) -> dict[str, list[float]]:
    """Microseconds of this thread per request, by kind and round; "" is an empty one."""
    costs: dict[str, list[float]] = {kind: [] for kind in ("", *KINDS)}
    for number in range(ROUNDS + 1):
        progress(f"asking, round {number} of {ROUNDS}")
        for kind in costs:
            targets = KINDS.get(kind, ("/",))
            cost = await _cost_us(client, ports[bool(kind)], targets)
            if number:  # the first round warms up
                costs[kind].append(cost)
    return costs


async def _cost_us(
    client: asyncio.subprocess.Process, port: int, targets: tuple[str, ...]
) -> float:
    assert client.stdin is not None
    assert client.stdout is not None
    begun = thread_time_ns()
    client.stdin.write(f"{port} {REQUESTS} {' '.join(targets)}\n".encode())
    if await client.stdout.readline() != b"done\n":
        raise RuntimeError("the client was refused; its complaint is above")
    return (thread_time_ns() - begun) / REQUESTS / 1000


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
