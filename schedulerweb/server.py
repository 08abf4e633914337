"""The HTTP server: bounded, silent about itself, and refusing in JSON whatever it cannot read.

aiohttp answers in plain text what never reaches a handler (broken HTTP, an unknown path, a method
not allowed, an expectation); here all of it becomes the one form refusals have.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

from aiohttp import StreamReader, http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from schedulercommon.errors import (
    BadRequest,
    ConfigError,
    MethodNotAllowed,
    NotFound,
    OutputError,
    RefusedError,
    TooLarge,
)
from schedulerweb.answers import answer, refusal_body, refused
from schedulerweb.guard import Guard, is_loopback

GUARD = web.AppKey("guard", Guard)

MOST_CONNECTIONS = 512
_LIMITS: dict[str, Any] = {
    "max_line_size": 64 * 1024,
    "max_field_size": 16 * 1024,
    "keepalive_timeout": 75.0,
    "lingering_time": 1.0,
    "auto_decompress": False,
    "access_log": None,
}
_BUSY = refusal_body("overloaded", "too many connections are open; close some and try again")
_BUSY_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_BUSY), _BUSY)
)

_log = logging.getLogger(__name__)


class _Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be read, or to a mistake of ours, which is logged."""
        if status >= 500:
            _log.error("answering %s %s failed", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("part of another answer is sent already")
        response = refused(_unreadable(exc, message)) if status < 500 else _failed()
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):
            resp = _translated(request, resp)
        return await super().finish_response(request, resp, start_time)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client has sent all it will: it still gets its answer, a cut-off body a refusal."""
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting or not self._request_count:
            return None
        for _, payload in self._messages:
            _cut_off(payload)
        # the request in hand may be about to be handed over
        self._loop.call_soon(self._cut_off_current)
        self.close()
        return True

    def _cut_off_current(self) -> None:
        if self._current_request is not None:
            _cut_off(self._current_request.content)


def _cut_off(payload: StreamReader) -> None:
    if not payload.is_eof():
        payload.set_exception(web.RequestPayloadError("cut off"))


class _Server(web.Server):
    """Makes our connections, and not too many of them."""

    def __init__(self, *args: Any, **limits: Any) -> None:
        super().__init__(*args, **limits)
        self._limits = limits

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > MOST_CONNECTIONS:
            transport.write(_BUSY_ANSWER)
            handler.force_close()

    def __call__(self) -> _Connection:
        limits = {key: value for key, value in self._limits.items() if key in _LIMITS}
        return _Connection(self, loop=self._loop, **limits)


class Runner(web.AppRunner):
    """Runs an application on our server."""

    def __init__(self, app: web.Application, shutdown_timeout_s: float = 60.0) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout_s, **_LIMITS)

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return _Server(plain.request_handler, request_factory=plain.request_factory, **_LIMITS)


async def serve(
    app: web.Application,
    address: str,
    port: int,
    *,
    settings: tuple[str, str, str],
    shutdown_timeout_s: float = 60.0,
) -> Runner:
    """Open *port* for *app*; ``runner.addresses`` says which it is if it was 0.

    *settings* are the names of those that give address, port and token file. Raises ConfigError
    for an address that is impossible or unsafe, OutputError if the port cannot be had.
    """
    address_setting, port_setting, token_setting = settings
    if not is_loopback(address) and not app[GUARD].tokens:
        raise ConfigError(
            f"{address_setting} is {address}, which others can reach: set {token_setting} to a"
            " file with a token, or listen on 127.0.0.1"
        )
    runner = Runner(app, shutdown_timeout_s)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port).start()
    except OSError as problem:
        await runner.cleanup()
        if problem.errno == errno.EADDRINUSE:
            raise OutputError(
                f"port {port} of {address} is taken; stop who has it or set {port_setting}"
            ) from problem
        if problem.errno in (errno.EACCES, errno.EPERM):
            raise OutputError(
                f"port {port} of {address} is not allowed to this user;"
                f" set {port_setting} to one above 1023"
            ) from problem
        raise ConfigError(
            f"cannot listen on {address}: {problem.strerror or problem};"
            f" set {address_setting} to an address of this machine"
        ) from problem
    return runner


def urls(runner: Runner) -> list[str]:
    """Where *runner* listens, as a client would write it."""
    return [
        f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
        for address, port, *_ in runner.addresses
    ]


def _unreadable(exc: BaseException | None, message: str | None) -> RefusedError:
    if isinstance(exc, http_exceptions.LineTooLong):
        return TooLarge(
            f"the request line is longer than {_LIMITS['max_line_size']} bytes or a header longer"
            f" than {_LIMITS['max_field_size']}; shorten it"
        )
    detail = "".join(c if c.isprintable() else " " for c in (message or "").split("\n")[0])
    return BadRequest(f"this is not HTTP/1.1 ({detail.strip(' :')[:80]}); mend the request")


def _failed() -> web.Response:
    body = refusal_body("failed", "something went wrong here, not with your request; see the log")
    return answer(body, 500)


def _translated(request: web.BaseRequest, problem: web.HTTPException) -> web.Response:
    """aiohttp's own refusals in our form."""
    refusal: RefusedError
    headers: dict[str, str] = {}
    match problem.status:
        case 404:
            refusal = NotFound("there is no such route; / names those there are")
        case 405:
            allowed = problem.headers.get("Allow", "")
            headers["Allow"] = allowed
            instead = allowed.replace(",", " or ")
            refusal = MethodNotAllowed(
                f"this route does not take {request.method[:20]}; use {instead}"
            )
        case 413:
            refusal = TooLarge("the body is too large; send less")
        case status if status < 500:
            refusal = BadRequest(f"{problem.reason.lower()}: mend the request and send it again")
        case _:
            return _failed()
    response = refused(refusal)
    response.headers.update(headers)
    return response
