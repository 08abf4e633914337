"""``python -m schedulerglobal store``: what an operator does with stores while nobody uses them."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence

from schedulerprocess.options import Options

_EPILOG = """
FROM and TO are written as for SCG_STORE. Stop the global schedulers first; what is copied stays
where it was.

example:
  python -m schedulerglobal store copy sqlite:///./schedulerglobal.db \\
      postgresql://vmstack@db1:5432/vmstack --cluster=paris
"""


def run_store_command(arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Raises VmStackError for whatever cannot be done."""
    options = Options(
        prog="python -m schedulerglobal store",
        description="Copies which VM is where from one store to another that is empty.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("command", choices=("copy",))
    options.add_argument("source", metavar="FROM")
    options.add_argument("target", metavar="TO")
    options.add_argument(
        "--cluster", metavar="NAME", help="whose database it is; replaces SCG_CLUSTER"
    )
    options.add_argument("--json", action="store_true", help="say what was copied as JSON")
    chosen = options.parse_args(arguments)

    from schedulerglobal.adapters.stores import sole_store_for, store_to_read
    from schedulerglobal.storecopy import copy_store

    cluster = chosen.cluster if chosen.cluster is not None else env.get("SCG_CLUSTER", "")
    source = store_to_read(chosen.source, cluster, "FROM")
    target = sole_store_for(chosen.target, cluster, "TO")
    hosts, promises = asyncio.run(copy_store(source, target, _shown))
    if chosen.json:
        sys.stdout.write(json.dumps({"hosts": hosts, "vms": promises}) + "\n")
    else:
        sys.stdout.write(f"copied {hosts} hosts and {promises} VMs\n")


def _shown(done: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        sys.stderr.write(f"\r{done} of {of} written{end}")
        sys.stderr.flush()
