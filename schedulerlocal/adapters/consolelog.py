"""What a guest wrote to its serial console, in the files it is logged to.

virtlogd, which writes them, begins a new file when one has grown to ``max_size`` and keeps a few
older ones beside it, ``.log.0`` being the youngest. Where it does not run QEMU writes the file by
itself, and nobody parts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path


def console_log(directory: Path, name: str) -> str:
    """The log of the VM called *name*."""
    return f"{directory}/{name}.log"


def read_end(log: str, most_bytes: int) -> bytes:
    """The last *most_bytes* of what is kept of *log*; raises OSError. None at all is no error."""
    parts: list[bytes] = []
    for path in _files(log):
        try:
            # of a folder that is ours alone, so that it is a plain file or nothing
            with open(path, "rb", opener=_without_following) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - most_bytes))
                part = file.read(most_bytes)
        except FileNotFoundError:
            if path == log:
                continue  # virtlogd is about to begin it anew
            break
        parts.append(part)
        most_bytes -= len(part)
        if not most_bytes:
            break
    return b"".join(reversed(parts))


def forget(log: str) -> None:
    """Delete *log* and the older ones beside it; raises OSError."""
    for number, path in enumerate(_files(log)):
        try:
            os.unlink(path)
        except FileNotFoundError:
            if number:
                return


def _files(log: str) -> Iterator[str]:
    """The youngest first; as many as there might be."""
    yield log
    for number in count():
        yield f"{log}.{number}"


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
