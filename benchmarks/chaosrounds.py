"""Rounds of chaos: under a load through all global schedulers one fault after another befalls the
cluster, and in the end what was acknowledged, what is stored and what is on the hosts must agree.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.chaoscluster import ChaosCluster
from benchmarks.chaosfaults import Faults
from benchmarks.chaosplan import Plan
from benchmarks.chaoswitness import SETTLE_S, Result, Witness
from benchmarks.crashcheck import Finding, kept, settled
from benchmarks.crashclient import Request, ask, look
from benchmarks.crashload import Known, Load
from tests.postgres import Postgres

PATIENCE_S = 60.0
"""Of a client, beyond the longest fault, until it has an answer to go by."""
SAMPLE_S = 0.2


def chaos(
    directory: Path, plan: Plan, postgres: Postgres, progress: Callable[[str], None]
) -> Result:
    """Carry out *plan* under *directory*; *progress* is told what happens."""
    postgres.database("chaos")
    return asyncio.run(_Rounds(ChaosCluster(directory, plan, postgres), plan, progress).run())


class _Rounds:
    def __init__(self, cluster: ChaosCluster, plan: Plan, progress: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._witness = Witness(plan, cluster.nodes, progress)
        self._faults = Faults(cluster, self._witness, plan.lease_s)
        longest_s = max((each.lasts_s for each in plan.rounds), default=0.0)
        self._load = Load(
            self._witness.asked,
            str(plan.seed),
            plan.clients,
            looks=False,
            patience_s=PATIENCE_S + longest_s,
            wrong=lambda clause, tale: self._witness.violated((tale.name, clause)),
        )
        self._witness.tales = self._load.tales

    async def run(self) -> Result:
        sampling = asyncio.create_task(self._sample())
        try:
            await self._cluster.start()
            self._load.begin()
            for number, each in enumerate(self._plan.rounds, 1):
                self._witness.round = number
                self._witness.note(f"--- round {number}: {each}")
                await asyncio.sleep(each.after_s)
                await self._faults.strike(each)
                self._load.check_running()
            await self._end()
        finally:
            sampling.cancel()
            await self._load.cancel()
            await self._cluster.end()
        result = self._witness.result
        result.counts = self._load.counts
        result.names = len(self._load.tales)
        result.harmed = sum(proxy.harmed for proxy in self._cluster.proxies)
        return result

    async def _sample(self) -> None:
        """Nothing is ever on two hosts, for longer than it takes to look."""
        before: set[Finding] = set()
        while True:
            await asyncio.sleep(SAMPLE_S)
            now = set(_twice(self._cluster.on_hosts()))
            self._witness.violated(*(now & before))
            before = now

    async def _end(self) -> None:
        """Let everything settle, and compare what all of them say."""
        witness = self._witness
        await self._load.finish()
        witness.note("--- no more is asked")
        vms, findings = await self._settled()
        witness.history = await self._cluster.history()
        witness.violated(*findings)
        if not findings:
            await self._look_at_each()
        for node in self._cluster.nodes:
            await self._faults.end(node, signal.SIGTERM)
        witness.history = await self._cluster.history()
        rows = {row.name: row for row in witness.history if row.status != "gone"}
        witness.violated(*kept(vms, rows))

    async def _settled(self) -> tuple[list[dict[str, Any]], list[Finding]]:
        """What is shown in the end by all of them, and what is wrong with it."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            leader = await self._cluster.leader()
            listed = (await ask(leader.port, Request("GET", "/listvm"))).document
            shown = {
                node.name: (await ask(node.port, Request("GET", "/v1/vms"))).document
                for node in self._cluster.nodes
            }
            vms, there = shown[leader.name], self._cluster.on_hosts()
            findings = [*settled(self._load.tales, vms, listed, there, ())]
            for name, theirs in shown.items():
                findings += _differences(leader.name, vms, name, theirs)
            if not findings or time.monotonic() > deadline_s:
                return vms, findings
            await asyncio.sleep(0.1)

    async def _look_at_each(self) -> None:
        for number, tale in enumerate(self._load.tales):
            node = self._cluster.nodes[number % len(self._cluster.nodes)]
            answer = await ask(node.port, look(tale.name))
            if tale.known is Known.PLACED and answer.vm_status != "placed":
                self._witness.violated(
                    (tale.name, f"was acknowledged, and {node.name} says {answer}")
                )
            elif tale.known is Known.NOWHERE and answer.status != 404:
                self._witness.violated((tale.name, f"was refused or removed, and is {answer}"))


def _twice(there: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    where: dict[str, list[str]] = {}
    for host, names in there.items():
        for name in names:
            where.setdefault(name, []).append(host)
    for name, hosts in where.items():
        if len(hosts) > 1:
            yield name, f"is on {' and '.join(hosts)} at once"


def _differences(
    one: str, vms: Iterable[dict[str, Any]], other: str, theirs: Iterable[dict[str, Any]]
) -> Iterable[Finding]:
    first = {vm["name"]: (vm["status"], vm["host"]) for vm in vms}
    second = {vm["name"]: (vm["status"], vm["host"]) for vm in theirs}
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            yield name, f"is {first.get(name)} to {one}, and {second.get(name)} to {other}"
