"""A cluster of several global schedulers on one PostgreSQL, each part behind a proxy of ours.

Every global scheduler has a way of its own to PostgreSQL; every local one is reached through a
proxy by all of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import asyncpg

from benchmarks.chaosplan import Plan
from benchmarks.chaosproxy import HostProxy, StreamProxy
from benchmarks.crashclient import Answer, CutOff, Request, ask
from benchmarks.crashcluster import CALL_TIMEOUT_S, DELAY_S, Row, Running, TypedHost
from benchmarks.ports import free_port
from benchmarks.processes import NotMeasured
from tests.postgres import Postgres

WITHIN_S = 60.0
READING_S = 5.0
"""How long an answer is waited for that is no change."""

_LEADER = Request("GET", "/v1/leader")


class Node:
    """A global scheduler, its port, and its way to PostgreSQL, all of which outlive it."""

    def __init__(self, name: str, directory: Path, proxy: StreamProxy) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory / name
        self.proxy = proxy
        self.running: Running | None = None
        self.stopped = False
        """By SIGSTOP."""

    async def asked(self, request: Request) -> Answer | None:
        """None if nothing came of it."""
        try:
            return await ask(self.port, request, READING_S)
        except (ConnectionRefusedError, CutOff):
            return None

    def send(self, number: int) -> None:
        assert self.running is not None
        self.running.send(number)


class ChaosCluster:
    """To be started, and ended."""

    def __init__(self, directory: Path, plan: Plan, postgres: Postgres) -> None:
        self.directory = directory
        self.postgres = postgres
        self.hosts = [TypedHost(directory, f"host{number}") for number in range(plan.hosts)]
        self.proxies = [
            HostProxy(host.port, Random(f"{plan.seed} {host.name}")) for host in self.hosts
        ]
        self.nodes = [
            Node(f"global{number}", directory, StreamProxy(postgres.port))
            for number in range(plan.globals_)
        ]
        self._lease_s = plan.lease_s

    async def start(self) -> None:
        await asyncio.gather(*[host.start() for host in self.hosts])
        for proxy in (*self.proxies, *(node.proxy for node in self.nodes)):
            await proxy.open(free_port())
        await asyncio.gather(*[self.start_node(node) for node in self.nodes])
        await self.leader()

    async def start_node(self, node: Node) -> None:
        """Until it is ready."""
        node.directory.mkdir(exist_ok=True)
        settings = {
            "SCG_PORT": str(node.port),
            "SCG_STORE": f"postgresql://postgres@127.0.0.1:{node.proxy.own_port}/chaos",
            "SCG_CLUSTER": "chaos",
            "SCG_LEASE": str(self._lease_s),
            "SCG_DELAY": DELAY_S,
            "SCG_CALL_TIMEOUT": CALL_TIMEOUT_S,
        }
        urls = ",".join(proxy.url for proxy in self.proxies)
        node.running = await Running.start(
            node.directory, settings, "schedulerglobal", f"--list={urls}"
        )
        await node.running.until("is ready")

    async def end(self) -> None:
        for node in self.nodes:
            if node.running is not None:
                await node.running.end()
        await asyncio.gather(*[host.kill() for host in self.hosts])
        for proxy in (*self.proxies, *(node.proxy for node in self.nodes)):
            await proxy.close()

    @property
    def awake(self) -> Sequence[Node]:
        """Those that run and are not stopped."""
        return [
            node
            for node in self.nodes
            if node.running is not None and node.running.alive and not node.stopped
        ]

    async def leader(self) -> Node:
        """Who leads, once somebody does."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for node in self.awake:
                    answer = await node.asked(_LEADER)
                    if answer is not None and answer.document["leading"]:
                        return node
                await asyncio.sleep(0.02)
        raise NotMeasured(f"nobody leads after {WITHIN_S:g} s")

    def on_hosts(self) -> dict[str, frozenset[str]]:
        """By host, the names of the VMs that are there."""
        return {host.name: host.names for host in self.hosts}

    def versions(self) -> tuple[int, ...]:
        """Others after every change on a host."""
        return tuple(host.version for host in self.hosts)

    async def history(self) -> list[Row]:
        """All promises there ever were, the oldest first."""
        connection = await asyncpg.connect(self.postgres.url("chaos"))
        try:
            rows = await connection.fetch(
                "SELECT name, host, status, settled, attempt, reason"
                " FROM vmstack.promises ORDER BY id"
            )
        finally:
            await connection.close()
        return [Row(*row) for row in rows]

    async def written(self) -> str:
        """Something else after every change of a promise in the store."""
        connection = await asyncpg.connect(self.postgres.url("chaos"))
        try:
            rows = await connection.fetch("SELECT * FROM vmstack.promises ORDER BY id")
        finally:
            await connection.close()
        return json.dumps([[str(value) for value in row] for row in rows])
