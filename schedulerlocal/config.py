"""Settings: the environment, which wins, and ``.env``; read once, checked once, one type.

Only this module looks at the environment.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values

from schedulercommon.errors import ConfigError
from schedulercommon.levels import parse_decimal
from schedulercommon.model import NAME
from schedulerlocal.core.cpulist import parse_cpulist
from schedulerlocal.core.topology import Cpus

T = TypeVar("T")
D = TypeVar("D")


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
            smt_isolation=_read(env, "SCL_SMT_ISOLATION", parse_switch, False),
            critical_size=_read(env, "OVSB_CRITICAL_SIZE", parse_count, 6),
            excluded_cpus=_read(env, "TOPO_EXCLUDE", parse_cpulist, ()),
            host_cpus=_read(env, "SCL_HOST_CPUS", parse_cpulist, ()),
            vm_overhead_mib=_read(env, "SCL_VM_OVERHEAD_MIB", parse_count, None),
            reserved_memory_mib=_read(env, "SCL_RESERVED_MEMORY_MIB", parse_count, None),
        )


def read_environment(dotenv_file: Path = Path(".env")) -> dict[str, str]:
    """What ``.env`` says, overruled by the environment; empty values count as not set.

    Raises ConfigError if the file is there and cannot be read.
    """
    try:
        found = dotenv_values(dotenv_file, interpolate=False) if dotenv_file.exists() else {}
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"cannot read {dotenv_file}: {problem}; make it a readable text file or remove it"
        ) from problem
    merged = {**found, **os.environ}
    return {name: value.strip() for name, value in merged.items() if value and value.strip()}


def _read(env: Mapping[str, str], name: str, parse: Callable[[str], T], default: D) -> T | D:
    text = env.get(name)
    if text is None:
        return default
    try:
        return parse(text)
    except ValueError as problem:
        raise ConfigError(f"{name}: {problem}; see dotenv for what it takes") from problem


def parse_count(text: str) -> int:
    """A whole number, 0 or more, in ASCII digits; raises ValueError with a sentence."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f"{text[:40]!r} is not a whole number, 0 or more")
    return int(text)


def parse_switch(text: str) -> bool:
    """1 or 0; raises ValueError with a sentence."""
    if text not in ("0", "1"):
        raise ValueError(f"{text[:40]!r} is neither 0 (off) nor 1 (on)")
    return text == "1"


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
            name=_read(env, "SCL_NAME", parse_name, socket.gethostname()),
            address=_read(env, "SCL_URL", str, "127.0.0.1"),
            port=_read(env, "SCL_PORT", parse_port, 8099),
            delay_s=_read(env, "SCL_DELAY", parse_seconds, 15.0),
            hypervisor=_read(env, "SCL_HYPERVISOR", one_of("libvirt", "simulated"), ""),
            simulated_state=_read(env, "SCL_SIMULATED_STATE", parse_file, None),
            simulated_faults=_read(env, "SCL_SIMULATED_FAULTS", str, ""),
            state_dir=_read(env, "SCL_STATE_DIR", Path, None),
            image_dirs=_read(
                env, "SCL_IMAGE_DIRS", parse_folders, (Path("/var/lib/libvirt/images"),)
            ),
            token_file=_read(env, "SCL_TOKEN_FILE", Path, None),
            repair=_read(env, "SCL_REPAIR", one_of("on", "report"), "on") == "on",
            call_timeout_s=_read(env, "SCL_CALL_TIMEOUT", parse_seconds, 60.0),
        )


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


def parse_name(text: str) -> str:
    """A host's name; raises ValueError with a sentence."""
    if not NAME.fullmatch(text):
        raise ValueError(f"{text[:70]!r} is not a name of letters, digits, '.', '_' and '-'")
    return text


def parse_port(text: str) -> int:
    """A TCP port, 0 for any free one; raises ValueError with a sentence."""
    port = parse_count(text)
    if port > 65535:
        raise ValueError(f"{port} is not a port; ports go up to 65535")
    return port


def parse_seconds(text: str) -> float:
    """A duration above 0, at most a day; raises ValueError with a sentence."""
    seconds = float(parse_decimal(text))
    if not 0 < seconds <= 86_400:
        raise ValueError(f"{text!r} is not between 0 and 86400 seconds")
    return seconds


def parse_file(text: str) -> Path:
    """The path of a file; raises ValueError with a sentence."""
    path = Path(text)
    if path.name in ("", ".."):
        raise ValueError(f"{text[:70]!r} is a folder; name a file")
    return path


def parse_folders(text: str) -> tuple[Path, ...]:
    """Absolute paths parted by colons; raises ValueError with a sentence."""
    folders = tuple(Path(part) for part in text.split(":") if part)
    if not folders or not all(folder.is_absolute() for folder in folders):
        raise ValueError(f"{text!r} is not a list of absolute paths parted by colons")
    return folders


def one_of(*allowed: str) -> Callable[[str], str]:
    """A parser for one of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text[:40]!r} is none of {', '.join(allowed)}")
        return text

    return parse
