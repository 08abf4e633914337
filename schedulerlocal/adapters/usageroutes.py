"""What is used of the host: as JSON, and for Prometheus.

It is apart from ``/v1/host``, whose ETag is the state's generation: usage changes with every
reading, and whoever asks for the state again would get all of it anew each time.
"""

from __future__ import annotations

from aiohttp import web

from schedulerlocal.adapters.published import known_state
from schedulerlocal.agent import HostAgent
from schedulerlocal.monitoring import Monitor
from schedulerlocal.views import usage_document
from schedulerweb.answers import answer, json_bytes
from schedulerweb.query import read_parameters


class UsageRoutes:
    """Handlers of these routes; without *monitor* nothing is known of what is used."""

    def __init__(self, agent: HostAgent, monitor: Monitor | None) -> None:
        self._agent = agent
        self._monitor = monitor

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/host/usage", self.usage)
        app.router.add_get("/metrics", self.metrics)

    async def usage(self, request: web.Request) -> web.Response:
        read_parameters(request)
        state, monitor = known_state(self._agent), self._monitor
        readings, crowding = (monitor.readings, monitor.crowding) if monitor else (None, {})
        return answer(json_bytes(usage_document(self._agent.name, state, readings, crowding)))

    async def metrics(self, request: web.Request) -> web.Response:
        from schedulerlocal.adapters.metrics import CONTENT_TYPE, metrics_text

        read_parameters(request)
        known_state(self._agent)
        readings = self._monitor.readings if self._monitor else None
        return answer(metrics_text(self._agent, readings), headers={"Content-Type": CONTENT_TYPE})
