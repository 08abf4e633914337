"""``python -m schedulerglobal``: reads the command line and the settings, starts the service.

What the service needs is imported once the command is known, so that ``--help`` and wrong usage
answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from schedulerprocess.options import Options, exit_code

_EPILOG = """
settings come from the environment and from .env; see the template dotenv.

examples:
  python -m schedulerglobal --list=127.0.0.1:8099
      schedules on one host until Ctrl-C; see http://127.0.0.1:8100/
  SCG_POLICY=best-fit python -m schedulerglobal --list=http://node1:8099,http://node2:8099
  python -m schedulerglobal store copy FROM TO
      moves which VM is where to another store; see store --help
"""


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["store"]:
        from schedulerglobal.storecommand import run_store_command
        from schedulerprocess.settings import read_environment

        run_store_command(arguments[1:], read_environment())
        return
    options = Options(
        prog="python -m schedulerglobal",
        description="Schedules VMs over hosts: polls their local schedulers, puts each VM where it"
        " does the most good, and remembers what it promised.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--list",
        metavar="URL,URL",
        dest="hosts",
        help="the local schedulers, http:// optional; replaces SCG_NODE_URL_LIST",
    )
    chosen = options.parse_args(arguments)

    from schedulerglobal.config import GlobalSettings
    from schedulerglobal.service import run_service
    from schedulerprocess.settings import read_environment

    run_service(GlobalSettings.from_env(read_environment(), chosen.hosts))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
