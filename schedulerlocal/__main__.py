"""``python -m schedulerlocal``: reads the command line, chooses the parts, starts them.

What a command needs is imported once the command is known, so that ``--help`` and wrong usage
answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from schedulercommon.errors import UsageError
from schedulerprocess.options import Options, exit_code

_EPILOG = r"""
settings come from the environment and from .env; see the template dotenv.

examples:
  python -m schedulerlocal
      serves this machine: VMs run under libvirt (QEMU_URL)
  python -m schedulerlocal --topology=debug/topology_EPYC-7662.json
      serves that host, simulated, until Ctrl-C; see http://127.0.0.1:8099/
  python -m schedulerlocal --load=results/monitoring.csv \
      --topology=debug/topology_EPYC-7662-exp.json
  python -m schedulerlocal.report debug/monitoring.csv
  python -m schedulerlocal.describe --help
"""


def _options() -> Options:
    options = Options(
        prog="python -m schedulerlocal",
        description="Schedules the VMs of one host, each level on CPUs of its own: serves it,"
        " or with --load=FILE.csv replays a recorded one.",
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
        _serve(topology, Path(chosen.output), write=chosen.debug > 0)
    elif topology is None:
        raise UsageError(
            "a replay needs a host; add --topology=FILE.json,"
            " debug/topology_EPYC-7662-exp.json for example"
        )
    else:
        _replay(topology, Path(trace), Path(chosen.output), write=chosen.debug > 0)


def _replay(topology: str, trace: Path, output: Path, *, write: bool) -> None:
    from schedulerlocal.adapters.topologyjson import read_topology
    from schedulerlocal.config import HostSettings
    from schedulerlocal.hostsetup import set_up_host
    from schedulerlocal.replaycommand import ReplayFiles, run_replay
    from schedulerprocess.settings import read_environment

    settings = HostSettings.from_env(read_environment())
    host = set_up_host(read_topology(Path(topology)), settings, real=False)
    run_replay(host, ReplayFiles(trace, output, write))


def _serve(topology: str | None, output: Path, *, write: bool) -> None:
    from schedulerlocal.adapters.sysfs import read_sysfs
    from schedulerlocal.adapters.topologyjson import read_topology
    from schedulerlocal.config import HostSettings, LibvirtSettings, ServiceSettings
    from schedulerlocal.hostsetup import set_up_host
    from schedulerlocal.service import RealHypervisor, ServiceFiles, run_service
    from schedulerprocess.settings import read_environment

    env = read_environment()
    settings = ServiceSettings.from_env(env)
    chosen = settings.hypervisor or ("simulated" if topology else "libvirt")
    host_settings = HostSettings.from_env(env)
    real = None
    if chosen == "libvirt":
        real = RealHypervisor(LibvirtSettings.from_env(env), host_settings)
    elif not settings.hypervisor:
        print(
            f"the host of {topology} is simulated: VMs are kept track of, no guest runs", flush=True
        )
    found = read_topology(Path(topology)) if topology else read_sysfs()
    host = set_up_host(found, host_settings, real=real is not None or topology is None)
    run_service(host, settings, real, ServiceFiles(output, write))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
