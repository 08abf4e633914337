"""What a service says on stderr while it runs, for a person or for systemd's journal."""

from __future__ import annotations

import logging
import os
import sys

from schedulerprocess.settings import journal_stream

_LINE = "%(levelname)s %(name)s: %(message)s"


def log_to_stderr() -> None:
    """Everything from INFO on, with the time, but for a journal that notes it by itself."""
    line = _LINE if _goes_to_journal() else f"%(asctime)s {_LINE}"
    logging.basicConfig(format=line, level="INFO")


def _goes_to_journal() -> bool:
    """Ours may be another file by now, and what a unit starts inherits systemd's word."""
    try:
        about = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # there is no stderr, or none with a number
        return False
    return journal_stream() == f"{about.st_dev}:{about.st_ino}"
