"""The global scheduler's routes as one application, and the port it listens on."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from schedulerglobal.adapters.forwarding import Forwarder
from schedulerglobal.adapters.published import PublishedRoutes
from schedulerglobal.adapters.typed import TypedRoutes
from schedulerglobal.config import GlobalSettings, is_own
from schedulerglobal.scheduler import ClusterScheduler
from schedulerweb import server
from schedulerweb.body import LARGEST_BODY
from schedulerweb.guard import Guard, Handler, is_loopback, read_tokens
from schedulerweb.pages import add_docs
from schedulerweb.server import GUARD, Runner
from schedulerweb.stream import Streams

SCHEDULER = web.AppKey("scheduler", ClusterScheduler)

SHUTDOWN_S = 10.0
"""What is under way at the end may take so long; the rest is settled by the next start, or by
whoever leads next."""

_SETTINGS = ("SCG_URL", "SCG_PORT", "SCG_TOKEN_FILE")


def create_app(
    scheduler: ClusterScheduler,
    settings: GlobalSettings,
    monotonic_s: Callable[[], float],
    forwarder: Forwarder | None = None,
) -> web.Application:
    """All routes over *scheduler*; raises ConfigError if the token file cannot be used.

    Without *forwarder* there is nobody else to ask.
    """

    def check_url(url: str) -> None:
        if is_own(url, settings.address, settings.port):
            raise ValueError(f"{url} is this global scheduler itself; name a local one")

    published = PublishedRoutes(scheduler, settings.cluster)
    changing: frozenset[Handler] = frozenset((published.deploy, published.remove))
    guard = Guard(
        tokens=read_tokens(settings.token_file),
        loopback=is_loopback(settings.address),
        changing=changing,
        open_to_all=frozenset((published.healthz, published.readyz, published.leader)),
    )
    middlewares = [guard.middleware()]
    if forwarder is not None:
        middlewares.append(forwarder.middleware(changing))
    app = web.Application(middlewares=middlewares, client_max_size=LARGEST_BODY)
    app[SCHEDULER] = scheduler
    app[GUARD] = guard
    published.add_to(app)
    streams = Streams()
    TypedRoutes(scheduler, streams, monotonic_s=monotonic_s, check_url=check_url).add_to(app)
    add_docs(app)
    app.on_shutdown.append(streams.end)
    return app


async def serve(
    app: web.Application, address: str, port: int, shutdown_timeout_s: float = SHUTDOWN_S
) -> Runner:
    """Listen; raises ConfigError or OutputError, see :func:`schedulerweb.server.serve`."""
    return await server.serve(
        app, address, port, settings=_SETTINGS, shutdown_timeout_s=shutdown_timeout_s
    )
