"""Running ``qemu-img``, which makes the overlays: for a limited time, and without a shell."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress

from schedulercommon.errors import HypervisorError

_HEARD_BYTES = 4096
_LAST_WORDS = 200
_DISK_FULL = os.strerror(errno.ENOSPC)
_GRACE_S = 2.0

_log = logging.getLogger(__name__)


class Run:
    """One run of a program, which another thread may end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """In a group of its own, which can be ended whole; raises OSError, and TimeoutError if it
        was ended already."""
        with self._lock:
            self.check()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            return self._process

    def check(self) -> None:
        """Raise TimeoutError if it was ended."""
        if self._ended:
            raise TimeoutError

    def end(self) -> None:
        """Kill what is left of it, now or as soon as it begins."""
        with self._lock:
            self._ended = True
            if self._process is not None and self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)


def create_overlay(
    program: str, base: str, disk_bytes: int, overlay: str, timeout_s: float, run: Run
) -> None:
    """Make the file *overlay* a qcow2 disk of *disk_bytes* that builds on *base*, also qcow2.

    *overlay* may exist and keeps its mode. Both are absolute paths, which ``qemu-img`` takes as
    they are, colons and commas included. With ``-u`` it does not open *base*, whose header was
    checked and says the size. Waits for its end, for *timeout_s* or until *run* is ended. Raises
    HypervisorError.
    """
    options = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base]
    deadline_s = time.monotonic() + timeout_s
    try:
        try:
            process = run.start([program, *options, "--", overlay, str(disk_bytes)])
        except FileNotFoundError as problem:
            raise HypervisorError(
                f"{program} is not installed, and disks are made with it; install qemu-utils"
            ) from problem
        with process:
            try:
                heard = _listen(process, deadline_s)
                code = process.wait(_GRACE_S)
            finally:
                _end(run, process)
    except (TimeoutError, subprocess.TimeoutExpired) as problem:
        raise HypervisorError(
            f"{program} did not finish within {timeout_s:g} s; look at what the disks are on"
        ) from problem
    except OSError as problem:
        raise HypervisorError(
            f"{program} cannot be run ({problem.strerror}), and disks are made with it; mend that"
        ) from problem
    if code:
        words = _last_words(heard, code)
        mend = "make room" if _DISK_FULL in words else "mend that"
        raise HypervisorError(f"{program} failed ({words}); {mend} and try again")


def _listen(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """The beginning of what it says until it ends; the rest is not kept. Raises TimeoutError."""
    assert process.stderr is not None
    said, heard = process.stderr.fileno(), b""
    ready = select.poll()
    ready.register(said, select.POLLIN)
    ending = os.pidfd_open(process.pid)
    try:
        ready.register(ending, select.POLLIN)
        while (left_s := deadline_s - time.monotonic()) > 0:
            numbers = [number for number, _ in ready.poll(left_s * 1000)]
            part = os.read(said, _HEARD_BYTES) if said in numbers else b""
            heard += part[: _HEARD_BYTES - len(heard)]
            if ending in numbers and not part:
                return heard
            if said in numbers and not part:
                ready.unregister(said)
    finally:
        os.close(ending)
    raise TimeoutError


def _end(run: Run, process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of it. Stuck in the kernel it may outlive that, but we go on."""
    if process.returncode is not None:
        return
    run.end()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _log.error("process %d (qemu-img) cannot be ended; look at its disk", process.pid)
        process.returncode = -signal.SIGKILL  # nobody waits for it any more


def _last_words(heard: bytes, code: int) -> str:
    line = heard.decode(errors="replace").partition("\n")[0]
    words = "".join(character for character in line if character.isprintable())
    if words:
        return words.removeprefix("qemu-img: ")[-_LAST_WORDS:]
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"exit code {code}"
