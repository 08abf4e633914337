"""Settings: the environment, which wins, and ``.env``; read once, checked once, one type.

Only this module looks at the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values

from schedulercommon.errors import ConfigError
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
