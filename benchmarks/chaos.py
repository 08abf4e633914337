"""Several global schedulers on one PostgreSQL, and everything that can happen to them: what was
acknowledged is kept, nothing is there twice, nothing is forgotten, another leads soon.

``python -m benchmarks.chaos SEED [ROUNDS]`` repeats the rounds of a seed and tells their story.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import Figure, Progress
from benchmarks.chaosplan import Fault, Plan, Round, mixed, only
from benchmarks.chaosrounds import chaos
from benchmarks.chaoswitness import Result
from benchmarks.load import percentile
from schedulercommon.errors import UsageError
from schedulerprocess.options import exit_code
from tests.postgres import postgres_server

SEED = 7
ROUNDS = 30
KILLS = 30
AWAY_S = 60.0
LEASES_S = {3.0: 5.0, 1.0: 2.0}
"""How soon another must acknowledge after the leader was killed, by the lease."""
AT_ONCE_S = 1.0
"""What is refused while PostgreSQL is away is refused within this."""


def run(progress: Progress) -> list[Figure]:
    figures = []
    for lease_s, bound_s in LEASES_S.items():
        rounds = only(Fault.LEADER_KILLED, SEED, KILLS)
        result, _ = _carried_out(Plan(SEED, rounds, lease_s=lease_s), progress)
        figures += _killed(result, lease_s, bound_s)
    figures += _away(_carried_out(Plan(SEED, (away(AWAY_S),), lease_s=3.0), progress)[0])
    result, took_s = _carried_out(Plan(SEED, mixed(SEED, ROUNDS)), progress)
    return [*figures, *_mixed(result, took_s)]


def away(lasts_s: float) -> Round:
    """PostgreSQL is away for so long, and nothing else is wrong."""
    (one,) = only(Fault.DATABASE_AWAY, SEED, 1, wire=False)
    return replace(one, lasts_s=lasts_s)


def _carried_out(plan: Plan, progress: Progress) -> tuple[Result, float]:
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory, postgres_server(fsync=True) as postgres:
        result = chaos(Path(directory), plan, postgres, progress)
    for violation in result.violations:
        print(violation, file=sys.stderr)
    return result, time.perf_counter() - begun_s


def _killed(result: Result, lease_s: float, bound_s: float) -> list[Figure]:
    title = f"lease of {lease_s:g} s:"
    took = result.took_over_s
    return [
        Figure(f"{title} kill -9 of the leader", len(took), "times", KILLS, at_least=True),
        Figure(f"{title} until another acknowledged, at most", max(took), "s", bound_s),
        Figure(f"{title} until another acknowledged, half of the times", percentile(took, 50), "s"),
        *_kept(title, result),
    ]


def _kept(title: str, result: Result) -> list[Figure]:
    broken = "VMs lost, there twice, orphaned, or other promises broken"
    return [
        Figure(f"{title} {broken}", len(result.violations), "times", 0),
        Figure(f"{title} deploys acknowledged", result.counts["deploys"], "times"),
        Figure(f"{title} removals acknowledged", result.counts["removes"], "times"),
        Figure(f"{title} requests to hosts harmed by proxies", result.harmed, "times"),
    ]


def _away(result: Result) -> list[Figure]:
    title = f"PostgreSQL away for {AWAY_S:g} s:"
    changes = [each for each in result.away if each.change]
    readings = [each for each in result.away if not each.change]
    # what is promised already can be answered from memory for a while
    refused = [each for each in changes if each.failed]
    uncoded = sum(each.status != 503 or not each.code for each in refused)
    failed = sum(each.failed for each in readings)
    took_ms = [each.took_s * 1000 for each in refused]
    return [
        Figure(f"{title} changes refused", len(refused), "times", 100, at_least=True),
        Figure(f"{title} of them without 503 and a code", uncoded, "times", 0),
        Figure(f"{title} a refusal, p99", percentile(took_ms, 99), "ms", AT_ONCE_S * 1000),
        Figure(f"{title} readings", len(readings), "times", 100, at_least=True),
        Figure(f"{title} readings that failed", failed, "times", 0),
        Figure(f"{title} from its return to an acknowledged change", max(result.back_s), "s"),
        *_kept(title, result),
    ]


def _mixed(result: Result, took_s: float) -> list[Figure]:
    title = "all faults:"
    return [
        Figure(f"{title} rounds, seed {SEED}", ROUNDS, "times"),
        Figure(f"{title} former leaders that went on and changed nothing", result.resumed, "times"),
        *_kept(title, result),
        Figure(f"{title} in all", took_s, "s"),
    ]


def main(arguments: Sequence[str]) -> None:
    try:
        seed, rounds = [*map(int, arguments), ROUNDS][:2]
    except ValueError:
        raise UsageError("give a seed, and how many rounds; both are whole numbers") from None
    print(f"seed {seed}, {rounds} rounds", flush=True)
    plan = Plan(seed, mixed(seed, rounds))
    result, took_s = _carried_out(plan, lambda text: print(text, flush=True))
    print(f"{took_s:.1f} s, {dict(result.counts)}, {result.names} names, {result.harmed} harmed,")
    print(f"took over after {[round(each, 2) for each in result.took_over_s]} s,")
    print(f"{result.resumed} resumed, {len(result.violations)} violations; seed {seed}")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
