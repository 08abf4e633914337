"""``python -m clustersim``: reads the command line and starts what it names.

Libraries that only one command needs are imported when it starts, so that ``--help`` and wrong
usage answer at once.
"""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clustersim.commands import (
    add_generate_options,
    add_run_options,
    add_size_options,
    generate_trace,
    run_once,
    size,
)
from clustersim.grid import add_sweep_options
from clustersim.report import add_report_options, report
from clustersim.sweep import sweep
from schedulerprocess.options import Options, exit_code

_EPILOG = r"""
examples:
  python -m clustersim size --workload=ovhcloud2023 --mix=50,0,50
      the fewest hosts for 500 VMs over a week, by policy
  python -m clustersim size --trace=vms.csv --host=64x256 --policy=best-fit,dedicated --json
  python -m clustersim generate --workload=azure2017 --mix=25,25,50 --seed=3 --output=vms.csv
  python -m clustersim run --trace=vms.csv --hosts=40 --policy=best-fit --outages=3@3600-7200
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A word on the command line."""

    summary: str
    add_options: Callable[[Options], None]
    start: Callable[[Namespace], None]


COMMANDS: Mapping[str, Command] = {
    "size": Command("find the fewest hosts on which nothing is refused", add_size_options, size),
    "run": Command("tell what becomes of a workload on so many hosts", add_run_options, run_once),
    "generate": Command("write a workload as a trace", add_generate_options, generate_trace),
    "sweep": Command("size many workloads for many policies", add_sweep_options, sweep),
    "report": Command("show and draw what a sweep found", add_report_options, report),
}


def _options() -> Options:
    options = Options(
        prog="python -m clustersim",
        description="How many hosts does it take? Runs the schedulers' own decisions over"
        " workloads that are drawn or were recorded.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = options.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True
    )
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[:1].upper()}{command.summary[1:]}.",
            allow_abbrev=False,
        )
        command.add_options(added)
    return options


def main(arguments: Sequence[str]) -> None:
    chosen = _options().parse_args(arguments)
    COMMANDS[chosen.command].start(chosen)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
