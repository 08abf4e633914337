"""What the small commands of this package share: options that fail in one line, and exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from schedulercommon.errors import UsageError, VmStackError

DONE, FAILED, WRONG_USAGE = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE


class _StoreOnce(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string and getattr(namespace, self.dest, self.default) is not self.default:
            parser.error(f"{option_string} is given twice; give it once")
        setattr(namespace, self.dest, values)


class Options(argparse.ArgumentParser):
    """Reports wrong usage as a UsageError: one sentence, not the whole usage text.

    An option given twice is wrong usage, for one of its values would be ignored.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.register("action", None, _StoreOnce)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def exit_code(command: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int:
    """Run *command* and turn its faults into one line on standard error and an exit code.

    A command that knows more ways to end than these returns its exit code itself.
    """
    _open_closed_outputs()
    try:
        code = command(arguments)
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
        # The reader (head, say) has enough.
        _drop_output()
        return PIPE_CLOSED
    except OSError as problem:
        if problem.filename is not None:
            raise
        # Whoever opens a file names its faults, so this is what standard output leads to.
        _drop_output()
        sys.stderr.write(
            f"cannot write to standard output: {problem.strerror}; send it elsewhere\n"
        )
        return FAILED
    return DONE if code is None else code


def _open_closed_outputs() -> None:
    """A caller may have closed them (``>&-``); what is written then is for nobody."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # stays


def _drop_output() -> None:
    """Keep the interpreter's last flush from complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
