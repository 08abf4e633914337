"""Who may ask, and how much at once: tokens, other sites' pages, changes under way.

The guard is the one middleware of a service. It also gives every refusal its form.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from schedulercommon.errors import (
    ConfigError,
    Forbidden,
    NotReady,
    Overloaded,
    RefusedError,
    Unauthorized,
)
from schedulerweb.answers import refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MOST_CHANGES = 256
"""Requests that change something, under way at once."""

EXPECTED_HOST = "VMStack-Host"
"""Header with the name of the host that a request is meant for."""

EPOCH = "VMStack-Epoch"
"""Header with the epoch of the global scheduler that leads: none of a former one is obeyed."""

ATTEMPT = "VMStack-Attempt"
"""Header of a removal, with the id of the request that made the VM: one that was kept back on its
way until that VM was gone removes no other of its name."""

_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_LONGEST_EPOCH = 18  # digits
_LONGEST_TOKEN_FILE = 64 * 1024


class Leaders(Protocol):
    """Who remembers which global scheduler leads, by its epoch."""

    def hear(self, epoch: int) -> None:
        """One that leads, or did, has that *epoch*."""

    async def obey(self, epoch: int) -> None:
        """Return once a change may be made that the one of *epoch* asks for; a RefusedError if it
        may not."""


class Guard:
    """What is asked of every request before its handler sees it.

    ``changing`` are the handlers that change something on GET, ``open_to_all`` those that need
    no token, ``host_name`` who answers here and ``leaders`` whose orders are taken, where that
    matters.
    """

    def __init__(
        self,
        *,
        tokens: tuple[bytes, ...] = (),
        loopback: bool = True,
        changing: frozenset[Handler] = frozenset(),
        open_to_all: frozenset[Handler] = frozenset(),
        host_name: str = "",
        leaders: Leaders | None = None,
        most_changes: int = MOST_CHANGES,
    ) -> None:
        self.tokens = tokens
        self._local_names_only = loopback and not tokens
        self._changing = changing
        self._open_to_all = open_to_all
        self._host_name = host_name
        self._most_changes = most_changes
        self._changes = 0
        self._leaders = leaders

    def middleware(self) -> Middleware:
        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            # what is handed in may be a middleware behind this one
            routed = request.match_info.handler
            try:
                if self.tokens and routed not in self._open_to_all:
                    self._check_token(request)
                self._check_host(request)
                if request.method in _READING and routed not in self._changing:
                    if routed not in self._open_to_all:
                        self._hear(request)
                    return await handler(request)
                self._check_site(request)
                return await self._counted(request, handler)
            except RefusedError as refusal:
                return refused(refusal)

        return guarded

    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._changes >= self._most_changes:
            raise Overloaded(f"{self._changes} changes are under way; try again in a moment")
        self._changes += 1
        try:
            epoch = _told_epoch(request)
            if epoch is not None and self._leaders is not None:
                await self._leaders.obey(epoch)
            return await handler(request)
        finally:
            self._changes -= 1

    def _check_token(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized(
                "a token is needed; send it in the header 'Authorization: Bearer TOKEN',"
                " never in the address"
            )
        given = token.strip().encode("utf-8", "surrogateescape")
        # all are compared, so that the time taken tells nothing
        matches = [hmac.compare_digest(given, known) for known in self.tokens]
        if not any(matches):
            raise Unauthorized("that token is not one of ours; look at the token file again")

    def _check_host(self, request: web.Request) -> None:
        """Refuse what is meant for the host that had this address before."""
        expected = request.headers.get(EXPECTED_HOST, "")
        if self._host_name and expected and expected != self._host_name:
            raise NotReady(
                f"this is host {self._host_name}, and the request is for {expected[:70]!r};"
                " look at the list of hosts again"
            )

    def _hear(self, request: web.Request) -> None:
        """Learn who leads from one that only looks."""
        epoch = _told_epoch(request)
        if epoch is not None and self._leaders is not None:
            # who may change nothing may not keep the one that leads from it either
            with suppress(Forbidden):
                self._check_site(request)
                self._leaders.hear(epoch)

    def _check_site(self, request: web.Request) -> None:
        """Refuse what a page of another site made a browser send."""
        headers = request.headers
        host = headers.get("Host", "")
        origin = headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Forbidden("a page of another site may not change anything; use this one's own")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Forbidden("a page of another site may not change anything; use this one's own")
        if self._local_names_only and host and not _is_local_name(host):
            # whoever controls a name can let it lead here, and then its pages are "this site"
            raise Forbidden(
                "changes are taken under an IP address or localhost only, as long as no token"
                " is set; use 127.0.0.1"
            )


def _told_epoch(request: web.Request) -> int | None:
    """Of the global scheduler that asks, if it says."""
    text = request.headers.get(EPOCH, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_EPOCH):
        return None
    return int(text)


@lru_cache(maxsize=256)
def _is_local_name(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or is_address(name)


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a service bound to *address* is reached from its own machine only."""
    if is_address(address):
        return ip_address(address).is_loopback
    return address.lower() == "localhost"


def read_tokens(file: Path | None) -> tuple[bytes, ...]:
    """The tokens of *file*, one a line; none without a file. Raises ConfigError."""
    if file is None:
        return ()
    try:
        with file.open("rb") as opened:
            text = opened.read(_LONGEST_TOKEN_FILE + 1)
    except OSError as problem:
        raise ConfigError(
            f"cannot read the token file {file}: {problem.strerror};"
            " make it a file this user may read"
        ) from problem
    lines = [line.strip() for line in text.splitlines()]
    tokens = tuple([line for line in lines if line])
    if not tokens or len(text) > _LONGEST_TOKEN_FILE:
        raise ConfigError(f"the token file {file} should hold a few tokens, one a line")
    for number, line in enumerate(lines, 1):
        if not all(0x21 <= byte <= 0x7E for byte in line):
            raise ConfigError(
                f"line {number} of the token file {file} is no token;"
                " write visible ASCII characters without spaces"
            )
    return tokens
