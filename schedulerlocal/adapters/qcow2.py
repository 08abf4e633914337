"""What a qcow2 file says about itself and about the files it builds on, read from its header.

Read here and not by ``qemu-img``, which would open whatever a header names. Where a header can be
understood in two ways it is refused, so that nobody else reads a name in it that we did not see.
Its layout is in ``docs/interop/qcow2.txt`` of QEMU's sources.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LARGEST_DISK_BYTES = 1 << 51
"""The most a qcow2 disk with clusters of the usual 64 KiB can hold."""

_MAGIC = b"QFI\xfb"
_V2_BYTES, _V3_BYTES = 72, 104
_CLUSTER_BITS = range(9, 22)
_LONGEST_NAME = 1023

_CORRUPT, _DATA_FILE = 1 << 1, 1 << 2
# dirty, corrupt, data file, kind of compression, extended L2 entries
_KNOWN_FEATURES = 0b11111

_END, _BACKING_FORMAT, _DATA_FILE_NAME = 0, 0xE2792ACA, 0x44415441

_DAMAGED = "has a damaged qcow2 header"


@dataclass(frozen=True, slots=True)
class Header:
    """A disk, and the file it builds on if ``backing`` is not empty."""

    disk_bytes: int
    backing: str = ""
    backing_format: str = ""
    """Empty if the header does not say."""


def read_header(first: Callable[[int], bytes]) -> Header:
    """The header of a file of which ``first(n)`` reads the first *n* bytes, or all if it has less.

    Raises ValueError with what is wrong, to be said after the name of the file.
    """
    head = first(_V3_BYTES)
    if head[:4] != _MAGIC:
        raise ValueError("is not a qcow2 image")
    if len(head) < _V3_BYTES:
        raise ValueError(_DAMAGED)
    version, name_at, name_bytes, cluster_bits, disk_bytes, encryption = struct.unpack_from(
        ">IQIIQI", head, 4
    )
    if version not in (2, 3):
        raise ValueError(f"is of qcow2 version {version}, and only 2 and 3 are known")
    if cluster_bits not in _CLUSTER_BITS:
        raise ValueError(_DAMAGED)
    if encryption:
        raise ValueError("is encrypted")
    if disk_bytes > LARGEST_DISK_BYTES:
        raise ValueError(f"says to be a disk of {disk_bytes} bytes, more than there can be")
    cluster_bytes = 1 << cluster_bits
    header_bytes = _V2_BYTES
    if version == 3:  # the first with features
        _check_features(int.from_bytes(head[72:80]))
        header_bytes = int.from_bytes(head[100:104])
        if not _V3_BYTES <= header_bytes <= cluster_bytes:
            raise ValueError(_DAMAGED)
    if not name_at:
        head = first(cluster_bytes)
        return Header(disk_bytes, "", _backing_format(head, header_bytes, cluster_bytes))
    name_end = name_at + name_bytes
    if not header_bytes <= name_at <= name_end <= cluster_bytes:
        raise ValueError(_DAMAGED)
    head = first(name_end)  # a cluster has far more
    if len(head) < name_end:
        raise ValueError(_DAMAGED)
    name = head[name_at:]
    if len(name) > _LONGEST_NAME or b"\0" in name:
        raise ValueError(_DAMAGED)
    return Header(disk_bytes, os.fsdecode(name), _backing_format(head, header_bytes, name_at))


def _check_features(features: int) -> None:
    if features & _DATA_FILE:
        raise ValueError("keeps its data in another file")
    if features & _CORRUPT:
        raise ValueError("is marked as damaged")
    if features & ~_KNOWN_FEATURES:
        raise ValueError("needs features of qcow2 that are not known here")


def _backing_format(head: bytes, start: int, end: int) -> str:
    formats = []
    for kind, data in _extensions(head, start, min(end, len(head))):
        if kind == _DATA_FILE_NAME:
            raise ValueError("keeps its data in another file")
        if kind == _BACKING_FORMAT:
            formats.append(data.decode("latin-1"))
    if len(formats) > 1:
        raise ValueError(_DAMAGED)
    return formats[0] if formats else ""


def _extensions(head: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", head, at)
        if kind == _END:
            return
        at += 8
        if length > end - at:
            raise ValueError(_DAMAGED)
        yield kind, head[at : at + length]
        at += -(-length // 8) * 8
