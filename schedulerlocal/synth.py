"""Makes monitoring traces: a host's VMs over hours or days, drawn from published statistics.

``python -m schedulerlocal.synth`` writes the monitoring CSV that a host of the given size would
have recorded: sizes and usage classes of the Azure 2017 data set (vCPUs and memory
rank-correlated), levels 1:1, 2:1 and 3:1, arrivals and usage that rise by day, CPUs by the
sizing rule. Arrivals that would not fit are turned away, as that host would have done. The same
options give the same bytes. The trace is written as it is drawn, so memory does not grow with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import cos, inf, pi, sqrt
from pathlib import Path
from random import Random
from statistics import NormalDist
from uuid import UUID

from schedulercommon.errors import OutputError, UsageError
from schedulercommon.levels import Level, format_level, gb_to_mib
from schedulercommon.sizing import cpus_needed
from schedulerlocal.adapters.tracecsv import HEADER
from schedulerlocal.core.usageclasses import PEAK_HOUR, USAGE
from schedulerprocess.options import Options, exit_code

LEVELS = (Fraction(1), Fraction(2), Fraction(3))
SUMMARY = "Make a monitoring trace of a host, drawn from published statistics."
NO_VM = "\tNone" * 6
DAY_S = 86_400.0

Quantiles = tuple[tuple[Fraction, float], ...]
"""Values in ascending order, each with its probability."""

# Azure 2017, as published: https://doi.org/10.1145/3132747.3132772
VCPUS: Quantiles = (
    (Fraction(1), 0.51),
    (Fraction(2), 0.25),
    (Fraction(4), 0.17),
    (Fraction(8), 0.07),
)
MEMORY_GB: Quantiles = (
    (Fraction("0.75"), 0.04),
    (Fraction("1.75"), 0.47),
    (Fraction("3.5"), 0.25),
    (Fraction(7), 0.16),
    (Fraction(14), 0.06),
    (Fraction(56), 0.02),
)
RANK_CORRELATION = 0.8

HIGH_CHANCE = 0.05
MEAN_TURNOVER = sum(each.share * each.turnover for each in USAGE) / sum(
    each.share for each in USAGE
)


@dataclass(frozen=True, slots=True)
class Workload:
    """What to draw."""

    vms: int
    """Alive at once, on average."""
    hours: float
    step_s: int
    shares: tuple[float, ...]
    """Of the VMs, per level of LEVELS."""
    churn: float
    """Arrivals per day for each VM alive."""
    host_cpus: int
    host_memory_mib: int


@dataclass(slots=True)
class Guest:
    """A VM of the trace. Not frozen: every sample moves its last two fields, a million times."""

    name: str
    vcpus: int
    memory_mib: int
    level: Level
    leaves_s: float
    average: float
    high: float
    swing: float
    peak_hour: float
    cpu_tail: str
    memory_tail: str
    noise: float
    resident: float
    seen: bool = False


@dataclass(slots=True)
class Tally:
    """What was written so far."""

    rows: int = 0
    vms: int = 0
    turned_away: int = 0
    peak_cpus: int = 0
    peak_memory_mib: int = 0


def quantile(rank: float, table: Quantiles) -> Fraction:
    """The value of *table* below which a share of *rank* lies."""
    for value, probability in table:
        rank -= probability
        if rank < 0:
            return value
    return table[-1][0]


def draw_size(rng: Random) -> tuple[int, int]:
    """vCPUs and memory in MiB; large VMs tend to be large in both."""
    first = rng.gauss(0, 1)
    second = RANK_CORRELATION * first + sqrt(1 - RANK_CORRELATION**2) * rng.gauss(0, 1)
    normal = NormalDist()
    vcpus = quantile(normal.cdf(first), VCPUS)
    return int(vcpus), gb_to_mib(quantile(normal.cdf(second), MEMORY_GB))


def draw_guest(rng: Random, workload: Workload, number: int, now_s: float, settled: bool) -> Guest:
    """The *number*-th VM. Those *settled* were there before the trace, the others arrive in it."""
    # Kinds that come and go quickly are more frequent among arrivals than among those alive.
    weights = [each.share * (1 if settled else each.turnover) for each in USAGE]
    kind = rng.choices(USAGE, weights)[0]
    level = rng.choices(LEVELS, workload.shares)[0]
    vcpus, memory_mib = draw_size(rng)
    departures_per_s = workload.churn * kind.turnover / MEAN_TURNOVER / DAY_S
    average = rng.uniform(*kind.average)
    rhythmic = rng.random() < kind.rhythmic
    uuid = UUID(int=rng.getrandbits(128), version=4)
    name = f"vm{number:05d}"
    return Guest(
        name=name,
        vcpus=vcpus,
        memory_mib=memory_mib,
        level=level,
        leaves_s=now_s + rng.expovariate(departures_per_s) if departures_per_s else inf,
        average=average,
        high=max(average, rng.uniform(*kind.high)),
        swing=0.95 if rhythmic else rng.uniform(0.1, 0.7),
        peak_hour=rng.gauss(PEAK_HOUR, 0.3 if rhythmic else 2.0),
        cpu_tail=_tail(vcpus, format_level(level), uuid, name, format_level(level)),
        memory_tail=_tail(memory_mib, "1", uuid, name, "1"),
        noise=0.0,
        resident=rng.uniform(0.3, 0.95),
    )


def _tail(config: int, subset: str, uuid: UUID, name: str, level: str) -> str:
    return f"\t{config}\tsubset-{subset}\t{uuid}\t{name}\t{level}\tNone\tNone\n"


def trace(rng: Random, workload: Workload, tally: Tally) -> Iterator[str]:
    """The trace in pieces, one per timestamp; *tally* counts along."""
    alive: dict[Level, list[Guest]] = {level: [] for level in LEVELS}
    yield HEADER.decode()
    drawn = 0
    arrivals, next_arrival = 0.0, rng.expovariate(1)
    for step in range(max(1, round(workload.hours * 3600 / workload.step_s))):
        now_s = step * workload.step_s
        by_day = cos((now_s / 3600 - PEAK_HOUR) * pi / 12)
        for level in LEVELS:
            alive[level] = [guest for guest in alive[level] if guest.leaves_s > now_s]
        coming = workload.vms if step == 0 else 0
        # A Poisson process of rate 1 on a clock that runs faster by day.
        arrivals += workload.churn * workload.vms * workload.step_s / DAY_S * (1 + 0.8 * by_day)
        while step and arrivals >= next_arrival:
            next_arrival += rng.expovariate(1)
            coming += 1
        for _ in range(coming):
            drawn += 1
            guest = draw_guest(rng, workload, drawn, now_s, settled=step == 0)
            if _fits(workload, alive, guest):
                alive[guest.level].append(guest)
                tally.vms += 1
            else:
                tally.turned_away += 1
        yield _sample(rng, workload, alive, now_s, tally)


def _owned(guests: Sequence[Guest], level: Level) -> int:
    sizes = [guest.vcpus for guest in guests]
    return cpus_needed(sum(sizes), max(sizes, default=0), level)


def _allocated_mib(alive: dict[Level, list[Guest]]) -> int:
    return sum(guest.memory_mib for guests in alive.values() for guest in guests)


def _fits(workload: Workload, alive: dict[Level, list[Guest]], guest: Guest) -> bool:
    cpus = sum(
        _owned([*guests, guest] if level == guest.level else guests, level)
        for level, guests in alive.items()
    )
    memory_mib = _allocated_mib(alive) + guest.memory_mib
    return cpus <= workload.host_cpus and memory_mib <= workload.host_memory_mib


def _sample(
    rng: Random, workload: Workload, alive: dict[Level, list[Guest]], now_s: int, tally: Tally
) -> str:
    """All rows of one timestamp, in the order a host writes them."""
    cpu_rows: list[str] = []
    memory_rows: list[str] = []
    host_used = resident_mib = 0.0
    host_owned = 0
    for level, guests in alive.items():
        if guests:
            owned = _owned(guests, level)
            host_owned += owned
            host_used += _level_rows(rng, level, guests, owned, now_s, cpu_rows)
            for guest in guests:
                resident_mib += guest.memory_mib * guest.resident
                memory_rows.append(f"{now_s}\tvm\tmem\t{guest.resident:.3f}{guest.memory_tail}")
    allocated_mib = _allocated_mib(alive)
    share = f"{resident_mib / workload.host_memory_mib:.4f}"
    used = f"{host_used:.2f}" if now_s else "None"
    rows = [
        f"{now_s}\tglobal\tcpu\t{used}\t{workload.host_cpus}{NO_VM}\n",
        *cpu_rows,
        f"{now_s}\tglobal\tmem\t{share}\t{workload.host_memory_mib}{NO_VM}\n",
    ]
    if memory_rows:
        rows.append(
            f"{now_s}\tsubset\tmem\t{share}\t{allocated_mib}\tsubset-1\tNone\tNone\t1\t0\tNone\n"
        )
        rows += memory_rows
    tally.rows += len(rows)
    tally.peak_cpus = max(tally.peak_cpus, host_owned)
    tally.peak_memory_mib = max(tally.peak_memory_mib, allocated_mib)
    return "".join(rows)


def _level_rows(
    rng: Random, level: Level, guests: Sequence[Guest], owned: int, now_s: int, rows: list[str]
) -> float:
    """Append the CPU rows of one level to *rows*; the CPUs it was seen to use."""
    wanted = [_usage(rng, guest, now_s / 3600) for guest in guests]
    # A level cannot use more than its CPUs: its VMs slow each other down.
    pace = min(1.0, owned / (sum(wanted) or 1.0))
    measured = 0.0
    vm_rows = []
    for guest, cpus in zip(guests, wanted, strict=True):
        if guest.seen:
            measured += cpus * pace
            vm_rows.append(f"{now_s}\tvm\tcpu\t{cpus * pace:.3f}{guest.cpu_tail}")
        else:  # usage is a difference of two readings, and this is the first
            guest.seen = True
            vm_rows.append(f"{now_s}\tvm\tcpu\tNone{guest.cpu_tail}")
    names = json.dumps({"vms": [guest.name for guest in guests]}, separators=(",", ":"))
    used = f"{measured:.2f}" if now_s else "None"
    label = format_level(level)
    rows.append(
        f"{now_s}\tsubset\tcpu\t{used}\t{owned}\tsubset-{label}\tNone\tNone\t{label}\t0\t{names}\n"
    )
    rows += vm_rows
    return measured


def _usage(rng: Random, guest: Guest, hour: float) -> float:
    """CPUs *guest* would use alone; moves its noise and resident memory along."""
    guest.noise = 0.7 * guest.noise + rng.uniform(-0.2, 0.2)
    guest.resident = min(0.99, max(0.05, guest.resident + rng.uniform(-0.01, 0.01)))
    if rng.random() < HIGH_CHANCE:
        return guest.vcpus * guest.high
    daily = guest.swing * cos((hour - guest.peak_hour) * pi / 12)
    return guest.vcpus * min(1.0, max(0.0, guest.average * (1 + daily + guest.noise)))


def main(arguments: Sequence[str]) -> None:
    options = Options(
        prog="python -m schedulerlocal.synth", description=SUMMARY, allow_abbrev=False
    )
    add = options.add_argument
    add("--vms", type=int, default=120, help="VMs alive at once, on average (%(default)s)")
    add("--hours", type=float, default=24.0, help="length of the trace (%(default)s)")
    add("--step-s", type=int, default=900, help="seconds between samples (%(default)s)")
    add("--seed", type=int, default=7, help="the same seed gives the same bytes (%(default)s)")
    add(
        "--shares",
        default="25,40,35",
        help="per cent of the VMs bought at 1:1, 2:1 and 3:1 (%(default)s)",
    )
    add(
        "--churn",
        type=float,
        default=round(MEAN_TURNOVER, 2),
        help="arrivals, and departures, per day for each VM alive (%(default)s)",
    )
    add("--host-cpus", type=int, default=232, help="CPUs of the host (%(default)s)")
    add(
        "--host-memory-mib",
        type=int,
        default=1_031_742,
        help="memory of the host for VMs, in MiB (%(default)s)",
    )
    add("--output", type=Path, required=True, help="the trace to write")
    chosen = options.parse_args(arguments)
    workload = Workload(
        vms=chosen.vms,
        hours=chosen.hours,
        step_s=chosen.step_s,
        shares=_shares(chosen.shares),
        churn=chosen.churn,
        host_cpus=chosen.host_cpus,
        host_memory_mib=chosen.host_memory_mib,
    )
    for name, value, most in (
        ("--vms", workload.vms, 100_000),
        ("--hours", workload.hours, 100_000),
        ("--step-s", workload.step_s, DAY_S),
        ("--host-cpus", workload.host_cpus, 1 << 16),
        ("--host-memory-mib", workload.host_memory_mib, 1 << 40),
    ):
        if not 0 < value <= most:
            raise UsageError(f"{name} is {value}; give more than 0 and at most {most:g}")
    if not 0 <= workload.churn <= 1000:
        raise UsageError(f"--churn is {workload.churn}; give 0 to 1000 arrivals per VM and day")
    tally = write(chosen.output, Random(chosen.seed), workload)
    megabytes = chosen.output.stat().st_size / 1e6
    sys.stdout.write(
        f"{chosen.output}: {tally.rows} rows, {tally.vms} VMs, {megabytes:.1f} MB;"
        f" at most {tally.peak_cpus} of {workload.host_cpus} CPUs"
        f" and {tally.peak_memory_mib} of {workload.host_memory_mib} MiB allocated,"
        f" {tally.turned_away} VMs turned away\n"
    )


def write(output: Path, rng: Random, workload: Workload) -> Tally:
    """Write the trace to *output*; raises OutputError."""
    tally = Tally()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", encoding="ascii", newline="") as file:
            file.writelines(trace(rng, workload, tally))
    except OSError as problem:
        raise OutputError(
            f"cannot write {output}: {problem.strerror}; choose another file with --output"
        ) from problem
    return tally


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(each) for each in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != len(LEVELS) or not (min(shares) >= 0 and abs(sum(shares) - 100) < 0.01):
        raise UsageError(
            f"--shares is {text!r}; give three percentages that add up to 100, like 25,40,35"
        )
    return shares


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
