"""Addresses of stores as logs and answers may show them."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl

_SAFE = re.compile(r"((?:[\w.,%-]|\[[0-9A-Fa-f:.%]+\])*(?::[0-9]+)?(?:,[\w.:%-]+)*)(/[\w.%/-]*)?")
_FILES = frozenset(("sslrootcert", "sslcert", "sslkey", "sslcrl"))
_SERVER = re.compile(
    r"([\w.-]{1,63}(\.[\w-]{1,63})*|\[[0-9A-Fa-f:.%]+\])?(?::([0-9]{1,5}))?", re.ASCII
)


def is_database(url: str) -> bool:
    """Whether *url* names a server, or several, and a database there."""
    match = re.fullmatch(r"\w+://(?:[^@/?#\s]*@)?([^@/?#\s]*)/([^@/?#\s]+)(?:\?[^#\s]*)?", url)
    if match is None:
        return False
    servers = [_SERVER.fullmatch(server) for server in match[1].split(",")]
    return all(server and 0 < int(server[3] or 1) < 65_536 for server in servers)


def unreadable_file(url: str) -> str:
    """The first option of *url* that names a file which cannot be read; empty if there is none."""
    # only that part: a password may be what no parser of addresses takes
    for option, file in parse_qsl(url.partition("?")[2]):
        if option in _FILES and not os.access(file, os.R_OK):
            return f"{option}={file[:200]}"
    return ""


def shown_address(url: str) -> str:
    """*url* without user, password and options, wherever they may stand in one that is wrong."""
    scheme, _, rest = url.partition("://")
    if not rest or not re.fullmatch(r"[\w+.-]{1,20}", scheme):
        return "…"
    before, at, after = rest.rpartition("@")
    where = re.split(r"[?#]", after if at or not before else rest)[0]
    # what is not plainly a server and a database may be what was to be kept secret
    return f"{scheme}://{where[:100]}" if _SAFE.fullmatch(where) else f"{scheme}://…"
