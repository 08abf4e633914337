"""Which cells a sweep has, and in what setting: its options."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

from clustersim.cells import COLUMN_GENERATION, Cell, Setting
from clustersim.distributions import PROVIDERS
from clustersim.executors import LOCAL, all_cores, check_executor
from clustersim.options import (
    add_drawn,
    add_host,
    chosen_drawn,
    chosen_host,
    parse_mix,
    parse_whole,
    read_option,
)
from clustersim.published import PUBLISHED, Mix
from clustersim.strategies import parse_policies
from schedulercommon.errors import UsageError
from schedulerprocess.options import Options

T = TypeVar("T")

POLICIES = (
    "dedicated,progress,first-fit,best-fit,product,tight,"
    "product+on-refusal,tight+clearing,tight+on-refusal"
)
SEEDS = "3"
FOLDER = "results/packing"
_MOST_SEED = 1_000_000
_MOST_CELLS = 1_000_000
_MOST_WORKERS = 1_024


@dataclass(frozen=True, slots=True)
class Grid:
    cells: tuple[Cell, ...]
    """Those of one workload next to each other; those that hold a bound come last."""
    setting: Setting
    folder: Path
    executor: str
    workers: int


def add_sweep_options(options: Options) -> None:
    add = options.add_argument
    add(
        "--published",
        action="store_true",
        help="the 30 workloads of the published comparison; without --policy, with the bound by"
        " column generation too",
    )
    add("--workload", metavar="A,B", help=f"whose VMs: {', '.join(PROVIDERS)}")
    add(
        "--mix",
        metavar="P,P,P:P,P,P",
        help="per cent of the VMs at levels 1, 2 and 3, mixes parted by colons: 50,0,50:25,25,50",
    )
    add("--policy", metavar="A,B", help=f"policies ({POLICIES})")
    add("--seeds", metavar="N", default=SEEDS, help=f"how many, from 0, or which: 4-7 ({SEEDS})")
    add(
        "--column-generation",
        action="store_true",
        help="prove a bound for each workload by column generation too, timed apart",
    )
    add_drawn(options)
    add_host(options)
    add("--output", metavar="DIR", default=FOLDER, help=f"where the results go ({FOLDER})")
    add("--workers", metavar="N", help="processes of this machine (one for each of its CPUs)")
    add(
        "--executor",
        metavar="ADDRESS",
        default=LOCAL,
        help="a Dask scheduler instead of this machine, like tcp://127.0.0.1:8786",
    )


def chosen_grid(chosen: Namespace) -> Grid:
    """Raises UsageError."""
    setting = Setting(chosen_host(chosen), **chosen_drawn(chosen))
    policies = read_option(
        "--policy", POLICIES if chosen.policy is None else chosen.policy, parse_policies
    )
    seeds = read_option("--seeds", chosen.seeds, parse_seeds)
    workloads = _workloads(chosen)
    whole = chosen.published and chosen.policy is None
    bounds = (COLUMN_GENERATION,) if chosen.column_generation or whole else ()
    count = len(workloads) * len(seeds) * len(policies + bounds)
    if count > _MOST_CELLS:
        raise UsageError(f"these are {count} cells; ask for at most {_MOST_CELLS} at once")
    cells = [
        Cell(workload, mix, seed, policy)
        for names in (policies, bounds)
        for (workload, mix), seed, policy in product(workloads, seeds, names)
    ]
    executor = read_option("--executor", chosen.executor, check_executor)
    if executor != LOCAL and chosen.workers is not None:
        raise UsageError(
            "--workers are processes of this machine, and --executor names another place to work;"
            " give one of the two"
        )
    workers = (
        all_cores()
        if chosen.workers is None
        else read_option(
            "--workers", chosen.workers, lambda text: parse_whole(text, 1, _MOST_WORKERS)
        )
    )
    return Grid(tuple(cells), setting, Path(chosen.output), executor, workers)


def _workloads(chosen: Namespace) -> Sequence[tuple[str, Mix]]:
    given = [name for name in ("workload", "mix") if getattr(chosen, name) is not None]
    if chosen.published:
        if given:
            raise UsageError(f"--published and --{given[0]} exclude each other; give one of them")
        return [(row.workload, row.mix) for row in PUBLISHED]
    if len(given) < 2:
        raise UsageError(
            "it is not said what to sweep; add --published, or --workload="
            f"{next(iter(PROVIDERS))} --mix=50,0,50:25,25,50"
        )
    names = read_option("--workload", chosen.workload, _each(",", _provider))
    mixes = read_option("--mix", chosen.mix, _each(":", parse_mix))
    return list(product(names, mixes))


def _each(separator: str, parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Reads parts of a text, no two of them the same."""

    def parse_all(text: str) -> list[T]:
        found: list[T] = []
        for part in text.split(separator):
            value = parse(part)
            if value in found:
                raise ValueError(f"{part!r} is given twice; give it once")
            found.append(value)
        return found

    return parse_all


def _provider(text: str) -> str:
    if text not in PROVIDERS:
        raise ValueError(f"there is no {text[:40]!r}; choose of {', '.join(PROVIDERS)}")
    return text


def parse_seeds(text: str) -> range:
    """``3`` stands for 0, 1 and 2, and ``4-7`` for these four."""
    first, dash, last = text.partition("-")
    try:
        if not dash:
            return range(parse_whole(first, 1, _MOST_SEED))
        seeds = range(parse_whole(first, 0, _MOST_SEED), parse_whole(last, 0, _MOST_SEED) + 1)
    except ValueError:
        seeds = range(0)
    if not seeds:
        raise ValueError(f"{text[:40]!r} says neither how many seeds nor which; write 3, or 4-7")
    return seeds
