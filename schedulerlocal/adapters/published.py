"""The published routes: what curl, scripts and an older global scheduler use."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from schedulercommon.errors import NotReady
from schedulerlocal.agent import HostAgent
from schedulerlocal.core.state import HostState
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.views import vm_names
from schedulerweb.answers import DONE, answer, json_bytes, with_etag
from schedulerweb.pages import first_page
from schedulerweb.query import read_deploy, read_name, read_parameters, read_size, valid_name

_NEVER_KEPT = {"Cache-Control": "no-store"}
_LINKS = {
    "/docs": "the API, to read and to try",
    "/openapi.json": "the API as an OpenAPI document",
    "/status": "CPUs by level, and memory",
    "/listvm": "the names of the VMs",
    "/deploy?name=&cpu=&mem=&oc=&qcow2=": "place a VM: vCPUs, GB, vCPUs per CPU, image",
    "/remove?name=": "stop a VM and forget it",
    "/progress?cpu=&mem=&oc=": "what placing a VM would do for the host's balance",
    "/v1/host": "the host in full",
    "/v1/host/usage": "what is used of it, and how long VMs wait for CPUs",
    "/v1/vms": "the VMs in full",
    "/v1/events": "what happens, as it happens",
    "/metrics": "gauges for Prometheus",
    "/healthz": "whether this service lives",
    "/readyz": "whether it knows its host",
}


class Kept:
    """An answer that depends on the state alone, made once for each."""

    def __init__(self, make: Callable[[HostState], bytes]) -> None:
        self._make = make
        self._state: HostState | None = None
        self._body = b""

    def body(self, state: HostState) -> bytes:
        if state is not self._state:
            self._body = self._make(state)
            self._state = state
        return self._body


class PublishedRoutes:
    """Handlers of the published routes; parameters come in the query, changes go by GET."""

    def __init__(self, agent: HostAgent) -> None:
        self._agent = agent
        self._status = Kept(lambda state: json_bytes(published_status(state)))
        self._names = Kept(lambda state: json_bytes(vm_names(state)))

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/", self.first_page)
        app.router.add_get("/status", self.status)
        app.router.add_get("/listvm", self.listvm)
        app.router.add_get("/progress", self.progress)
        # HEAD must change nothing, so these do not take it
        app.router.add_get("/deploy", self.deploy, allow_head=False)
        app.router.add_get("/remove", self.remove, allow_head=False)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)

    async def first_page(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return first_page(request, f"VMStack local scheduler of {self._agent.name}", _LINKS)

    async def status(self, request: web.Request) -> web.Response:
        read_parameters(request)
        state = known_state(self._agent)
        return with_etag(request, self._status.body(state), state.generation)

    async def listvm(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return answer(self._names.body(known_state(self._agent)))

    async def progress(self, request: web.Request) -> web.Response:
        vcpus, memory_mib, level = read_size(request)
        state = known_state(self._agent)
        score = deploy_progress(state, vcpus, memory_mib, level)
        return answer(b'{"progress": %s}' % repr(score).encode())

    async def deploy(self, request: web.Request) -> web.Response:
        await self._agent.deploy(read_deploy(request, self._agent.fresh_request_id()))
        return answer(DONE, headers=_NEVER_KEPT)

    async def remove(self, request: web.Request) -> web.Response:
        await self._agent.remove(known_name(self._agent, read_name(request)))
        return answer(DONE, headers=_NEVER_KEPT)

    async def healthz(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return answer(b'{"status": "ok"}')

    async def readyz(self, request: web.Request) -> web.Response:
        read_parameters(request)
        known_state(self._agent)
        return answer(b'{"status": "ready"}')


def known_name(agent: HostAgent, name: str) -> str:
    """*name*, if a VM has it or can have it; one found here may have one we would not give."""
    return name if name in agent.states else valid_name(name)


def known_state(agent: HostAgent) -> HostState:
    """The state, once it has been read from the hypervisor; raises NotReady before and after."""
    if not agent.ready:
        raise NotReady("this local scheduler is starting or stopping; try again in a moment")
    return agent.state
