"""The typed routes under ``/v1/``: JSON in and out, changes by POST and DELETE.

The checks of bodies are imported when first needed: pydantic takes long to load.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from schedulercommon.errors import BadRequest
from schedulerlocal.adapters.published import Kept, known_name, known_state
from schedulerlocal.agent import HostAgent
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.state import Vm
from schedulerlocal.views import doing, host_document, vm_document, vm_documents
from schedulerprocess.events import Subscription
from schedulerweb.answers import DONE, answer, json_bytes, with_etag
from schedulerweb.body import read_document
from schedulerweb.console import console_answer, read_tail
from schedulerweb.guard import ATTEMPT
from schedulerweb.query import read_parameters, shown
from schedulerweb.stream import Message, Streams, last_event_id


class TypedRoutes:
    """Handlers of the typed routes."""

    def __init__(self, agent: HostAgent, streams: Streams) -> None:
        self._agent = agent
        self._streams = streams
        self._host = Kept(
            lambda state: json_bytes(host_document(agent.name, state, agent.warnings))
        )

    def add_to(self, app: web.Application) -> None:
        add = app.router
        add.add_get("/openapi.json", self.openapi)
        add.add_get("/v1/host", self.host)
        add.add_get("/v1/vms", self.vms)
        add.add_post("/v1/vms", self.deploy)
        add.add_get("/v1/vms/{name}", self.vm)
        add.add_delete("/v1/vms/{name}", self.remove)
        for verb in Verb:
            add.add_post(f"/v1/vms/{{name}}/{verb}", self.power)
        add.add_get("/v1/vms/{name}/console", self.console)
        add.add_post("/v1/vms/{name}/resize", self.resize)
        add.add_post("/v1/vms/{name}/adopt", self.adopt)
        add.add_delete("/v1/requests/{request_id}", self.cancel)
        add.add_get("/v1/events", self.events, allow_head=False)

    async def openapi(self, request: web.Request) -> web.Response:
        from schedulerlocal.adapters.openapi import openapi_document

        read_parameters(request)
        return answer(openapi_document())

    async def host(self, request: web.Request) -> web.Response:
        read_parameters(request)
        state = known_state(self._agent)
        return with_etag(request, self._host.body(state), state.generation)

    async def vms(self, request: web.Request) -> web.Response:
        read_parameters(request)
        state = known_state(self._agent)
        return answer(json_bytes(vm_documents(state, self._agent.states)))

    async def vm(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return self._shown(self._named(request))

    async def deploy(self, request: web.Request) -> web.Response:
        from schedulercommon.wire import DeployRequest, read_model

        read_parameters(request)
        asked = read_model(DeployRequest, await read_document(request))
        if asked.host not in ("", self._agent.name):
            raise BadRequest(
                f"field 'host' is {asked.host!r} and this host is {self._agent.name!r};"
                " leave it out, or ask that host or the global scheduler"
            )
        if asked.policy:
            raise BadRequest(
                "field 'policy' means nothing to a single host; leave it out, or ask the"
                " global scheduler"
            )
        deployment = await self._agent.deploy(asked.spec())
        return self._shown(deployment.vm, status=201 if deployment.created else 200)

    async def remove(self, request: web.Request) -> web.Response:
        read_parameters(request)
        await self._agent.remove(self._name(request), request.headers.get(ATTEMPT, ""))
        return answer(DONE)

    async def power(self, request: web.Request) -> web.Response:
        from schedulercommon.wire import NoRequest, ShutdownRequest, read_model

        read_parameters(request)
        verb = Verb(request.path.rpartition("/")[2])
        document = await read_document(request)
        force = False
        if verb is Verb.SHUTDOWN:
            force = read_model(ShutdownRequest, document).force
        else:
            read_model(NoRequest, document)
        name = self._name(request)
        state = await self._agent.power(name, verb, force)
        now = self._agent.state
        return answer(json_bytes(vm_document(now, now.vm(name), state)))

    async def console(self, request: web.Request) -> web.Response:
        tail = read_tail(request)
        name = self._name(request)
        text = await self._agent.console(name, tail.most_bytes)
        return console_answer(request, name, tail.of(text).decode("utf-8", "replace"))

    async def resize(self, request: web.Request) -> web.Response:
        from schedulercommon.wire import ResizeRequest, read_model

        read_parameters(request)
        asked = read_model(ResizeRequest, await read_document(request))
        name = self._name(request)
        resized = await self._agent.resize(name, *asked.sizes())
        effect = {"vcpus": resized.vcpus, "memory_mib": resized.memory_mib}
        vm = self._document(self._agent.state.vm(name))
        return answer(json_bytes({**vm, "takes_effect": effect}))

    async def adopt(self, request: web.Request) -> web.Response:
        from schedulercommon.wire import AdoptRequest, read_model

        read_parameters(request)
        asked = read_model(AdoptRequest, await read_document(request))
        vm = await self._agent.adopt(
            self._name(request), asked.level, tuple(sorted(asked.labels.items())), asked.owner
        )
        return self._shown(vm)

    async def cancel(self, request: web.Request) -> web.Response:
        from schedulercommon.wire import REQUEST_ID

        read_parameters(request)
        request_id = request.match_info["request_id"]
        if not REQUEST_ID.fullmatch(request_id):
            raise BadRequest(
                f"{shown(request_id)} is not a request's id; write 1 to 128 letters, digits,"
                " '.', '_', ':' or '-', a letter or digit first"
            )
        outcome = await self._agent.cancel(request_id)
        return answer(json_bytes({"request_id": request_id, "outcome": outcome}))

    async def events(self, request: web.Request) -> web.StreamResponse:
        read_parameters(request)
        known_state(self._agent)
        with self._agent.events.subscribe(last_event_id(request)) as subscription:
            return await self._streams.follow(request, _messages(subscription))

    def _name(self, request: web.Request) -> str:
        return known_name(self._agent, request.match_info["name"])

    def _named(self, request: web.Request) -> Vm:
        return known_state(self._agent).vm(self._name(request))

    def _document(self, vm: Vm) -> dict[str, Any]:
        return vm_document(self._agent.state, vm, doing(self._agent.states, vm))

    def _shown(self, vm: Vm, status: int = 200) -> web.Response:
        return answer(json_bytes(self._document(vm)), status)


async def _messages(subscription: Subscription) -> AsyncIterator[Message]:
    async for event in subscription:
        yield Message(event.sequence, event.kind, {"time_s": event.time_s, **event.data})
