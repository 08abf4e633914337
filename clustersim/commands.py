"""What ``size``, ``run`` and ``generate`` take, do and say."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic

from clustersim.bounds import volume_bound, whole_hosts
from clustersim.engine import Event, Outage, Outcome, run
from clustersim.generator import DAY_S, generate
from clustersim.hosts import SimulatedHosts
from clustersim.options import (
    add_host,
    add_workload,
    chosen_host,
    chosen_recipe,
    chosen_seed,
    chosen_workload,
    parse_hosts,
    parse_outages,
    parse_seconds,
    read_option,
)
from clustersim.placements import (
    PLACEMENT_COLUMNS,
    check_writable,
    placement_lines,
    trace_lines,
    write_lines,
)
from clustersim.size import Sized, least_hosts
from clustersim.strategies import DEFAULT, parse_policies, parse_strategy
from clustersim.workload import HostSize, Workload
from schedulercommon.errors import UsageError
from schedulercommon.levels import MIB_PER_GB
from schedulerprocess.options import Options
from schedulerprocess.settings import parse_file

_PATIENCE_S = 2.0
"""After which whoever waits is told how far it is."""


def add_size_options(options: Options) -> None:
    add_workload(options)
    add_host(options)
    options.add_argument(
        "--policy",
        metavar="A,B",
        help=f"policies to compare ({','.join(DEFAULT)})",
    )
    _add_placements(options)
    options.add_argument("--json", action="store_true", help="print the bound and the hosts only")


def size(chosen: Namespace) -> None:
    """Raises UsageError, InputError and OutputError."""
    host = chosen_host(chosen)
    policies = DEFAULT
    if chosen.policy is not None:
        policies = read_option("--policy", chosen.policy, parse_policies)
    seed = chosen_seed(chosen)
    placements = _placements(chosen)
    trace = chosen_workload(chosen)
    trace.check_fits(host)
    workload = trace.workload
    told = _Told()
    found = [least_hosts(workload, host, policy, seed, told) for policy in policies]
    if placements is not None:
        _write_placements(placements, [(each.policy, each.events) for each in found])
    bound = volume_bound(workload, host)
    if chosen.json:
        hosts = {each.policy: each.hosts for each in found}
        sys.stdout.write(json.dumps({"bound": bound, "hosts": hosts}) + "\n")
    else:
        sys.stdout.writelines(_size_lines(workload, host, bound, found))


def add_run_options(options: Options) -> None:
    add_workload(options)
    add_host(options)
    options.add_argument("--hosts", metavar="N", help="how many hosts there are")
    options.add_argument(
        "--policy", metavar="A", default="best-fit", help="how hosts are chosen (best-fit)"
    )
    options.add_argument(
        "--outages",
        metavar="HOST@S-S,…",
        help="hosts, numbered from 0, that fail and return, in seconds: 3@3600-7200,5@90000;"
        " their VMs are placed anew at once, and lost where there is no room",
    )
    options.add_argument(
        "--boot-delay",
        metavar="S",
        default="0",
        help="until a host that returned takes VMs; s (0)",
    )
    _add_placements(options)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")


def run_once(chosen: Namespace) -> None:
    """Raises UsageError, InputError and OutputError. What is refused is a result."""
    host = chosen_host(chosen)
    if chosen.hosts is None:
        raise UsageError("it is not said how many hosts there are; add --hosts=40 or another")
    count = read_option("--hosts", chosen.hosts, parse_hosts)
    strategy = read_option("--policy", chosen.policy, parse_strategy)
    outages: tuple[Outage, ...] = ()
    if chosen.outages is not None:
        outages = read_option("--outages", chosen.outages, lambda text: parse_outages(text, count))
    boot_delay_s = read_option("--boot-delay", chosen.boot_delay, parse_seconds)
    seed = chosen_seed(chosen)
    placements = _placements(chosen)
    trace = chosen_workload(chosen)
    trace.check_fits(host)
    outcome = run(
        trace.workload,
        SimulatedHosts(host, count),
        strategy,
        seed=seed,
        outages=outages,
        boot_delay_s=boot_delay_s,
        watch=partial(_Told(), strategy.name, count),
    )
    if placements is not None:
        _write_placements(placements, [(strategy.name, outcome.events)])
    if chosen.json:
        sys.stdout.write(json.dumps(_figures(strategy.name, trace.workload, host, outcome)) + "\n")
    else:
        sys.stdout.writelines(_run_lines(strategy.name, trace.workload, host, outcome))


def add_generate_options(options: Options) -> None:
    add_workload(options, traces=False)
    options.add_argument("--output", metavar="FILE", help="the trace to write (standard output)")


def generate_trace(chosen: Namespace) -> None:
    """Raises UsageError and OutputError."""
    recipe = chosen_recipe(chosen)
    output = None
    if chosen.output is not None:
        output = read_option("--output", chosen.output, parse_file)
        check_writable(output, "--output")
    lines = trace_lines(generate(recipe))
    if output is None:
        sys.stdout.writelines(lines)
    else:
        write_lines(output, lines, "--output")


def _add_placements(options: Options) -> None:
    options.add_argument(
        "--placements", metavar="OUT.csv", help=f"write there {','.join(PLACEMENT_COLUMNS)}"
    )


def _placements(chosen: Namespace) -> Path | None:
    if chosen.placements is None:
        return None
    path = read_option("--placements", chosen.placements, parse_file)
    if chosen.trace is not None and _same_file(path, Path(chosen.trace)):
        raise UsageError(f"--placements would overwrite the trace {path}; choose another file")
    check_writable(path, "--placements")
    return path


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False  # not there, or beyond reach; reading and writing will tell


def _write_placements(path: Path, happened: Sequence[tuple[str, Iterable[Event]]]) -> None:
    lines = (placement_lines(policy, events) for policy, events in happened)
    header = ",".join(PLACEMENT_COLUMNS) + "\n"
    write_lines(path, chain((header,), *lines), "--placements")


class _Told:
    """Says on standard error how far it is, once that takes long."""

    def __init__(self) -> None:
        self._last_s = monotonic()

    def __call__(self, policy: str, hosts: int, now_s: float) -> None:
        clock_s = monotonic()
        if clock_s - self._last_s >= _PATIENCE_S:
            self._last_s = clock_s
            sys.stderr.write(f"{policy}: trying {hosts} hosts, day {now_s / DAY_S:.1f}\n")
            sys.stderr.flush()


def _size_lines(
    workload: Workload, host: HostSize, bound: float, found: Sequence[Sized]
) -> Iterator[str]:
    least = whole_hosts(bound)
    yield f"{len(workload)} VMs; hosts of {_shown(host)}\n"
    yield f"no policy can do with fewer than {bound:.2f} hosts, that is {least}\n\n"
    moved = any(each.moves for each in found)
    width = max(len("policy"), *(len(each.policy) for each in found))
    over = f"above {least}"
    yield f"{'policy':<{width}}  hosts  {over:>12}{'  moves  GB moved' if moved else ''}\n"
    for each in found:
        above = f"{each.hosts / least - 1:+.1%}".replace("%", " %")
        moves = f"  {each.moves:>5}  {each.moved_gb:>8.1f}" if moved else ""
        yield f"{each.policy:<{width}}  {each.hosts:>5}  {above:>12}{moves}\n"


def _run_lines(policy: str, workload: Workload, host: HostSize, outcome: Outcome) -> Iterator[str]:
    yield f"{policy} on {outcome.hosts} hosts of {_shown(host)}\n"
    refused = f"{len(outcome.refused)} refused"
    if outcome.refused:
        first = outcome.refused[0]
        refused += f", first VM {first} at {workload[first].arrival_s:g} s"
    yield f"{len(workload)} VMs, {refused}\n"
    if outcome.restarted or outcome.lost:
        yield (
            f"{outcome.restarted} placed anew when their host failed,"
            f" {len(outcome.lost)} lost for want of room\n"
        )
    if outcome.moves:
        yield f"{outcome.moves} moves of {outcome.moved_mib / MIB_PER_GB:.1f} GB in all\n"
    cpus, memory_mib = outcome.hosts * host.cpus, outcome.hosts * host.memory_mib
    yield (
        f"at most {outcome.peak_vms} VMs, {outcome.peak_cpus} of {cpus} CPUs"
        f" ({_percent(outcome.peak_cpus, cpus)}) and {outcome.peak_memory_mib} of {memory_mib} MiB"
        f" ({_percent(outcome.peak_memory_mib, memory_mib)}) promised\n"
        f"on average {_percent(outcome.mean_cpus, cpus)} of the CPUs"
        f" and {_percent(outcome.mean_memory_mib, memory_mib)} of the memory\n"
    )


def _figures(
    policy: str, workload: Workload, host: HostSize, outcome: Outcome
) -> dict[str, object]:
    return {
        "policy": policy,
        "hosts": outcome.hosts,
        "vms": len(workload),
        "refused": list(outcome.refused),
        "restarted": outcome.restarted,
        "lost": list(outcome.lost),
        "moves": outcome.moves,
        "moved_mib": outcome.moved_mib,
        "peak_vms": outcome.peak_vms,
        "peak_cpus": outcome.peak_cpus,
        "peak_memory_mib": outcome.peak_memory_mib,
        "mean_cpu_share": outcome.mean_cpus / (outcome.hosts * host.cpus),
        "mean_memory_share": outcome.mean_memory_mib / (outcome.hosts * host.memory_mib),
    }


def _percent(part: float, whole: int) -> str:
    return f"{part / whole:.1%}".replace("%", " %")


def _shown(host: HostSize) -> str:
    return f"{host.cpus} CPUs and {host.memory_mib / MIB_PER_GB:g} GB"
