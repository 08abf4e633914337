"""Rounds of a crash: under a mixed load the global scheduler is killed at a moment chosen by chance
and started again on the same store, while its hosts stay, die or stop for a while.

The same seed makes the same plan: what each client asks, when it dies, which host is in trouble.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.crashcheck import Finding, at_death, kept, settled
from benchmarks.crashclient import Request, ask, look
from benchmarks.crashcluster import Cluster, Running
from benchmarks.crashload import Known, Load, Tale
from benchmarks.processes import light_locals

CLIENTS = 12
SETTLE_S = 30.0
MOMENT_S = 1.0
"""How long the occasion to die is waited for."""
STOPPED_S = 1.0
TOLD = 40
"""Lines of a story."""

_MOMENTS = {"delay": 8, "sent": 5, "answered": 4, "landed": 4, "listening": 1, "starting": 2}
_TROUBLES = {"": 10, "killed": 2, "stopped": 2, "faulty": 3}
_FAULTS = ("reset", "forget-half", "slow:0.2")


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster, and how often its global scheduler dies."""

    seed: int
    kills: int
    typed: int = 3
    light: int = 0
    """Hosts that know the published routes only."""


@dataclass(slots=True)
class Result:
    kills: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    names: int = 0
    undecided: int = 0
    """Deploys and removals that older hosts left open at the end, as they may."""
    violations: list[str] = field(default_factory=list)


def crash(directory: Path, plan: Plan, progress: Callable[[int], None]) -> Result:
    """Carry out *plan* under *directory*; *progress* is told how often it has died."""
    with ExitStack() as stack:
        light = stack.enter_context(light_locals(plan.light, "--cpus=8")) if plan.light else None
        names = [f"host{number}" for number in range(plan.typed)]
        return asyncio.run(_Rounds(Cluster(directory, names, light), plan, progress).run())


class _Rounds:
    def __init__(self, cluster: Cluster, plan: Plan, progress: Callable[[int], None]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._progress = progress
        self._rng = Random(f"{plan.seed} rounds")
        self._load = Load(
            lambda _, request: ask(cluster.port, request),
            str(plan.seed),
            CLIENTS,
            older=cluster.light is not None,
            wrong=lambda clause, tale: self._violated((tale.name, clause)),
        )
        self._begun_s = time.monotonic()
        self._happened: list[tuple[float, str]] = []
        self._in_trouble: set[str] = set()
        self._troubles: set[asyncio.Task[None]] = set()
        self._result = Result()

    async def run(self) -> Result:
        try:
            await self._cluster.start_hosts()
            self._load.begin()
            for _ in range(self._plan.kills):
                await self._round()
                self._load.check_running()
                self._progress(self._result.kills)
            await self._end()
        finally:
            await self._load.cancel()
            for task in self._troubles:
                task.cancel()
            await asyncio.gather(*self._troubles, return_exceptions=True)
            await self._cluster.end()
        self._result.counts = self._load.counts
        self._result.names = len(self._load.tales)
        return self._result

    async def _round(self) -> None:
        rng = self._rng
        moment = rng.choices([*_MOMENTS], [*_MOMENTS.values()])[0]
        trouble = rng.choices([*_TROUBLES], [*_TROUBLES.values()])[0]
        number = rng.randrange(1, 12)
        delays_s = rng.uniform(0.0, 0.4), rng.uniform(0.0, 0.012), rng.uniform(0.0, 0.6)
        victims = rng.random(), rng.choice(_FAULTS)
        scheduler = await self._start()
        if moment == "starting":
            await asyncio.sleep(delays_s[2])
        else:
            await scheduler.until("listening" if moment == "listening" else "is ready")
            self._make_trouble(trouble, *victims)
            await self._occasion(moment, number, delays_s[0])
            if moment != "answered":
                await asyncio.sleep(delays_s[1])
        await self._kill(scheduler, moment)

    async def _start(self) -> Running:
        self._note(f"--- global scheduler started, round {self._result.kills + 1}")
        return await self._cluster.start()

    async def _occasion(self, moment: str, number: int, delay_s: float) -> None:
        """Until something happened *number* times, or that long."""
        try:
            async with asyncio.timeout(MOMENT_S):
                match moment:
                    case "sent" | "answered":
                        wanted = self._load.counts[moment] + number
                        while self._load.counts[moment] < wanted:
                            self._load.news.clear()
                            await self._load.news.wait()
                    case "landed":
                        seen = self._cluster.version
                        while number:
                            await asyncio.sleep(0.001)
                            if (version := self._cluster.version) != seen:
                                seen, number = version, number - 1
                    case _:
                        await asyncio.sleep(delay_s)
        except TimeoutError:
            pass

    async def _kill(self, scheduler: Running, moment: str) -> None:
        idle = [(tale, tale.turns) for tale in self._load.tales if not tale.busy]
        scheduler.send(signal.SIGKILL)
        self._note(f"--- global scheduler killed ({moment})")
        code = await scheduler.end()
        if code != -signal.SIGKILL:
            said = "".join(scheduler.printed[-5:]).strip()
            self._violated(("", f"the global scheduler ended by itself with {code}: {said}"))
        self._result.kills += 1
        rows, there = self._cluster.rows(), self._cluster.on_hosts()
        still = [tale for tale, turns in idle if tale.turns == turns]
        self._violated(*at_death(still, rows, there))

    # --- hosts in trouble ---

    def _make_trouble(self, kind: str, which: float, fault: str) -> None:
        if not kind:
            return
        count = len(self._cluster.light_urls if kind == "faulty" else self._cluster.typed)
        if not count:
            return
        victim = int(which * count)
        name = f"older host {victim}" if kind == "faulty" else [*self._cluster.typed][victim]
        if name in self._in_trouble:
            return
        self._in_trouble.add(name)
        task = asyncio.create_task(self._trouble(kind, victim, name, fault))
        self._troubles.add(task)

    async def _trouble(self, kind: str, victim: int, name: str, fault: str) -> None:
        if kind == "faulty":
            assert self._cluster.light is not None
            self._note(f"--- {name}: {fault}")
            self._cluster.light.fault(victim, fault, "changes")
            await asyncio.sleep(STOPPED_S / 2)
            self._cluster.light.fault(victim, "none")
        elif kind == "killed":
            self._note(f"--- {name} killed")
            await self._cluster.typed[name].kill()
            await self._cluster.typed[name].start()
        else:
            self._note(f"--- {name} stopped")
            self._cluster.typed[name].send(signal.SIGSTOP)
            await asyncio.sleep(STOPPED_S)
            self._cluster.typed[name].send(signal.SIGCONT)
        self._note(f"--- {name} is well again")
        self._in_trouble.discard(name)

    # --- the end ---

    async def _end(self) -> None:
        """Let everything settle, and compare what all of them say."""
        scheduler = await self._start()
        await scheduler.until("is ready")
        await self._load.finish()
        await asyncio.gather(*self._troubles)
        self._note("--- no more is asked")
        vms, findings = await self._settled()
        self._violated(*findings)
        if not findings:
            await self._look_at_each()
        if code := await scheduler.end(signal.SIGTERM):
            self._violated(("", f"the global scheduler ended with {code} when told to stop"))
        self._result.undecided = sum(vm["status"] != "placed" for vm in vms)
        self._violated(*kept(vms, self._cluster.rows(), self._cluster.light_names))

    async def _settled(self) -> tuple[list[dict[str, Any]], list[Finding]]:
        """What is shown in the end, and what is wrong with it."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            listed = (await ask(self._cluster.port, Request("GET", "/listvm"))).document
            vms = (await ask(self._cluster.port, Request("GET", "/v1/vms"))).document
            there = self._cluster.on_hosts()
            older = self._cluster.light_names
            findings = [*settled(self._load.tales, vms, listed, there, older)]
            if not findings or time.monotonic() > deadline_s:
                return vms, findings
            await asyncio.sleep(0.05)

    async def _look_at_each(self) -> None:
        for tale in self._load.tales:
            answer = await ask(self._cluster.port, look(tale.name))
            if tale.known is Known.PLACED and answer.vm_status != "placed":
                self._violated((tale.name, f"was acknowledged, and looked at it is {answer}"))
            elif tale.known is Known.NOWHERE and answer.status != 404:
                self._violated((tale.name, f"was refused or removed, and is {answer}"))

    # --- what is reported ---

    def _note(self, text: str) -> None:
        self._happened.append((time.monotonic(), text))

    def _violated(self, *findings: Finding) -> None:
        tales = {tale.name: tale for tale in self._load.tales}
        for name, clause in findings:
            where = f"seed {self._plan.seed}, round {self._result.kills}"
            lines = [f"{where}: {name} {clause}".replace(":  ", ": ")]
            lines += self._story(tales.get(name))
            if name:
                lines += [f"  kept: {row}" for row in self._cluster.history_of(name)]
            self._result.violations.append("\n".join(lines))

    def _story(self, tale: Tale | None) -> Iterable[str]:
        story = sorted([*self._happened, *(tale.story if tale is not None else [])])
        return [f"  {at_s - self._begun_s:8.3f} s  {text}" for at_s, text in story[-TOLD:]]
