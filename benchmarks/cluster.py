"""Deploys through a global scheduler: how many a second, and how long each takes as hosts multiply.

The scheduler is a process of its own whose store is on disk; its hosts are light locals that know
only the published routes; a third process sends the load. The first part deploys as fast as 16
clients can, with SQLite and with PostgreSQL (fsync on), and then compares what was acknowledged,
what the scheduler says and what the hosts hold. The second sends 100 deploys a second, however long
they take, to few hosts and to many, in turn and each time to a new cluster.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import Figure, Progress
from benchmarks.load import Answered, Asked, Job, deploy, percentile, run_load, steady
from benchmarks.ports import free_port
from benchmarks.processes import (
    PATIENCE_S,
    GlobalScheduler,
    LightLocals,
    NotMeasured,
    apart,
    global_scheduler,
    light_locals,
)
from tests.postgres import postgres_server

CLIENTS, HOSTS = 16, 50
BATCHES, BATCH = 3, 1500
RATE_BOUND, SHARED_RATE_BOUND = 500, 300

FEW, MANY = 10, 1000
RATE_PER_S, ROUND_S, HOLD_S = 100, 10, 3
ROUNDS = 3
SLOWDOWN_BOUND = 1.5

_SIZE = ("--cpus=256", "--memory=1048576")


def run(progress: Progress) -> list[Figure]:
    alone = _throughput(progress, {}, "", RATE_BOUND)
    with apart(scheduler=False), postgres_server(fsync=True) as postgres:
        shared = {
            "SCG_STORE": postgres.database("cluster"),
            "SCG_CLUSTER": "bench",
            "SCG_PORT": str(free_port()),
        }
        on_postgres = _throughput(progress, shared, " on PostgreSQL", SHARED_RATE_BOUND)
    return [*alone, *on_postgres, *_steady(progress)]


@contextmanager
def _cluster(
    hosts: int, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[LightLocals, GlobalScheduler]]:
    """Whose global scheduler leads, and knows all its hosts."""
    with (
        tempfile.TemporaryDirectory() as directory,
        light_locals(hosts, *_SIZE) as locals_,
        global_scheduler(locals_.urls, Path(directory), settings) as scheduler,
    ):
        deadline_s = time.monotonic() + PATIENCE_S
        while len(_asked(scheduler.port, "/status")) < hosts:
            if time.monotonic() > deadline_s:
                raise NotMeasured(f"it did not find its hosts within {PATIENCE_S:g} s")
            time.sleep(0.05)
        yield locals_, scheduler


def _throughput(
    progress: Progress, settings: Mapping[str, str], where: str, bound: float
) -> list[Figure]:
    """With *settings* of the scheduler, which tell *where* its store is."""
    rates, costs_ms, acknowledged, failed = [], [], set(), 0
    took_s: list[float] = []
    with _cluster(HOSTS, settings) as (locals_, scheduler):
        for batch in range(BATCHES):
            progress(f"deploying{where}, batch {batch + 1} of {BATCHES}")
            names = [f"vm{batch}-{number}" for number in range(BATCH)]
            asked = [Asked(deploy(name, number)) for number, name in enumerate(names)]
            before_s = scheduler.cpu_s
            answers = run_load(Job(scheduler.port, asked, clients=CLIENTS))
            costs_ms.append((scheduler.cpu_s - before_s) / BATCH * 1000)
            rates.append(BATCH / _lasted_s(answers))
            took_s += [answer.took_s for answer in answers]
            done = {name for name, answer in zip(names, answers, strict=True) if answer.success}
            acknowledged |= done
            failed += BATCH - len(done)
        astray = _astray(acknowledged, _asked(scheduler.port, "/listvm"), locals_)
    # the quietest batch: a busy machine only ever slows one down
    best = max(rates)
    title = f"{CLIENTS} clients, {HOSTS} hosts{where}: deploys"
    return [
        Figure(title, best, "/s", bound, at_least=True),
        Figure(f"of them not acknowledged{where}", failed, "", 0),
        Figure(f"VMs on which answers, scheduler and hosts disagree{where}", astray, "", 0),
        Figure(f"a deploy{where}, p50", percentile(took_s, 50) * 1000, "ms"),
        Figure(f"a deploy{where}, p99", percentile(took_s, 99) * 1000, "ms"),
        Figure(f"CPU of the scheduler per deploy{where}", min(costs_ms), "ms"),
    ]


def _steady(progress: Progress) -> list[Figure]:
    p50s_ms: dict[int, list[float]] = {FEW: [], MANY: []}
    p99s_ms: dict[int, list[float]] = {FEW: [], MANY: []}
    costs_ms: dict[int, list[float]] = {FEW: [], MANY: []}
    failed = 0
    for number in range(ROUNDS):
        for hosts in (FEW, MANY):
            progress(f"{RATE_PER_S} deploys a second on {hosts} hosts, {number + 1} of {ROUNDS}")
            with _cluster(hosts) as (_, scheduler):
                asked = steady("vm", RATE_PER_S, ROUND_S, HOLD_S)
                before_s = scheduler.cpu_s
                answers = run_load(Job(scheduler.port, asked))
                cost_s = scheduler.cpu_s - before_s
            deploys = [
                answer
                for each, answer in zip(asked, answers, strict=True)
                if each.target.startswith("/deploy")
            ]
            failed += sum(not answer.success for answer in deploys)
            took_ms = [answer.took_s * 1000 for answer in deploys]
            p50s_ms[hosts].append(percentile(took_ms, 50))
            p99s_ms[hosts].append(percentile(took_ms, 99))
            costs_ms[hosts].append(cost_s / len(deploys) * 1000)
    few, many = median(p50s_ms[FEW]), median(p50s_ms[MANY])
    title = f"{RATE_PER_S} deploys/s:"
    figures = [
        Figure(
            f"{title} p50 with {MANY} hosts of that with {FEW}", many / few, "×", SLOWDOWN_BOUND
        ),
        Figure(f"{title} not acknowledged", failed, "", 0),
    ]
    for hosts in (FEW, MANY):
        costs = f"{title} CPU of the scheduler with {hosts} hosts, per deploy, removal and polls"
        figures += [
            Figure(f"{title} p50 with {hosts} hosts", median(p50s_ms[hosts]), "ms"),
            Figure(f"{title} p99 with {hosts} hosts", median(p99s_ms[hosts]), "ms"),
            Figure(costs, median(costs_ms[hosts]), "ms"),
        ]
    return figures


def _lasted_s(answers: Sequence[Answered]) -> float:
    ended_s = max(answer.sent_s + answer.took_s for answer in answers)
    return ended_s - min(answer.sent_s for answer in answers)


def _astray(acknowledged: set[str], listed: Mapping[str, str], locals_: LightLocals) -> int:
    """How many VMs are not where the scheduler says, or not acknowledged, or there twice."""
    held = {
        (name, url.removeprefix("http://")) for url, vms in locals_.dump().items() for name in vms
    }
    told = set(listed.items())
    return len({name for name, _ in held ^ told} | (acknowledged ^ set(listed)))


def _asked(port: int, route: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", route)
        document: dict[str, Any] = json.loads(connection.getresponse().read())
        return document
    finally:
        connection.close()
