"""The command that makes topology files: ``python -m schedulerlocal.describe``.

From a few figures (sockets, cores, caches), or from what ``/sys`` says of this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from schedulercommon.errors import TopologyError, UsageError, VmStackError
from schedulerlocal.adapters.sysfs import read_sysfs
from schedulerlocal.adapters.topologyjson import topology_text, write_topology
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.topology import Cpus, Topology, exclude

_SHAPE = {
    "sockets": "CPU sockets (1)",
    "nodes_per_socket": "NUMA nodes of a socket (1)",
    "cores": "cores of a socket",
    "threads": "threads of a core (1)",
    "private_caches": "cache indexes a core has for itself (3)",
    "l3_cores": "cores that share the next cache index; 0: none (the cores of a node)",
    "socket_distance": "NUMA distance of the nodes of one socket (12)",
    "numa_distance": "NUMA distance of nodes of different sockets (20)",
    "memory_mib": "memory, total and allowed to VMs, MiB",
    "max_freq_khz": "highest frequency, kHz; 0: unknown (0)",
}
_NEEDED = ("cores", "memory_mib")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong usage."""
    try:
        options = _parser().parse_args(arguments)
        topology = _read(options)
        for note in topology.notes:
            print(f"describe: note: {note}", file=sys.stderr)
        if options.output is None:
            print(topology_text(topology), end="", flush=True)
        else:
            write_topology(options.output, topology)
    except UsageError as problem:
        print(f"describe: {problem}", file=sys.stderr)
        return 2
    except VmStackError as problem:
        print(f"describe: {problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has had enough; nor can Python flush it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m schedulerlocal.describe",
        description="Write the topology of a machine, described or this one, as JSON.",
        allow_abbrev=False,
    )
    for name, text in _SHAPE.items():
        parser.add_argument("--" + name.replace("_", "-"), type=_whole, metavar="N", help=text)
    parser.add_argument(
        "--this-machine",
        nargs="?",
        const=Path("/"),
        type=Path,
        metavar="ROOT",
        help="what /sys and /proc say, of a tree copied to ROOT if given",
    )
    parser.add_argument(
        "--exclude", type=_cpus, default=(), metavar="CPUS", help="CPUs to leave out: 0-11,128-139"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to (standard output)")
    return parser


def _read(options: argparse.Namespace) -> Topology:
    shape: dict[str, int] = {
        name: value for name in _SHAPE if (value := getattr(options, name)) is not None
    }
    if options.this_machine is not None:
        if shape:
            raise UsageError(
                f"--this-machine reads what the machine is like; drop {_option(next(iter(shape)))}"
            )
        return _without(read_sysfs(options.this_machine), options.exclude)
    if missing := [_option(name) for name in _NEEDED if name not in shape]:
        raise UsageError(f"give {' and '.join(missing)}, or --this-machine")
    try:
        topology = machine_topology(Machine(**shape))
    except TopologyError as problem:
        raise UsageError(str(problem)) from problem
    return _without(topology, options.exclude)


def _without(topology: Topology, cpus: Cpus) -> Topology:
    if unknown := set(cpus) - set(topology.ids):
        raise UsageError(
            f"--exclude names CPUs {format_cpulist(unknown)}, which the machine does not have;"
            f" it has {format_cpulist(topology.ids)}"
        )
    if len(cpus) == len(topology.cpus):
        raise UsageError("--exclude leaves no CPU; name fewer")
    return exclude(topology, cpus) if cpus else topology


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0")
    return int(text)


def _cpus(text: str) -> Cpus:
    try:
        return parse_cpulist(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


if __name__ == "__main__":
    sys.exit(main())
