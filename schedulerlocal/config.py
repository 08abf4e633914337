"""What the operator decided about a host and its service: read once, checked once, typed."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schedulercommon.model import NAME
from schedulerlocal.core.cpulist import parse_cpulist
from schedulerlocal.core.topology import Cpus
from schedulerprocess.settings import (
    one_of,
    parse_count,
    parse_file,
    parse_folders,
    parse_name,
    parse_port,
    parse_seconds,
    parse_switch,
    read_setting,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What the operator decided about one host; see ``dotenv`` for units and defaults."""

    smt_isolation: bool = False
    critical_size: int = 6
    excluded_cpus: Cpus = ()
    """Do not exist for us."""
    host_cpus: Cpus = ()
    """Kept for the host's own threads, and so excluded too."""
    vm_overhead_mib: int | None = None
    """None: 0 with a topology from a file, 128 on a hypervisor."""
    reserved_memory_mib: int | None = None
    """None: 0 with a topology from a file, on a hypervisor the larger of 2048 and 5 %."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> HostSettings:
        """Raises ConfigError, naming the setting."""
        return cls(
            smt_isolation=read_setting(env, "SCL_SMT_ISOLATION", parse_switch, False),
            critical_size=read_setting(env, "OVSB_CRITICAL_SIZE", parse_count, 6),
            excluded_cpus=read_setting(env, "TOPO_EXCLUDE", parse_cpulist, ()),
            host_cpus=read_setting(env, "SCL_HOST_CPUS", parse_cpulist, ()),
            vm_overhead_mib=read_setting(env, "SCL_VM_OVERHEAD_MIB", parse_count, None),
            reserved_memory_mib=read_setting(env, "SCL_RESERVED_MEMORY_MIB", parse_count, None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What the operator decided about the service; see ``dotenv``."""

    name: str
    """How the global scheduler knows this host."""
    address: str = "127.0.0.1"
    port: int = 8099
    delay_s: float = 15.0
    hypervisor: str = ""
    """``libvirt``, ``simulated``, or empty: whichever the command line implies."""
    simulated_state: Path | None = None
    simulated_faults: str = ""
    state_dir: Path | None = None
    """None: the usual place; see :func:`journal_directory`."""
    image_dirs: tuple[Path, ...] = (Path("/var/lib/libvirt/images"),)
    token_file: Path | None = None
    repair: bool = True
    call_timeout_s: float = 60.0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> ServiceSettings:
        """Raises ConfigError, naming the setting."""
        return cls(
            name=read_setting(env, "SCL_NAME", parse_name, machine_name()),
            address=read_setting(env, "SCL_URL", str, "127.0.0.1"),
            port=read_setting(env, "SCL_PORT", parse_port, 8099),
            delay_s=read_setting(env, "SCL_DELAY", parse_seconds, 15.0),
            hypervisor=read_setting(env, "SCL_HYPERVISOR", one_of("libvirt", "simulated"), ""),
            simulated_state=read_setting(env, "SCL_SIMULATED_STATE", parse_file, None),
            simulated_faults=read_setting(env, "SCL_SIMULATED_FAULTS", str, ""),
            state_dir=read_setting(env, "SCL_STATE_DIR", Path, None),
            image_dirs=read_setting(
                env, "SCL_IMAGE_DIRS", parse_folders, (Path("/var/lib/libvirt/images"),)
            ),
            token_file=read_setting(env, "SCL_TOKEN_FILE", Path, None),
            repair=read_setting(env, "SCL_REPAIR", one_of("on", "report"), "on") == "on",
            call_timeout_s=read_setting(env, "SCL_CALL_TIMEOUT", parse_seconds, 60.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtSettings:
    """What the operator decided about the real hypervisor; see ``dotenv``."""

    url: str = "qemu:///system"
    emulator: str = ""
    """Empty: the one libvirt names."""
    machine: str = ""
    """Empty: the emulator's default."""
    kind: str = "auto"
    """``kvm``, ``qemu`` or ``auto``."""
    template: Path | None = None
    network: str = "network:default"
    cpu_model: str = ""
    """Empty: the host's own under KVM."""
    disk_dir: Path | None = None
    """None: the first folder images may come from."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> LibvirtSettings:
        """Raises ConfigError, naming the setting."""
        return cls(
            url=read_setting(env, "QEMU_URL", str, "qemu:///system"),
            emulator=read_setting(env, "QEMU_LOC", parse_absolute, ""),
            machine=read_setting(env, "QEMU_MACHINE", parse_machine, ""),
            kind=read_setting(env, "QEMU_TYPE", one_of("kvm", "qemu", "auto"), "auto"),
            template=read_setting(env, "QEMU_TEMPLATE", parse_file, None),
            network=read_setting(env, "QEMU_NETWORK", parse_network, "network:default"),
            cpu_model=read_setting(env, "SCL_CPU_MODEL", str, ""),
            disk_dir=read_setting(env, "SCL_DISK_DIR", Path, None),
        )


def machine_name(root: Path = Path("/"), told: str | None = None) -> str:
    """What this machine is called; *told* is by default what the kernel says.

    A kernel that was never given a name says ``(none)``, which is none.
    """
    names = [
        socket.gethostname() if told is None else told,
        _first_line(root / "etc/hostname"),
        # the same after each boot, and another one's nowhere
        f"host-{_first_line(root / 'etc/machine-id')[:12]}",
    ]
    return next((name for name in names if NAME.fullmatch(name) and name != "host-"), "localhost")


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def parse_absolute(text: str) -> str:
    """An absolute path; raises ValueError with a sentence."""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"{text[:70]!r} is not an absolute path")
    return text


def parse_machine(text: str) -> str:
    """A machine type; raises ValueError with a sentence."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text, re.ASCII):
        raise ValueError(f"{text[:40]!r} is no machine type like q35 or pc-i440fx-7.2")
    return text


def parse_network(text: str) -> str:
    """``bridge:NAME``, ``network:NAME`` or ``none``; raises ValueError with a sentence."""
    if text != "none" and not re.fullmatch(r"(bridge|network):[^/\s]+", text):
        raise ValueError(f"{text[:40]!r} is neither bridge:NAME nor network:NAME nor none")
    return text


def journal_directory(settings: ServiceSettings, simulated: bool) -> Path:
    """Where the journal is kept.

    A simulated host that was given no place keeps its own by port, since several may well run
    side by side.
    """
    if settings.state_dir is not None:
        return settings.state_dir
    if simulated:
        return Path(".vmstack") / f"simulated-{settings.port}"
    usual = Path("/var/lib/vmstack")
    parent = usual if usual.exists() else usual.parent
    return usual if os.access(parent, os.W_OK) else Path(".vmstack")
