"""The options that the simulator's commands share, and what they mean.

Every fault is a UsageError that names the option, or an InputError or OutputError that names the
file.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import inf
from typing import TypedDict, TypeVar

from clustersim.distributions import PROVIDERS
from clustersim.engine import Outage
from clustersim.generator import DAY_S, RANK_CORRELATION, TURNOVER, Recipe, generate
from clustersim.tracefile import Trace, read_trace
from clustersim.workload import HostSize
from schedulercommon.errors import UsageError
from schedulercommon.levels import MIB_PER_GB, parse_decimal
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS
from schedulerprocess.options import Options
from schedulerprocess.settings import parse_file

T = TypeVar("T")

HOST = "32x128"
VMS = 500
DAYS = 7.0
_MOST_VMS = 1_000_000
_MOST_DAYS = 3_650
_MOST_HOSTS = 1_000_000
_MOST_SEED = (1 << 63) - 1
_LEAST_TURNOVER, _MOST_TURNOVER = 0, 1_000
_DRAWN = ("mix", "vms", "days", "turnover", "correlation")
"""Options that say nothing of a workload that is read."""


class Drawn(TypedDict):
    """What a drawn workload is like, whosever VMs it has."""

    vms: int
    days: float
    turnover: float
    correlation: float


def add_host(options: Options) -> None:
    options.add_argument(
        "--host", metavar="CPUSxGB", default=HOST, help=f"the size of every host ({HOST})"
    )


def add_workload(options: Options, *, traces: bool = True) -> None:
    """The options :func:`chosen_workload` reads; *traces* says whether it may be a recorded one."""
    if traces:
        options.add_argument(
            "--trace",
            metavar="FILE",
            help="a CSV of arrival_s,departure_s,vcpus,memory_mib,level (no departure: it stays),"
            " or a monitoring CSV",
        )
    options.add_argument(
        "--workload", metavar="NAME", help=f"draw VMs like those of {', '.join(PROVIDERS)}"
    )
    options.add_argument(
        "--mix", metavar="P,P,P", help="per cent of the VMs at levels 1, 2 and 3; 50,0,50 say"
    )
    add_drawn(options)
    options.add_argument("--seed", metavar="N", default="0", help="what chance is drawn from (0)")


def add_drawn(options: Options) -> None:
    """What :func:`chosen_drawn` reads."""
    options.add_argument("--vms", metavar="N", help=f"VMs to begin with ({VMS})")
    options.add_argument("--days", metavar="D", help=f"how long ({DAYS:g})")
    options.add_argument(
        "--turnover",
        metavar="X",
        help=f"arrivals, and departures, a day for each VM ({TURNOVER:g})",
    )
    options.add_argument(
        "--correlation",
        metavar="X",
        help=f"of the ranks of vCPUs and memory, -1 to 1 ({RANK_CORRELATION:g})",
    )


def chosen_workload(chosen: Namespace) -> Trace:
    """The workload asked for, read or drawn."""
    trace = getattr(chosen, "trace", None)
    if trace is None:
        recipe = chosen_recipe(chosen)
        name = f"the generated workload {recipe.provider}"
        return Trace(generate(recipe), (), name)
    given = [name for name in ("workload", *_DRAWN) if getattr(chosen, name) is not None]
    if given:
        raise UsageError(f"--trace and --{given[0]} exclude each other; give one of the two")
    return read_trace(read_option("--trace", trace, parse_file))


def chosen_recipe(chosen: Namespace) -> Recipe:
    if chosen.workload is None:
        either = "--trace=FILE or " if hasattr(chosen, "trace") else ""
        raise UsageError(
            f"there is no workload; add {either}--workload={next(iter(PROVIDERS))} --mix=50,0,50"
        )
    if chosen.workload not in PROVIDERS:
        raise UsageError(
            f"--workload: there is no {chosen.workload[:40]!r}; choose of {', '.join(PROVIDERS)}"
        )
    if chosen.mix is None:
        raise UsageError("a workload has a mix of levels; add --mix=50,0,50 or another")
    return Recipe(
        provider=chosen.workload,
        mix=read_option("--mix", chosen.mix, parse_mix),
        seed=chosen_seed(chosen),
        **chosen_drawn(chosen),
    )


def chosen_drawn(chosen: Namespace) -> Drawn:
    """Of the options of :func:`add_drawn`."""
    return Drawn(
        vms=_number(chosen, "vms", VMS, lambda text: parse_whole(text, 1, _MOST_VMS)),
        days=_number(chosen, "days", DAYS, parse_days),
        turnover=_number(chosen, "turnover", TURNOVER, parse_turnover),
        correlation=_number(chosen, "correlation", RANK_CORRELATION, parse_correlation),
    )


def chosen_seed(chosen: Namespace) -> int:
    return read_option("--seed", chosen.seed, lambda text: parse_whole(text, 0, _MOST_SEED))


def chosen_host(chosen: Namespace) -> HostSize:
    return read_option("--host", chosen.host, parse_host)


def read_option(option: str, text: str, parse: Callable[[str], T]) -> T:
    """What *parse* makes of *text*; its ValueError becomes a UsageError that names *option*."""
    try:
        return parse(text)
    except ValueError as problem:
        raise UsageError(f"{option}: {problem}") from None


def _number(chosen: Namespace, name: str, default: T, parse: Callable[[str], T]) -> T:
    text = getattr(chosen, name)
    return default if text is None else read_option(f"--{name}", text, parse)


def parse_host(text: str) -> HostSize:
    """``32x128``: CPUs and GB, the latter rounded down to whole MiB."""
    cpus, _, gigabytes = text.partition("x")
    try:
        amounts = parse_decimal(cpus), parse_decimal(gigabytes) * MIB_PER_GB
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a size; write CPUs and GB like {HOST}") from None
    if amounts[0].denominator != 1 or not 1 <= amounts[0] <= MAX_VCPUS:
        raise ValueError(f"{text!r}: a host has from 1 to {MAX_VCPUS} CPUs, whole ones")
    if not 1 <= amounts[1] <= MAX_MEMORY_MIB:
        raise ValueError(
            f"{text!r}: a host has at least 1 MiB and at most {MAX_MEMORY_MIB // MIB_PER_GB} GB"
        )
    return HostSize(int(amounts[0]), int(amounts[1]))


def parse_mix(text: str) -> tuple[Fraction, ...]:
    """Percentages of levels 1, 2 and 3 as shares of 1."""
    try:
        parts = tuple(parse_decimal(part) for part in text.split(","))
    except ValueError:
        parts = ()
    if len(parts) != 3:
        raise ValueError(
            f"{text[:40]!r} is not a mix; give three percentages, of levels 1, 2 and 3, like"
            " 50,0,50"
        )
    if sum(parts) != 100:
        raise ValueError(f"{text!r} sums to {float(sum(parts)):g}; percentages must sum to 100")
    return tuple(part / 100 for part in parts)


def parse_whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        raise ValueError(f"{text[:40]!r} is not a whole number from {least} to {most}")
    return int(text)


def parse_hosts(text: str) -> int:
    return parse_whole(text, 1, _MOST_HOSTS)


def parse_days(text: str) -> float:
    days = parse_decimal(text)
    if not 0 < days <= _MOST_DAYS:
        raise ValueError(f"{text!r} is not a number of days above 0 and up to {_MOST_DAYS}")
    return float(days)


def parse_turnover(text: str) -> float:
    turnover = float(parse_decimal(text))
    if not _LEAST_TURNOVER <= turnover <= _MOST_TURNOVER:
        raise ValueError(f"{text!r} is not from {_LEAST_TURNOVER} to {_MOST_TURNOVER}")
    return turnover


def parse_correlation(text: str) -> float:
    correlation = float(parse_decimal(text.removeprefix("-")))
    if correlation > 1:
        raise ValueError(f"{text!r} is not from -1 to 1")
    return -correlation if text.startswith("-") else correlation


def parse_seconds(text: str) -> float:
    seconds = float(parse_decimal(text))
    if seconds > _MOST_DAYS * DAY_S:
        raise ValueError(f"{text!r} is longer than {_MOST_DAYS} days, in seconds")
    return seconds


def parse_outages(text: str, hosts: int) -> tuple[Outage, ...]:
    """``3@3600-7200,5@90000``: host 3 fails at 3600 s and returns at 7200 s, host 5 stays away."""
    outages: list[Outage] = []
    for part in text.split(","):
        row, at, times = part.partition("@")
        fails, dash, returns = times.partition("-")
        try:
            if not at:
                raise ValueError
            outage = Outage(
                parse_whole(row, 0, _MOST_HOSTS),
                parse_seconds(fails),
                parse_seconds(returns) if dash else inf,
            )
        except ValueError:
            raise ValueError(
                f"{part[:60]!r} is not an outage; write HOST@SECONDS-SECONDS like 3@3600-7200,"
                " or HOST@SECONDS for a host that stays away"
            ) from None
        if outage.row >= hosts:
            raise ValueError(f"{part!r}: hosts are numbered from 0 to {hosts - 1}")
        if outage.returns_s <= outage.fails_s:
            raise ValueError(f"{part!r}: a host returns after it failed")
        outages.append(outage)
    outages.sort(key=lambda outage: (outage.row, outage.fails_s))
    for one, next_one in pairwise(outages):
        if one.row == next_one.row and next_one.fails_s <= one.returns_s:
            raise ValueError(f"host {one.row} fails at {next_one.fails_s:g} s while it is away")
    return tuple(outages)
