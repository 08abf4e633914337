"""Holds the namespaces a private libvirtd lives in, and ends all that runs in them.

``unshare --mount --net python warden.py DIRECTORY CACHE`` puts folders of DIRECTORY in the place
of the machine's own of libvirt and says ``ready``. For every line it reads it starts a libvirtd and
says its process. It goes on until its input ends, which happens however its caller dies; then every
process that shares its mounts is killed, and DIRECTORY and the cgroups they leave are removed. Its
last word is ``clean`` or what is left.

Guests become its children, so that one that has ended is gone: libvirt waits for that, and the
first process of a container or a small virtual machine may take seconds to look, or never do.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
END_S = 5.0
PR_SET_CHILD_SUBREAPER = 36
ACCOUNTS = {
    # libvirt looks up who would run a guest even where that is root.
    "passwd": ("libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin",),
    "group": ("kvm:x:64056:", "libvirt-qemu:x:64055:", "libvirt:x:64057:"),
}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PRIVATE = {"etc": "/etc/libvirt", "run": "/run/libvirt", "lib": "/var/lib/libvirt"}


def settle(directory: Path, cache: Path) -> None:
    """Put the private folders in place, in this mount namespace only."""
    for name, place in {**PRIVATE, "log": "/var/log/libvirt"}.items():
        bind(directory / name, Path(place))
    bind(cache, Path("/var/cache/libvirt"))  # what the emulator can do: seconds to find out
    bind(directory / "dbus", Path("/run/dbus"))  # or guests would be known to systemd
    for name, lines in ACCOUNTS.items():
        present = Path("/etc", name).read_text()
        known = {line.split(":", 1)[0] for line in present.splitlines()}
        missing = [line for line in lines if line.split(":", 1)[0] not in known]
        (directory / name).write_text("\n".join([present.rstrip("\n"), *missing, ""]))
        subprocess.run(["mount", "--bind", directory / name, f"/etc/{name}"], check=True)


def bind(source: Path, place: Path) -> None:
    source.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", source, place], check=True)


def adopt_orphans() -> None:
    """Have what libvirtd leaves to the first process left to us."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "orphans cannot be adopted")
    signal.signal(signal.SIGCHLD, reap)


def reap(*_: object) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def start_libvirtd(directory: Path) -> int:
    with (directory / "libvirtd.out").open("ab") as out:
        return subprocess.Popen(
            [
                *("libvirtd", "--config=/etc/libvirt/libvirtd.conf"),
                f"--pid-file={directory / 'libvirtd.pid'}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": PATH},
        ).pid


def inhabitants() -> Iterator[int]:
    """Processes in our mount namespace, but us."""
    ours = os.readlink("/proc/self/ns/mnt")
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.readlink(entry / "ns/mnt") == ours:
                    yield int(entry.name)


def end_all() -> str:
    """Kill until nobody is left, at most for END_S; returns what is."""
    deadline_s = time.monotonic() + END_S
    while left := list(inhabitants()):
        if time.monotonic() > deadline_s:
            return f"left: {' '.join(map(str, left))}"
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return "clean"


def remove_cgroups(directory: Path) -> None:
    """Those of our guests, in either version of cgroups.

    The kernel keeps one that is in use, and a process is in it a little longer than it is in our
    mounts.
    """
    deadline_s = time.monotonic() + END_S
    names = [log.stem for log in directory.glob("log/qemu/*.log")]
    while (folders := list(guest_cgroups(names))) and time.monotonic() < deadline_s:
        for folder in folders:
            for below in sorted([folder, *folder.rglob("*/")], reverse=True):
                with suppress(OSError):
                    below.rmdir()
        time.sleep(0.02)


def guest_cgroups(names: Sequence[str]) -> Iterator[Path]:
    for machine in (CGROUPS / "machine", *CGROUPS.glob("*/machine")):
        for folder in machine.rglob("qemu-*.libvirt-qemu"):
            match = re.fullmatch(r"qemu-\d+-(.+)\.libvirt-qemu", folder.name)
            if match and any(name.startswith(match[1]) for name in names):  # it may be cut short
                yield folder


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # what we start does not ignore them
    directory = Path(sys.argv[1])
    settle(directory, Path(sys.argv[2]))
    adopt_orphans()
    os.write(1, b"ready\n")
    while os.read(0, 1):
        os.write(1, b"%d\n" % start_libvirtd(directory))
    outcome = end_all()
    with suppress(OSError):  # others make and remove theirs as we look
        remove_cgroups(directory)
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        os.write(1, f"{outcome}\n".encode())


if __name__ == "__main__":
    main()
