"""``python -m schedulerclient``: the command line of a cluster."""

from __future__ import annotations

import sys

from schedulerclient.cli import main
from schedulerprocess.options import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
