"""A guest that boots in seconds: a Debian cloud kernel and busybox with an init of our own.

Nothing is installed: ``scripts/setup.sh dev`` unpacks their packages beside what is built of them
here, which is kept until they or our init change.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import stat
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# In an order that insmod takes; those a kernel has built in are not there.
MODULES = (
    "virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci"
    " virtio_balloon virtio_blk virtio_console failover net_failover virtio_net evdev button"
).split()
# What a guest need not do before it says that it is up.
ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check"
    " cryptomgr.notests 8250.nr_uarts=1 random.trust_cpu=on nowatchdog audit=0 apparmor=0"
)
DIRECTORIES = (
    "bin dev etc etc/acpi etc/acpi/PWRF lib lib/modules proc sys tmp var var/log var/run"
).split()
POWER_BUTTON = "#!/bin/sh\necho guest power button > /dev/console\npoweroff -f\n"


@dataclass(frozen=True, slots=True)
class Guest:
    """What a domain boots."""

    kernel: Path
    initrd: Path

    def template(self, arguments: Sequence[str] = ()) -> ET.Element:
        """A domain that boots it, with *arguments* for the kernel; it has no disk."""
        domain = ET.parse(HERE / "template.xml").getroot()
        texts = {
            "os/kernel": str(self.kernel),
            "os/initrd": str(self.initrd),
            "os/cmdline": " ".join((ARGUMENTS, *arguments)),
        }
        for path, text in texts.items():
            element = domain.find(path)
            assert element is not None, path
            element.text = text
        return domain


def cache_directory() -> Path:
    """Where kernels and guests are kept; ``scripts/setup.sh`` has the same rule."""
    above = os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME') or '/root'}/.cache"
    return Path(above) / "vmstack-lab"


def guest_parts(cache: Path) -> Path | None:
    """The folder of a kernel, its modules and busybox that was unpacked last."""
    folders = [path.parent for path in cache.glob("parts-*/vmlinuz")]
    return max(folders, key=lambda path: path.stat().st_ctime, default=None)


def guest(cache: Path, parts: Path) -> Guest:
    """The guest, built if it is not there yet."""
    recipe = hashlib.sha256(parts.name.encode())
    for source in (parts / "busybox", HERE / "init", Path(__file__)):
        recipe.update(source.read_bytes())
    place = cache / f"guest-{recipe.hexdigest()[:16]}"
    built = Guest(place / "vmlinuz", place / "initrd.gz")
    if not place.exists():
        # Another run may build it too: whoever comes first has it, complete.
        beside = cache / f"{place.name}.{os.getpid()}"
        beside.mkdir()
        shutil.copyfile(parts / "vmlinuz", beside / built.kernel.name)
        archive = b"".join(cpio(files(parts)))
        (beside / built.initrd.name).write_bytes(gzip.compress(archive, 1, mtime=0))
        try:
            beside.rename(place)
        except OSError:
            shutil.rmtree(beside)
    return built


def files(parts: Path) -> Iterator[tuple[str, int, bytes]]:
    """(path, mode, content) of all the guest has."""
    for name in DIRECTORIES:
        yield name, stat.S_IFDIR | 0o755, b""
    yield "init", stat.S_IFREG | 0o755, (HERE / "init").read_bytes()
    yield "bin/busybox", stat.S_IFREG | 0o755, (parts / "busybox").read_bytes()
    yield "etc/acpi/PWRF/00000080", stat.S_IFREG | 0o755, POWER_BUTTON.encode()
    present = []
    for name in MODULES:
        if (plain := parts / f"{name}.ko").exists():
            content = plain.read_bytes()
        elif (packed := parts / f"{name}.ko.xz").exists():
            content = lzma.decompress(packed.read_bytes())
        else:
            continue
        present.append(name)
        yield f"lib/modules/{name}.ko", stat.S_IFREG | 0o644, content
    yield "modules", stat.S_IFREG | 0o644, "\n".join(present).encode()


def cpio(contents: Iterator[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """An archive as the kernel takes it: the format ``newc``."""
    for number, (name, mode, content) in enumerate([*contents, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        yield padded(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        yield padded(content)


def padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
