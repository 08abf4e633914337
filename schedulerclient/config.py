"""Where the command line finds the scheduler, and what it shows to be let in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from schedulerclient.client import DEFAULT_URL, TIMEOUT_S, Client
from schedulerclient.faults import Refused
from schedulerclient.transport import read_addresses
from schedulercommon.errors import ConfigError, UsageError
from schedulerprocess.settings import parse_file, read_setting

_LONGEST_TOKEN_FILE = 64 * 1024
_LOCAL = "VMStack local scheduler of "


def make_client(
    env: Mapping[str, str],
    *,
    url: str | None,
    token_file: str | None,
    timeout_s: float | None,
    tell: Callable[[str], None],
) -> Client:
    """The client for what the command line says, else the settings. Raises UsageError."""
    if url is None:
        url = read_setting(env, "VMSTACK_URL", _addresses, DEFAULT_URL)
    else:
        url = _said("--url", url)
    if token_file is not None:
        file: Path | None = Path(token_file)
    else:
        file = read_setting(env, "VMSTACK_TOKEN_FILE", parse_file, None)
    return Client(url, _token(file) if file else "", timeout_s or TIMEOUT_S, tell)


def check_tier(client: Client) -> None:
    """Raises Refused if a local scheduler is asked: what it is told, no cluster knows of."""
    try:
        service = client.service()
    except Refused:
        return  # what is asked will be too, in words that fit
    if service.startswith(_LOCAL):
        raise Refused(
            "local-scheduler",
            f"that is a local scheduler ({service.removeprefix(_LOCAL)}); the client wants the"
            " global one, usually port 8100; --url or VMSTACK_URL says where it listens",
        )


def _said(option: str, url: str) -> str:
    try:
        return _addresses(url)
    except ValueError as problem:
        raise UsageError(f"{option}: {problem}") from problem


def _addresses(text: str) -> str:
    return ",".join(map(str, read_addresses(text)))


def _token(file: Path) -> str:
    """The first token of *file*, which may be the scheduler's own."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_LONGEST_TOKEN_FILE)
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise ConfigError(
            f"cannot read the token file {file}: {why}; make it a file this user may read"
        ) from problem
    token = next((line.strip() for line in text.splitlines() if line.strip()), b"")
    if not token or not all(0x21 <= byte <= 0x7E for byte in token):
        raise ConfigError(
            f"the token file {file} holds no token; write one in it, visible ASCII characters"
            " without spaces"
        )
    return token.decode("ascii")
