"""kill -9 of the global scheduler at random moments of a mixed load: what was acknowledged is kept,
nothing is there twice, nothing is forgotten, and what was unknown is settled.

``python -m benchmarks.crashes SEED [KILLS [TYPED [LIGHT]]]`` repeats a batch and tells its story.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import Figure, Progress
from benchmarks.crashrounds import Plan, Result, crash

KILLS = 200
BATCH = 25
SEED = 20_000


def plans(kills: int = KILLS, batch: int = BATCH, seed: int = SEED) -> list[Plan]:
    """By turns, a cluster whose hosts can all cancel requests, and one with older hosts too."""
    return [
        Plan(seed + number, batch, *((3, 0) if number % 2 == 0 else (2, 2)))
        for number in range(kills // batch)
    ]


def run(progress: Progress) -> list[Figure]:
    begun_s = time.perf_counter()
    results: list[Result] = []
    for plan in plans():
        done = sum(result.kills for result in results)

        def told(kills: int, done: int = done) -> None:
            progress(f"killed {done + kills} of {KILLS} times")

        with tempfile.TemporaryDirectory() as directory:
            results.append(crash(Path(directory), plan, told))
        for violation in results[-1].violations:
            print(violation, file=sys.stderr)
    return _figures(results, time.perf_counter() - begun_s)


def _figures(results: Sequence[Result], took_s: float) -> list[Figure]:
    def total(what: str) -> int:
        return sum(result.counts[what] for result in results)

    kills = sum(result.kills for result in results)
    return [
        Figure("kill -9 of the global scheduler", kills, "times", KILLS, at_least=True),
        Figure("promises broken", sum(len(each.violations) for each in results), "times", 0),
        Figure("deploys acknowledged", total("deploys"), "times"),
        Figure("removals acknowledged", total("removes"), "times"),
        Figure("repeated deploys answered", total("repeats"), "times"),
        Figure("answers 'outcome unknown'", total("unknown"), "times"),
        Figure("left open by older hosts", sum(each.undecided for each in results), "VMs"),
        Figure("from kill to kill", took_s / kills, "s"),
    ]


def main(arguments: Sequence[str]) -> None:
    seed, *rest = [int(argument) for argument in arguments]
    plan = Plan(seed, *rest) if rest else Plan(seed, BATCH)
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        result = crash(Path(directory), plan, lambda kills: print(kills, end=" ", flush=True))
    print(f"\n{time.perf_counter() - begun_s:.1f} s, {dict(result.counts)}, {result.names} names,")
    print(f"{result.undecided} left open, {len(result.violations)} violations")
    print("\n\n".join(result.violations))


if __name__ == "__main__":
    main(sys.argv[1:])
