"""Running ``qemu-img``, which makes the overlays: for a limited time, and without a shell."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import threading
from contextlib import suppress

from schedulercommon.errors import HypervisorError

_HEARD_BYTES = 4096
_LAST_WORDS = 200
_DISK_FULL = os.strerror(errno.ENOSPC)
_GRACE_S = 2.0
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

_log = logging.getLogger(__name__)


class Run:
    """One run of a program, which another thread may end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._ended = False

    def start(self, command: list[str], told: int) -> int:
        """In a group of its own, which can be ended whole; what it tells goes to the file *told*.

        Raises OSError, and TimeoutError if it was ended already.
        """
        nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
        with self._lock:
            self.check()
            self._pid = os.posix_spawnp(
                command[0],
                command,
                _ENVIRONMENT,
                file_actions=[*nothing, (os.POSIX_SPAWN_DUP2, told, 2)],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )
            return self._pid

    def check(self) -> None:
        """Raise TimeoutError if it was ended."""
        if self._ended:
            raise TimeoutError

    def end(self) -> None:
        """Kill what is left of it, now or as soon as it begins."""
        with self._lock:
            self._ended = True
            if self._pid is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)

    def exit_code(self, pid: int) -> int:
        """Of a process that has ended; its number may be another's from now on."""
        with self._lock:
            self._pid = None
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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
    told = os.memfd_create("qemu-img")
    try:
        pid = run.start([program, *options, "--", overlay, str(disk_bytes)], told)
        code = _ended(pid, run, timeout_s)
        heard = os.pread(told, _HEARD_BYTES, 0)
    except TimeoutError as problem:
        raise HypervisorError(
            f"{program} did not finish within {timeout_s:g} s; look at what the disks are on"
        ) from problem
    except FileNotFoundError as problem:
        raise HypervisorError(
            f"{program} is not installed, and disks are made with it; install qemu-utils"
        ) from problem
    except OSError as problem:
        raise HypervisorError(
            f"{program} cannot be run ({problem.strerror}), and disks are made with it; mend that"
        ) from problem
    finally:
        os.close(told)
    if code:
        words = _last_words(heard, code)
        mend = "make room" if _DISK_FULL in words else "mend that"
        raise HypervisorError(f"{program} failed ({words}); {mend} and try again")


def _ended(pid: int, run: Run, timeout_s: float) -> int:
    """Its exit code. Raises TimeoutError: it is killed, and stuck in the kernel may outlive that,
    but we go on."""
    process = os.pidfd_open(pid)
    try:
        ready = select.poll()
        ready.register(process, select.POLLIN)
        if ready.poll(timeout_s * 1000):
            return run.exit_code(pid)
        run.end()
        if ready.poll(_GRACE_S * 1000):
            run.exit_code(pid)
        else:
            _log.error("process %d (qemu-img) cannot be ended; look at its disk", pid)
            threading.Thread(target=os.waitpid, args=(pid, 0), daemon=True).start()
    finally:
        os.close(process)
    raise TimeoutError


def _last_words(heard: bytes, code: int) -> str:
    line = heard.decode(errors="replace").partition("\n")[0]
    words = "".join(character for character in line if character.isprintable())
    if words:
        return words.removeprefix("qemu-img: ")[-_LAST_WORDS:]
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"exit code {code}"
