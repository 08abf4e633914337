"""qcow2 files: honest ones by the real ``qemu-img``, others by hand."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

CLUSTER = 65_536
BACKING_FORMAT, DATA_FILE_NAME, UNKNOWN = 0xE2792ACA, 0x44415441, 0x12345678


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def make_image(path: Path, *options: str, size: str = "64M") -> Path:
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


def extension(kind: int, data: bytes, length: int | None = None) -> bytes:
    padding = b"\0" * (-len(data) % 8)
    return struct.pack(">II", kind, len(data) if length is None else length) + data + padding


def header(
    *,
    version: int = 3,
    backing: bytes = b"",
    extensions: bytes = b"",
    features: int = 0,
    encryption: int = 0,
    cluster_bits: int = 16,
    disk_bytes: int = 1 << 26,
    header_bytes: int = 104,
    backing_at: int | None = None,
    backing_bytes: int | None = None,
) -> bytes:
    """The first cluster of a qcow2 file that says all this, true or not."""
    header_bytes = header_bytes if version == 3 else 72
    name_at = header_bytes + len(extensions) + 8
    where = backing_at if backing_at is not None else name_at if backing else 0
    length = len(backing) if backing_bytes is None else backing_bytes
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", version, where, length, cluster_bits, disk_bytes, encryption),
        *(1, 3 * CLUSTER, CLUSTER, 1, 0, 0),
    )
    if version == 3:
        fixed += struct.pack(">QQQII", features, 0, 0, 4, header_bytes)
    text = fixed.ljust(header_bytes, b"\0") + extensions + bytes(8)
    if backing_at is None:
        text += backing
    return text.ljust(CLUSTER, b"\0")


def on(backing: str | bytes, image_format: bytes | None = b"qcow2") -> bytes:
    """The header of a file that builds on another."""
    name = backing.encode() if isinstance(backing, str) else backing
    said = b"" if image_format is None else extension(BACKING_FORMAT, image_format)
    return header(backing=name, extensions=said)
