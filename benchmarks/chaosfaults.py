"""The faults that befall a cluster, and what is seen of it while each of them lasts."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeAlias

from benchmarks.chaoscluster import ChaosCluster, Node
from benchmarks.chaosplan import Fault, Round
from benchmarks.chaoswitness import SETTLE_S, Witness
from benchmarks.crashclient import CutOff, Request

SLOW_S = 0.05
"""The delay of a slow PostgreSQL, each way."""
STOPPED_S = 2.0
"""A host is stopped no longer."""
QUIET_S = 1.0

_READINGS = tuple(Request("GET", route) for route in ("/v1/vms", "/listvm", "/status", "/v1/hosts"))
_LEADER = Request("GET", "/v1/leader")

Everything: TypeAlias = tuple[str, tuple[int, ...]]
"""What is written in the store, and which versions of the hosts' states."""


class Faults:
    """Makes them, and mends what they broke."""

    def __init__(self, cluster: ChaosCluster, witness: Witness, lease_s: float) -> None:
        self._cluster = cluster
        self._witness = witness
        self._lease_s = lease_s
        self._makers: Mapping[Fault, Callable[[Round], Awaitable[None]]] = {
            Fault.LEADER_KILLED: self._leader_killed,
            Fault.STANDBY_KILLED: self._standby_killed,
            Fault.LEADER_TOLD: self._leader_told,
            Fault.LEADER_STOPPED: self._leader_stopped,
            Fault.LEADER_HALTED: self._leader_halted,
            Fault.LEADER_CUT_OFF: self._leader_cut_off,
            Fault.CUT: self._cut,
            Fault.DATABASE_RESTARTED: self._database_restarted,
            Fault.DATABASE_CRASHED: self._database_crashed,
            Fault.DATABASE_AWAY: self._database_away,
            Fault.DATABASE_SILENT: self._database_silent,
            Fault.DATABASE_SLOW: self._database_slow,
            Fault.HOST_KILLED: self._host_killed,
            Fault.HOST_STOPPED: self._host_stopped,
        }

    async def strike(self, each: Round) -> None:
        """Until it is over, and another change was acknowledged."""
        wire = asyncio.create_task(self._harm_wire(each))
        try:
            await self._makers[each.fault](each)
        finally:
            await wire
        await self._witness.acknowledged_after(time.monotonic())
        for node in self._cluster.nodes:
            self.check_alive(node)

    async def end(self, node: Node, number: signal.Signals) -> None:
        self.check_alive(node)
        assert node.running is not None
        self._witness.note(f"--- {node.name} gets {number.name}")
        node.send(number)
        code = await node.running.end(number)
        if code not in (0, -signal.SIGKILL):
            said = "".join(node.running.printed[-5:]).strip()
            self._witness.violated(("", f"{node.name} was told to stop and ended {code}: {said}"))

    def check_alive(self, node: Node) -> None:
        running = node.running
        if running is not None and not running.alive:
            code, said = running.process.returncode, "".join(running.printed[-5:]).strip()
            self._witness.violated(("", f"{node.name} ended by itself with {code}: {said}"))

    async def _harm_wire(self, each: Round) -> None:
        if each.wire is None:
            return
        proxy = self._cluster.proxies[int(each.wire_host * len(self._cluster.proxies))]
        proxy.wire = each.wire
        await asyncio.sleep(each.wire_s)
        proxy.wire = None

    # --- global schedulers ---

    async def _leader_killed(self, _: Round) -> None:
        node = await self._cluster.leader()
        killed_s = time.monotonic()
        await self.end(node, signal.SIGKILL)
        self._witness.result.took_over_s.append(await self._witness.acknowledged_after(killed_s))
        await self._cluster.start_node(node)

    async def _standby_killed(self, each: Round) -> None:
        leader = await self._cluster.leader()
        others = [node for node in self._cluster.nodes if node is not leader]
        node = others[int(each.which * len(others))]
        await self.end(node, signal.SIGKILL)
        await self._cluster.start_node(node)

    async def _leader_told(self, _: Round) -> None:
        node = await self._cluster.leader()
        await self.end(node, signal.SIGTERM)
        await self._cluster.start_node(node)

    async def _leader_halted(self, each: Round) -> None:
        async with self._stopped(await self._cluster.leader()):
            await asyncio.sleep(self._lease_s * each.which)

    async def _leader_stopped(self, each: Round) -> None:
        """Once another leads and all is quiet, it goes on, and must change nothing.

        What clients asked of it and gave up is still before it.
        """
        node = await self._cluster.leader()
        stopped_s = time.monotonic()
        async with AsyncExitStack() as stack:
            async with self._stopped(node):
                await self._witness.acknowledged_after(stopped_s)
                past_s = stopped_s + self._lease_s * (1.2 + each.which)
                await asyncio.sleep(max(0.0, past_s - time.monotonic()))
                await stack.enter_async_context(self._witness.silence())
                before = await self._quiet()
            await self._follows(node)
            await asyncio.sleep(QUIET_S / 2)
            if await self._all() == before:
                self._witness.result.resumed += 1
            else:
                self._witness.violated(
                    ("", f"{node.name} was stopped past its lease, and changed things")
                )

    @asynccontextmanager
    async def _stopped(self, node: Node) -> AsyncIterator[None]:
        node.send(signal.SIGSTOP)
        node.stopped = True
        self._witness.note(f"--- {node.name} gets SIGSTOP")
        try:
            yield
        finally:
            node.send(signal.SIGCONT)
            node.stopped = False
            self._witness.note(f"--- {node.name} gets SIGCONT")

    async def _quiet(self) -> Everything:
        """What is written and on the hosts, once that changes no more."""
        seen, since_s = None, time.monotonic()
        async with asyncio.timeout(SETTLE_S):
            while True:
                now = await self._all()
                if now != seen:
                    seen, since_s = now, time.monotonic()
                elif time.monotonic() - since_s > QUIET_S:
                    return now
                await asyncio.sleep(0.1)

    async def _all(self) -> Everything:
        return await self._cluster.written(), self._cluster.versions()

    async def _follows(self, node: Node) -> None:
        """Until *node* knows that another leads."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                answer = await node.asked(_LEADER)
                if answer is not None and not answer.document["leading"]:
                    return
                await asyncio.sleep(0.02)

    # --- PostgreSQL, and the way there ---

    async def _leader_cut_off(self, each: Round) -> None:
        node = await self._cluster.leader()
        node.proxy.hold()
        await asyncio.sleep(self._lease_s * (1.2 + each.which))
        node.proxy.flow()

    async def _cut(self, _: Round) -> None:
        for node in self._cluster.nodes:
            node.proxy.cut()

    async def _database_restarted(self, _: Round) -> None:
        await self._end_database(signal.SIGINT)
        await self._start_database()

    async def _database_crashed(self, _: Round) -> None:
        await self._end_database(signal.SIGQUIT)
        await self._start_database()

    async def _database_away(self, each: Round) -> None:
        await self._end_database(signal.SIGQUIT)
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + each.lasts_s:
            for node in self._cluster.nodes:
                for request in _READINGS:
                    with suppress(ConnectionRefusedError, CutOff):
                        await self._witness.ask(node, request)
            await asyncio.sleep(0.1)
        ended_s = time.monotonic()
        await self._start_database()
        back_s = time.monotonic()
        result, heard = self._witness.result, self._witness.heard
        result.away += [one for one in heard if begun_s <= one.sent_s < ended_s]
        result.back_s.append(await self._witness.acknowledged_after(back_s))

    async def _database_silent(self, each: Round) -> None:
        self._cluster.postgres.pause()
        try:
            await asyncio.sleep(each.lasts_s)
        finally:
            self._cluster.postgres.go_on()

    async def _database_slow(self, each: Round) -> None:
        for node in self._cluster.nodes:
            node.proxy.delay_s = SLOW_S
        await asyncio.sleep(each.lasts_s)
        for node in self._cluster.nodes:
            node.proxy.delay_s = 0.0

    async def _end_database(self, number: signal.Signals) -> None:
        await asyncio.to_thread(self._cluster.postgres.stop, number)
        self._witness.note("--- PostgreSQL is away")

    async def _start_database(self) -> None:
        await asyncio.to_thread(self._cluster.postgres.start)
        self._witness.note("--- PostgreSQL is back")

    # --- local schedulers ---

    async def _host_killed(self, each: Round) -> None:
        host = self._cluster.hosts[int(each.which * len(self._cluster.hosts))]
        await host.kill()
        await host.start()

    async def _host_stopped(self, each: Round) -> None:
        host = self._cluster.hosts[int(each.which * len(self._cluster.hosts))]
        host.send(signal.SIGSTOP)
        await asyncio.sleep(min(each.lasts_s, STOPPED_S))
        host.send(signal.SIGCONT)
