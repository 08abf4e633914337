"""The local scheduler's routes as one application, and the port it listens on."""

from __future__ import annotations

from aiohttp import web

from schedulerlocal.adapters.published import PublishedRoutes
from schedulerlocal.adapters.typed import TypedRoutes
from schedulerlocal.adapters.usageroutes import UsageRoutes
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import ServiceSettings
from schedulerlocal.monitoring import Monitor
from schedulerweb import server
from schedulerweb.body import LARGEST_BODY
from schedulerweb.guard import Guard, is_loopback, read_tokens
from schedulerweb.pages import add_docs
from schedulerweb.server import GUARD, Runner
from schedulerweb.stream import Streams

AGENT = web.AppKey("agent", HostAgent)

_SETTINGS = ("SCL_URL", "SCL_PORT", "SCL_TOKEN_FILE")


def create_app(
    agent: HostAgent, settings: ServiceSettings, monitor: Monitor | None = None
) -> web.Application:
    """All routes over *agent*; raises ConfigError if the token file cannot be used.

    Without *monitor* nothing is known of what is used.
    """
    published = PublishedRoutes(agent)
    guard = Guard(
        tokens=read_tokens(settings.token_file),
        loopback=is_loopback(settings.address),
        changing=frozenset((published.deploy, published.remove)),
        open_to_all=frozenset((published.healthz, published.readyz)),
        host_name=agent.name,
        leaders=agent,
    )
    app = web.Application(middlewares=[guard.middleware()], client_max_size=LARGEST_BODY)
    app[AGENT] = agent
    app[GUARD] = guard
    published.add_to(app)
    streams = Streams()
    TypedRoutes(agent, streams).add_to(app)
    UsageRoutes(agent, monitor).add_to(app)
    add_docs(app)
    app.on_shutdown.append(streams.end)
    return app


async def serve(app: web.Application, address: str, port: int) -> Runner:
    """Listen; raises ConfigError or OutputError, see :func:`schedulerweb.server.serve`."""
    return await server.serve(app, address, port, settings=_SETTINGS)
