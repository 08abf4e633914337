"""Passing changes on to the global scheduler that leads, so that users may ask any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from schedulercommon.errors import HostUnreachable, NotLeader
from schedulerglobal.adapters.hostclient import once
from schedulerglobal.doubt import ask_again
from schedulerglobal.office import Office
from schedulerglobal.ports import NoAnswer
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

    def __init__(
        self,
        office: Office,
        *,
        own_url: str,
        timeout_s: float,
        caught_up: Callable[[], Awaitable[None]],
    ) -> None:
        """*caught_up* returns when we know what the leader wrote until now: who changes something
        through us then finds it changed here."""
        self._office = office
        self._caught_up = caught_up
        self._own_url = own_url
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0),
            middlewares=(once,),
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
                return web.Response(
                    status=307, headers={"Location": leader + request.rel_url.raw_path_qs}
                )
            return await self._passed_on(request, leader)

        return forwarding

    async def _passed_on(self, request: web.Request, leader: str) -> web.Response:
        body = await request.read()
        asking = asyncio.create_task(self._asked(request, leader, body))
        succeeded = asyncio.create_task(self._office.succeeded())
        try:
            await asyncio.wait((asking, succeeded), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise _unknown(f"leads no longer, {leader}, did not answer")
            response = asking.result()
        finally:
            asking.cancel()
            succeeded.cancel()
        if response.status < 300:
            await self._caught_up()
        return response

    async def _asked(self, request: web.Request, leader: str, body: bytes) -> web.Response:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        try:
            async with self._session.request(
                request.method,
                URL(leader + request.rel_url.raw_path_qs, encoded=True),
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
        except (aiohttp.ClientError, NoAnswer, TimeoutError, ValueError) as problem:
            raise _unknown(f"leads, {leader}, did not answer") from problem


def _unknown(who: str) -> HostUnreachable:
    return ask_again(HostUnreachable, f"the global scheduler that {who}")


def _changes(request: web.Request, handler: Handler, changing: frozenset[Handler]) -> bool:
    if request.query.get("dry_run") == "1":
        return False
    return request.method not in _READING or handler in changing
