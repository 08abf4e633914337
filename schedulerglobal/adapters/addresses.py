"""Addresses of stores as logs and answers may show them."""

from __future__ import annotations

import re

_SAFE = re.compile(r"((?:[\w.,%-]|\[[0-9A-Fa-f:.%]+\])*(?::[0-9]+)?(?:,[\w.:%-]+)*)(/[\w.%/-]*)?")


def shown_address(url: str) -> str:
    """*url* without user, password and options, wherever they may stand in one that is wrong."""
    scheme, _, rest = url.partition("://")
    if not rest or not re.fullmatch(r"[\w+.-]{1,20}", scheme):
        return "…"
    before, at, after = rest.rpartition("@")
    where = re.split(r"[?#]", after if at or not before else rest)[0]
    # what is not plainly a server and a database may be what was to be kept secret
    return f"{scheme}://{where[:100]}" if _SAFE.fullmatch(where) else f"{scheme}://…"
