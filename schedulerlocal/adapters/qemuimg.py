"""Running ``qemu-img``, which makes the overlays: for a limited time, and without a shell."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress

from schedulercommon.errors import HypervisorError

_HEARD_BYTES = 4096
_LAST_WORDS = 200
_DISK_FULL = os.strerror(errno.ENOSPC)
_GRACE_S = 2.0

_log = logging.getLogger(__name__)


async def create_overlay(
    program: str, base: str, disk_bytes: int, overlay: str, timeout_s: float
) -> None:
    """Make the file *overlay* a qcow2 disk of *disk_bytes* that builds on *base*, also qcow2.

    *overlay* may exist and keeps its mode. Both are absolute paths, which ``qemu-img`` takes as
    they are, colons and commas included. With ``-u`` it does not open *base*, whose header was
    checked and says the size. Raises HypervisorError.
    """
    options = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base]
    try:
        process = await _start(program, *options, "--", overlay, str(disk_bytes))
    except FileNotFoundError as problem:
        raise HypervisorError(
            f"{program} is not installed, and disks are made with it; install qemu-utils"
        ) from problem
    except OSError as problem:
        raise HypervisorError(
            f"{program} cannot be run ({problem.strerror}), and disks are made with it; mend that"
        ) from problem
    try:
        async with asyncio.timeout(timeout_s):
            heard = await _listen(process)
            code = await process.wait()
    except TimeoutError as problem:
        raise HypervisorError(
            f"{program} did not finish within {timeout_s:g} s; look at what the disks are on"
        ) from problem
    finally:
        await _end(process)
    if code:
        words = _last_words(heard, code)
        mend = "make room" if _DISK_FULL in words else "mend that"
        raise HypervisorError(f"{program} failed ({words}); {mend} and try again")


async def _start(*command: str) -> Process:
    """Start it in a group of its own, which can be ended whole, even if cancelled meanwhile."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, start_new_session=True
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError):
            await _end(await starting)
        raise


async def _listen(process: Process) -> bytes:
    """The beginning of what it says; the rest is not kept."""
    assert process.stderr is not None
    heard = b""
    while part := await process.stderr.read(_HEARD_BYTES):
        heard += part[: _HEARD_BYTES - len(heard)]
    return heard


async def _end(process: Process) -> None:
    """Kill what is left of it. Stuck in the kernel it may outlive that, but we go on."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        _log.error("process %d (qemu-img) cannot be ended; look at its disk", process.pid)


def _last_words(heard: bytes, code: int) -> str:
    line = heard.decode(errors="replace").partition("\n")[0]
    words = "".join(character for character in line if character.isprintable())
    if words:
        return words.removeprefix("qemu-img: ")[-_LAST_WORDS:]
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"exit code {code}"
