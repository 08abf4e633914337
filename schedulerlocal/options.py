"""What the small commands of this package share: options that fail in one line, and exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from schedulercommon.errors import UsageError, VmStackError

DONE, FAILED, WRONG_USAGE = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE


class Options(argparse.ArgumentParser):
    """Reports wrong usage as a UsageError: one sentence, not the whole usage text."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def exit_code(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run *command* and turn its faults into one line on standard error and an exit code."""
    try:
        command(arguments)
        sys.stdout.flush()
    except UsageError as problem:
        sys.stderr.write(f"{problem}\n")
        return WRONG_USAGE
    except VmStackError as problem:
        sys.stderr.write(f"{problem}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, say) has enough; keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return DONE
