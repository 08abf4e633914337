"""Passing changes on to the global scheduler that leads, so that users may ask any of them."""

from __future__ import annotations

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from schedulercommon.errors import HostUnreachable, NotLeader
from schedulerglobal.office import Office
from schedulerweb.guard import Handler

FORWARDED = "VMStack-Forwarded"
"""Header of a request that was passed on once already."""
REDIRECT = "VMStack-Redirect"
"""Header of a request whose sender would rather be sent there: 307."""
CONNECT_S = 2.0

_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_PASSED_ON = ("Authorization", "Content-Type")
_BROUGHT_BACK = ("Content-Type", "Cache-Control")


class Forwarder:
    """Passes on what changes something while another leads. To be closed."""

    def __init__(self, office: Office, *, own_url: str, timeout_s: float) -> None:
        self._office = office
        self._own_url = own_url
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    def middleware(self, changing: frozenset[Handler]) -> Middleware:
        """*changing* are the handlers that change something on GET."""

        @web.middleware
        async def forwarding(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._office.held or not _changes(request, handler, changing):
                return await handler(request)
            leader = self._office.leader.url
            if FORWARDED in request.headers or leader in ("", self._own_url):
                self._office.check()
                return await handler(request)  # the lead came meanwhile
            if request.headers.get(REDIRECT, "") not in ("", "0"):
                return web.Response(status=307, headers={"Location": leader + request.path_qs})
            return await self._passed_on(request, leader)

        return forwarding

    async def _passed_on(self, request: web.Request, leader: str) -> web.Response:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        body = await request.read()
        try:
            async with self._session.request(
                request.method,
                URL(leader + request.raw_path, encoded=True),
                data=body or None,
                headers={**headers, FORWARDED: "1"},
                allow_redirects=False,
            ) as said:
                text = await said.read()
                back = {name: said.headers[name] for name in _BROUGHT_BACK if name in said.headers}
                return web.Response(status=said.status, body=text, headers=back)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as problem:
            raise NotLeader(
                f"the global scheduler that leads, {leader}, cannot be reached; repeat the request"
                " in a moment, when another leads"
            ) from problem
        except (aiohttp.ClientError, TimeoutError) as problem:
            fault = HostUnreachable(
                "outcome unknown, repeat the same request: the global scheduler that leads,"
                f" {leader}, did not answer"
            )
            fault.details = {"outcome": "unknown"}
            raise fault from problem


def _changes(request: web.Request, handler: Handler, changing: frozenset[Handler]) -> bool:
    if request.query.get("dry_run") == "1":
        return False
    return request.method not in _READING or handler in changing
