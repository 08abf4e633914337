"""``python -m schedulerlocal``: reads the command line, chooses the parts, starts them.

What a command needs is imported once the command is known, so that ``--help`` and wrong usage
answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from schedulercommon.errors import ConfigError, UsageError
from schedulerlocal.options import Options, exit_code

_EPILOG = r"""
settings come from the environment and from .env; see the template dotenv.

examples:
  python -m schedulerlocal --load=results/monitoring.csv \
      --topology=debug/topology_EPYC-7662-exp.json
  python -m schedulerlocal.report debug/monitoring.csv
  python -m schedulerlocal.describe --help
"""


def _options() -> Options:
    options = Options(
        prog="python -m schedulerlocal",
        description="Schedules the VMs of one host, each level on CPUs of its own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--topology", metavar="FILE.json", help="the host's CPUs and memory, instead of /sys"
    )
    options.add_argument(
        "--load",
        metavar="FILE",
        help="replay this monitoring CSV offline on --topology, then end;"
        " FILE.json is an older spelling of --topology",
    )
    options.add_argument(
        "--debug",
        metavar="N",
        type=int,
        choices=range(10),
        default=0,
        help="1: write the topology found and the monitoring CSV",
    )
    options.add_argument(
        "--output", metavar="DIR", default="debug", help="where --debug writes (default: debug)"
    )
    return options


def main(arguments: Sequence[str]) -> None:
    chosen = _options().parse_args(arguments)
    topology, trace = chosen.topology, chosen.load
    if trace is not None and trace.endswith(".json"):
        if topology is not None:
            raise UsageError("--load=FILE.json is an older --topology; give one of the two")
        topology, trace = trace, None
    if trace is None:
        raise UsageError("nothing to replay; name a monitoring CSV with --load=FILE.csv")
    if topology is None:
        raise UsageError(
            "a replay needs a host; add --topology=FILE.json,"
            " debug/topology_EPYC-7662-exp.json for example"
        )
    from schedulerlocal.adapters.topologyjson import read_topology
    from schedulerlocal.config import HostSettings, read_environment
    from schedulerlocal.core.host import Host, Rules
    from schedulerlocal.core.topology import exclude
    from schedulerlocal.replaycommand import ReplayFiles, run_replay

    settings = HostSettings.from_env(read_environment())
    found = read_topology(Path(topology))
    rules = Rules(
        smt_isolation=settings.smt_isolation,
        critical_size=settings.critical_size,
        vm_overhead_mib=settings.vm_overhead_mib or 0,
        reserved_memory_mib=settings.reserved_memory_mib or 0,
    )
    try:
        host = Host(exclude(found, settings.excluded_cpus + settings.host_cpus), rules)
    except ValueError as problem:
        raise ConfigError(str(problem)) from problem
    run_replay(host, ReplayFiles(Path(trace), Path(chosen.output), write=chosen.debug > 0))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
