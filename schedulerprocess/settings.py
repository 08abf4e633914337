"""Reading settings: the environment, which wins, and ``.env``; each value checked as it is read.

Every fault is a ConfigError that names the setting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values

from schedulercommon.errors import ConfigError
from schedulercommon.levels import parse_decimal
from schedulercommon.model import NAME

T = TypeVar("T")
D = TypeVar("D")


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


def journal_stream() -> str:
    """What systemd says its journal is, ``DEVICE:INODE``: ``JOURNAL_STREAM`` in systemd.exec(5)."""
    return os.environ.get("JOURNAL_STREAM", "")


def read_setting(env: Mapping[str, str], name: str, parse: Callable[[str], T], default: D) -> T | D:
    """What *parse* makes of the setting *name*, *default* where it is not set."""
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
