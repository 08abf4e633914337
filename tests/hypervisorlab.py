"""A libvirtd of our own and guests to run on it, for tests that want the real thing.

It is a plain daemon with its own folders mounted in the place of the machine's, in its own network
namespace: a libvirtd that the machine may have, its VMs, bridges and firewall are never touched.
Processes and paths are the machine's, so what /proc says of a guest is true, and so is the
hypervisor. ``warden.py`` ends whatever was started, however a test run dies. Guests are emulated
(``type="qemu"``): in a virtual machine /dev/kvm may open and libvirt advertise it, and QEMU gives
up or the guest never gets to its first instruction. Missing beside that, where this was tried:
cgroup v2, systemd, NUMA, and a guest agent.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from tests.lab.guest import Guest, cache_directory, guest, guest_parts
from tests.lab.needs import missing
from tests.servers import eventually

try:
    import libvirt
except ImportError:
    libvirt = None

WARDEN = Path(__file__).parent / "lab" / "warden.py"
BOOT_S = 60.0
DAEMON_S = 30.0

QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
namespaces = []
"""
LIBVIRTD_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


class Warden:
    """The process that libvirtd and guests are children of, which ends them when we end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def start_libvirtd(self) -> int:
        """The number of its process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Lab:
    """A private libvirtd, running or not, and what runs under it."""

    def __init__(self, directory: Path, guest: Guest, warden: Warden) -> None:
        self.directory = directory
        self.guest = guest
        self._warden = warden
        self._daemon: int | None = None
        self._numbers = itertools.count(1)

    # --- the daemon ---------------------------------------------------------------------------

    @property
    def warden(self) -> int:
        return self._warden.pid

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.socket}"

    @property
    def log(self) -> str:
        """What libvirtd had to say; lines about D-Bus, dnsmasq and DMI mean nothing."""
        path = self.directory / "log" / "libvirtd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start libvirtd and wait until it answers. Guests that are there stay as they are."""
        assert self._daemon is None, "libvirtd runs already"
        self.socket.unlink(missing_ok=True)
        self._daemon = self._warden.start_libvirtd()
        eventually(self._answers, DAEMON_S)

    def stop(self) -> None:
        """End libvirtd as its service manager would; guests live on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End libvirtd as a crash would; guests live on."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if (daemon := self._daemon) is not None:
            self._daemon = None
            with suppress(ProcessLookupError):
                os.kill(daemon, number)
            eventually(lambda: not Path(f"/proc/{daemon}").exists(), DAEMON_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def daemon_pid(self) -> int:
        """To suspend libvirtd with SIGSTOP, for a call that hangs."""
        assert self._daemon is not None, "libvirtd does not run"
        return self._daemon

    def connect(self) -> libvirt.virConnect:
        """A connection of the test's own, for what happens behind our back."""
        return libvirt.open(self.uri)

    def _answers(self) -> bool:
        if not Path(f"/proc/{self._daemon}").exists():
            self._daemon = None
            told = (self.directory / "libvirtd.out").read_text(errors="replace")
            raise AssertionError(f"libvirtd ended:\n{told}{self.log}")
        try:
            self.connect().close()
        except libvirt.libvirtError:
            return False
        return True

    # --- guests -------------------------------------------------------------------------------

    def name(self, stem: str = "vm") -> str:
        """A name no guest has: not here, nor in another run, since cgroups are the machine's."""
        return f"{stem}-{self.warden}-{next(self._numbers)}"

    def disk(self, name: str, size: str = "64M") -> Path:
        """A new empty qcow2 image."""
        path = self.directory / "images" / f"{name}.qcow2"
        path.parent.mkdir(exist_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
        return path

    def template(self, *arguments: str) -> Path:
        """A file for QEMU_TEMPLATE: what is based on it boots, with *arguments* for its kernel."""
        path = self.directory / f"{self.name('template')}.xml"
        ET.ElementTree(self.guest.template(arguments)).write(path)
        return path

    def console(self, name: str) -> Path:
        """Where a guest made from :meth:`domain_xml` reports."""
        return self.directory / "console" / f"{name}.log"

    def domain_xml(
        self,
        name: str,
        *arguments: str,
        pins: Sequence[tuple[int, ...]] = ((),),
        memory_mib: int = 192,
        disk: Path | None = None,
    ) -> str:
        """A domain of somebody else's with one vCPU for each of *pins*; empty is unpinned."""
        domain = self.guest.template(arguments)
        texts = {"name": name, "memory": str(memory_mib), "vcpu": str(len(pins))}
        for path, text in texts.items():
            part(domain, path).text = text
        if any(pins):
            tune = ET.Element("cputune")
            for vcpu, cpus in enumerate(pins):
                if cpus:
                    cpuset = format_cpulist(cpus)
                    ET.SubElement(tune, "vcpupin", vcpu=str(vcpu), cpuset=cpuset)
            domain.insert(list(domain).index(part(domain, "vcpu")) + 1, tune)
        self.console(name).parent.mkdir(exist_ok=True)
        serial = part(domain, "devices/serial")
        ET.SubElement(serial, "log", file=str(self.console(name)), append="off")
        if disk:
            device = ET.SubElement(part(domain, "devices"), "disk", type="file")
            ET.SubElement(device, "driver", name="qemu", type="qcow2")
            ET.SubElement(device, "source", file=str(disk))
            ET.SubElement(device, "target", dev="vda", bus="virtio")
        return ET.tostring(domain, encoding="unicode")

    def pid(self, name: str) -> int:
        """The process of a running guest."""
        return int((self.directory / "run" / "qemu" / f"{name}.pid").read_text())

    def clear(self) -> None:
        """End and forget every guest, so that the next test begins with none."""
        if self._daemon is None:
            self.start()
        os.kill(self.daemon_pid, signal.SIGCONT)
        connection = self.connect()
        try:
            for domain in connection.listAllDomains():
                with suppress(libvirt.libvirtError):
                    domain.destroy()
                with suppress(libvirt.libvirtError):  # it was transient
                    domain.undefineFlags(
                        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                    )
            assert connection.listAllDomains() == []
        finally:
            connection.close()


def part(element: ET.Element, path: str) -> ET.Element:
    found = element.find(path)
    assert found is not None, path
    return found


# --- what the machine says of a guest -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread as /proc has it, with the CPUs it may run on."""

    thread_id: int
    name: str
    cpus: tuple[int, ...]


def threads(pid: int) -> list[Thread]:
    """The threads of a process that has not ended."""
    found = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended as we looked
            about = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            cpus = parse_cpulist(about["Cpus_allowed_list"])
            found.append(Thread(int(status.parent.name), about["Name"], cpus))
    assert found, f"no process {pid}"
    return found


def thread_pins(pid: int) -> dict[str, tuple[int, ...]]:
    """The CPUs of each thread by its name; threads of one name together."""
    pins: dict[str, set[int]] = {}
    for thread in threads(pid):
        pins.setdefault(thread.name, set()).update(thread.cpus)
    return {name: tuple(sorted(cpus)) for name, cpus in pins.items()}


def vcpu_threads(pid: int) -> dict[int, Thread]:
    """The threads that are a guest's vCPUs, by vCPU."""
    named = {thread: re.fullmatch(r"CPU (\d+)/(TCG|KVM)", thread.name) for thread in threads(pid)}
    return {int(match[1]): thread for thread, match in named.items() if match}


def wait_for_line(console: Path, pattern: str, within_s: float = BOOT_S) -> re.Match[str]:
    """The first match of *pattern* in what a guest has said so far."""

    def found() -> re.Match[str] | None:
        text = console.read_text(errors="replace") if console.exists() else ""
        return re.search(pattern, text.replace("\r", ""), re.MULTILINE)

    try:
        match = eventually(found, within_s)
    except AssertionError:
        said = console.read_text(errors="replace")[-2000:] if console.exists() else "nothing"
        raise AssertionError(f"no {pattern!r} within {within_s} s; it said:\n{said}") from None
    assert match
    return match


# --- starting and ending --------------------------------------------------------------------------


@contextmanager
def hypervisor_lab(directory: Path) -> Iterator[Lab]:
    """A lab with its files under *directory*, libvirtd running; all of it ends at the end."""
    if why := missing():
        pytest.fail(f"a lab would {why}", pytrace=False)
    libvirt.registerErrorHandler(lambda _, error: error, None)  # it would print every error
    for name, text in {"qemu.conf": qemu_conf(), "libvirtd.conf": LIBVIRTD_CONF}.items():
        path = directory / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cache = cache_directory()
    parts = guest_parts(cache)
    assert parts is not None
    with warden(directory, cache / "libvirt") as process:
        lab = Lab(directory, guest(cache, parts), process)
        lab.start()
        try:
            yield lab
        finally:
            lab.kill()


@contextmanager
def warden(directory: Path, cache: Path) -> Iterator[Warden]:
    process = subprocess.Popen(
        ["unshare", "--mount", "--net", "--", sys.executable, WARDEN, directory, cache],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    try:
        if process.stdout.readline() != b"ready\n":
            told = process.communicate(timeout=DAEMON_S)[1].decode(errors="replace").strip()
            pytest.fail(f"the lab's folders cannot be mounted: {told}", pytrace=False)
        yield Warden(process)
        assert process.communicate(timeout=DAEMON_S) == (b"clean\n", b"")
    finally:
        if process.stdin and not process.stdin.closed:
            process.communicate(timeout=DAEMON_S)
        process.kill()


def qemu_conf() -> str:
    """Without cgroups where they cannot be made, as in a container: no shares or quotas then."""
    root = Path("/sys/fs/cgroup")
    probe = (root / "cpu" if (root / "cpu").is_dir() else root) / f"vmstack-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return f"{QEMU_CONF}cgroup_controllers = []\n"
    return QEMU_CONF


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    """One lab for the whole run. Its folder has a short name: a socket's path is at most 107."""
    with (
        tempfile.TemporaryDirectory(prefix="lab-") as directory,
        hypervisor_lab(Path(directory)) as lab,
    ):
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The lab, its libvirtd running and no guest there."""
    shared_lab.clear()
    yield shared_lab
    shared_lab.clear()
