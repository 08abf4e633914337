"""What a VM's disk is, what its domain notes of it, and whether its base is as it was."""

from __future__ import annotations

import os
from dataclasses import dataclass

from schedulerlocal.adapters.domainmetadata import DomainMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What an overlay builds on, as it was when the overlay was made."""

    path: str
    size_bytes: int
    """Of the file, not of the disk in it."""
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A VM's disk, which is always qcow2."""

    path: str
    base: Base | None
    """None: the disk is the image itself."""


def base_changed(base: Base) -> str | None:
    """What is different about *base* now, as a sentence without its end; None if nothing is."""
    try:
        facts = os.stat(base.path)
    except OSError as problem:
        return f"its base image {base.path} cannot be found ({problem.strerror})"
    if facts.st_size != base.size_bytes:
        return f"its base image {base.path} had {base.size_bytes} bytes and has {facts.st_size}"
    if facts.st_mtime_ns != base.mtime_ns:
        return f"its base image {base.path} was written to"
    return None


def disk_of(metadata: DomainMetadata) -> Disk | None:
    """The disk of a VM made here; an adopted one's is not ours to delete or to guard."""
    if not metadata.disk_path:
        return None
    base = None
    if metadata.base_path:
        base = Base(
            path=metadata.base_path,
            size_bytes=metadata.base_size_bytes,
            mtime_ns=metadata.base_mtime_ns,
        )
    return Disk(path=metadata.disk_path, base=base)
