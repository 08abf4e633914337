"""``make test``: all tests, in two processes beside each other, then those that measure.

``tests/parts.py`` says what is in which part. The first tells of its tests as they end, and takes
the options given here; what the second tells is kept until the first has ended, so that no line has
something of both. Ctrl-C, or a signal that asks for the end, ends both as Ctrl-C would, with
whatever they began. On a machine with one CPU each part waits for the one before.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
FAILED = 1


class Parts:
    """Those that were begun; whoever interrupts us interrupts each of them once."""

    def __init__(self) -> None:
        self.interrupted = 0
        """The signal that did it."""
        self._begun: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, part: str, *options: str, output: IO[bytes] | None = None) -> None:
        self._begun[part] = process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", f"--part={part}", *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # or a terminal's Ctrl-C would reach it, and then ours
        )
        if self.interrupted:  # as it began
            process.send_signal(signal.SIGINT)

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        self.interrupted = number
        for process in self._begun.values():
            process.send_signal(signal.SIGINT)  # nothing is sent to who has ended

    def wait(self, part: str) -> None:
        self._begun[part].wait()

    def passed(self) -> bool:
        return {process.wait() for process in self._begun.values()} == {0}


def main(options: Sequence[str]) -> int:
    parts = Parts()
    signal.signal(signal.SIGINT, parts.interrupt)
    signal.signal(signal.SIGTERM, parts.interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, parts.interrupt)
    if len(os.sched_getaffinity(0)) > 1:
        with tempfile.TemporaryFile() as kept:
            colour = ["--color=yes"] if sys.stdout.isatty() else []
            parts.begin("beside", *colour, output=kept)
            say("what reaches the decisions, beside what boots guests or only makes use of them")
            parts.begin("watched", *options)
            parts.wait("watched")
            say("what boots guests or only makes use of decisions")
            parts.wait("beside")
            kept.seek(0)
            shutil.copyfileobj(kept, sys.stdout.buffer)
    else:
        say("what reaches the decisions")
        parts.begin("watched", *options)
        parts.wait("watched")
        say("what boots guests or only makes use of decisions")
        parts.begin("beside")
        parts.wait("beside")
    if not parts.interrupted:
        say("what measures, by itself")
        parts.begin("alone")
    passed = parts.passed()
    if parts.interrupted:
        say(f"interrupted by {signal.Signals(parts.interrupted).name}")
        return 128 + parts.interrupted
    return 0 if passed else FAILED


def say(text: str) -> None:
    print(f"--- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
