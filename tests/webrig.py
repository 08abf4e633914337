"""The local scheduler's routes over a simulated host, on a real port of this process."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.simulatedfaults import parse_faults
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import ServiceSettings
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.keeper import HostKeeper

T = TypeVar("T")

TOPOLOGY = read_topology(Path(__file__).parent.parent / "debug" / "topology_i7-1185G7.json")
IMAGE = "/var/lib/libvirt/images/hello.qcow2"
PLAIN = {"name": "one", "vcpus": 2, "memory_mib": 1024, "level": "2", "image": IMAGE}


@dataclass(frozen=True)
class Answer:
    """A response that was read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and code, if it has the form every refusal has."""
        document = self.json
        assert set(document) == {"success", "reason", "code"}, document
        assert document["success"] is False
        reason = document["reason"]
        assert reason
        assert "\n" not in reason
        assert len(reason) < 400
        assert "Traceback" not in reason
        assert self.headers["content-type"].startswith("application/json")
        return self.status, document["code"]


class Client:
    """Says to a scheduler on *port* exactly what it is told to, one connection a request."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(
        self,
        method: str,
        target: str,
        document: object = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        if document is not None:
            body = json.dumps(document).encode()
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body is not None:
            lines.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        raw = f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape")
        return await self.say(raw + (body or b""))

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.ask("GET", target, headers=headers)

    async def post(
        self, target: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return await self.ask("POST", target, document, headers)

    async def say(self, raw: bytes, *, half_close: bool = False) -> Answer:
        """The first answer to the bytes *raw*."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            await writer.drain()
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(20):
                return await _read_answer(reader, head_only=raw.startswith(b"HEAD "))
        finally:
            writer.close()

    async def status(self) -> Any:
        return (await self.get("/status")).json

    async def deploy(self, name: str, **more: object) -> Answer:
        return await self.post("/v1/vms", {**PLAIN, "name": name, **more})


class Web(Client):
    """A client of the local scheduler, which can be looked into."""

    def __init__(self, agent: HostAgent, keeper: HostKeeper, port: int) -> None:
        super().__init__(port)
        self.agent = agent
        self.keeper = keeper

    @property
    def hypervisor(self) -> SimulatedHypervisor:
        assert isinstance(self.keeper.hypervisor, SimulatedHypervisor)
        return self.keeper.hypervisor


async def _read_answer(reader: asyncio.StreamReader, head_only: bool) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    status = int(first.split()[1])
    if status == 100:
        return await _read_answer(reader, head_only)
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if head_only or status == 304:
        return Answer(status, headers, await reader.read())
    return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def running(
    directory: Path,
    *,
    token_file: Path | None = None,
    faults: str = "",
    ready: bool = True,
    address: str = "127.0.0.1",
    port: int = 0,
    name: str = "here",
    sync: Callable[[int], None] = os.fsync,
) -> AsyncIterator[Web]:
    """The service on a free port, its state known unless it is not to be *ready*. *sync* forces
    its journal to the disk."""
    host = Host(TOPOLOGY, Rules())
    hypervisor = SimulatedHypervisor(
        host, faults=parse_faults(faults), now_s=lambda: 0.0, sleep=asyncio.sleep
    )
    journal = FileJournal(directory, sync=sync)
    keeper = HostKeeper(host, hypervisor, journal, now_s=lambda: 1000.0)
    agent = HostAgent(name, keeper)
    settings = ServiceSettings(name=name, address=address, port=port, token_file=token_file)
    runner = await serve(create_app(agent, settings), settings.address, settings.port)
    try:
        if ready:
            await keeper.start()
        yield Web(agent, keeper, runner.addresses[0][1])
    finally:
        await runner.cleanup()
        if ready:
            await agent.close()


@contextmanager
def in_a_thread(service: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """*service* on an event loop of its own, for tests that ask it over HTTP from theirs."""
    started: Future[T] = Future()
    stopped = threading.Event()

    async def serve_until_stopped() -> None:
        try:
            async with service as served:
                started.set_result(served)
                await asyncio.to_thread(stopped.wait)
        except BaseException as problem:
            if started.done():
                raise
            started.set_exception(problem)

    thread = threading.Thread(target=lambda: asyncio.run(serve_until_stopped()))
    thread.start()
    try:
        yield started.result(30)
    finally:
        stopped.set()
        thread.join()
