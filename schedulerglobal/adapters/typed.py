"""The typed routes under ``/v1/``: JSON in and out, changes by POST, PATCH and DELETE.

The checks of bodies are imported when first needed: pydantic takes long to load.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from schedulercommon.errors import BadRequest, UnknownVm
from schedulerglobal.adapters.published import known
from schedulerglobal.config import parse_url
from schedulerglobal.core.promises import Promise
from schedulerglobal.core.view import Shape
from schedulerglobal.fleet import Host
from schedulerglobal.orders import Order
from schedulerglobal.scheduler import ClusterScheduler
from schedulerglobal.views import (
    host_document,
    host_documents,
    stranger_document,
    vm_document,
    vm_documents,
)
from schedulerprocess.events import Subscription
from schedulerweb.answers import DONE, answer, json_array, json_bytes
from schedulerweb.body import read_document
from schedulerweb.console import console_answer, read_tail
from schedulerweb.query import read_parameters, read_size, valid_name
from schedulerweb.stream import Message, Streams, last_event_id

VERBS = ("start", "shutdown", "reboot", "suspend", "resume", "resize", "adopt")
HOST_VERBS = ("drain", "resume", "maintenance", "fence")


class TypedRoutes:
    """Handlers of the typed routes."""

    def __init__(
        self,
        scheduler: ClusterScheduler,
        streams: Streams,
        *,
        monotonic_s: Callable[[], float],
        check_url: Callable[[str], None],
    ) -> None:
        self._scheduler = scheduler
        self._streams = streams
        self._monotonic_s = monotonic_s
        self._check_url = check_url

    def add_to(self, app: web.Application) -> None:
        add = app.router
        add.add_get("/openapi.json", self.openapi)
        add.add_get("/v1/vms", self.vms)
        add.add_post("/v1/vms", self.deploy)
        add.add_get("/v1/vms/{name}", self.vm)
        add.add_delete("/v1/vms/{name}", self.remove)
        for verb in VERBS:
            add.add_post(f"/v1/vms/{{name}}/{verb}", self.act)
        add.add_get("/v1/vms/{name}/console", self.console)
        add.add_get("/v1/hosts", self.hosts)
        add.add_post("/v1/hosts", self.add_host)
        add.add_get("/v1/hosts/{name}", self.host)
        add.add_patch("/v1/hosts/{name}", self.label_host)
        add.add_delete("/v1/hosts/{name}", self.remove_host)
        for verb in HOST_VERBS:
            add.add_post(f"/v1/hosts/{{name}}/{verb}", self.change_host)
        add.add_get("/v1/capacity", self.capacity)
        add.add_get("/v1/events", self.events, allow_head=False)
        add.add_get("/metrics", self.metrics)

    async def openapi(self, request: web.Request) -> web.Response:
        from schedulerglobal.adapters.openapi import openapi_document

        read_parameters(request)
        return answer(openapi_document())

    async def metrics(self, request: web.Request) -> web.Response:
        from schedulerglobal.adapters.metrics import CONTENT_TYPE, metrics_text

        read_parameters(request)
        headers = {"Content-Type": CONTENT_TYPE}
        return answer(metrics_text(known(self._scheduler)), headers=headers)

    async def vms(self, request: web.Request) -> web.Response:
        read_parameters(request)
        scheduler = known(self._scheduler)
        return answer(await json_array(vm_documents(scheduler.book, scheduler.fleet)))

    async def vm(self, request: web.Request) -> web.Response:
        read_parameters(request)
        name = request.match_info["name"]
        scheduler = known(self._scheduler)
        if scheduler.book.find(name) is None and not scheduler.book.seen_on(name):
            raise UnknownVm(valid_name(name))
        detail = await scheduler.detail(name)
        promise, hosts = scheduler.book.find(name), scheduler.book.seen_on(name)
        if promise is not None:
            return self._shown(promise, detail)
        if not hosts:
            raise UnknownVm(name)
        return answer(json_bytes(stranger_document(name, hosts, detail)))

    async def deploy(self, request: web.Request) -> web.Response:
        from schedulercommon.clusterwire import PlaceRequest
        from schedulercommon.wire import read_model

        dry_run = _switched_on(read_parameters(request, (), ("dry_run",)).get("dry_run", "0"))
        asked = read_model(PlaceRequest, await read_document(request))
        order = Order(
            policy=asked.policy,
            host=asked.host,
            avoid=tuple(asked.avoid),
            affinity=tuple(asked.affinity),
            anti_affinity=tuple(asked.anti_affinity),
            spread=asked.spread,
        )
        if dry_run:
            self._scheduler.check_ready()
            policy, host, verdicts = self._scheduler.placer.explain(asked.spec(), order)
            hosts = [
                {"host": each.host, "score": each.score, "reason": each.reason} for each in verdicts
            ]
            return answer(json_bytes({"host": host, "policy": policy.name, "hosts": hosts}))
        placement = await self._scheduler.deploy(asked.spec(), order)
        detail = placement.said or await self._scheduler.detail(placement.promise.name)
        return self._shown(placement.promise, detail, status=201 if placement.created else 200)

    async def remove(self, request: web.Request) -> web.Response:
        read_parameters(request)
        removal = await self._scheduler.remove(self._name(request))
        if removal.done:
            return answer(DONE)
        body = {"success": True, "reason": removal.reason, "status": "removing"}
        return answer(json_bytes(body), 202)

    async def act(self, request: web.Request) -> web.Response:
        read_parameters(request)
        document = await read_document(request)
        name = self._name(request)
        verb = request.path.rpartition("/")[2]
        promise, host, said = await self._scheduler.act(name, "POST", f"/{verb}", _plain(document))
        shown = (
            vm_document(promise, self._scheduler.book, self._scheduler.fleet, said)
            if promise is not None
            else stranger_document(name, [host.name], said)
        )
        if "takes_effect" in said:
            shown["takes_effect"] = said["takes_effect"]
        return answer(json_bytes(shown))

    async def console(self, request: web.Request) -> web.Response:
        tail = read_tail(request)
        name = self._name(request)
        text = await known(self._scheduler).console(name, tail.query)
        return console_answer(request, name, text)

    async def hosts(self, request: web.Request) -> web.Response:
        read_parameters(request)
        scheduler = known(self._scheduler)
        documents = host_documents(scheduler.book, scheduler.fleet, self._monotonic_s())
        return answer(await json_array(documents))

    async def host(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return self._shown_host(known(self._scheduler).fleet.named(request.match_info["name"]))

    async def add_host(self, request: web.Request) -> web.Response:
        from schedulercommon.clusterwire import HostRequest
        from schedulercommon.wire import read_model

        read_parameters(request)
        asked = read_model(HostRequest, await read_document(request))
        try:
            url = parse_url(asked.url)
            self._check_url(url)
        except ValueError as problem:
            raise BadRequest(f"field 'url': {problem}") from None
        adding = self._scheduler.admin.add(url, asked.labels)
        host, created = await self._scheduler.under_office(adding)
        return self._shown_host(host, 201 if created else 200)

    async def label_host(self, request: web.Request) -> web.Response:
        from schedulercommon.clusterwire import HostChange
        from schedulercommon.wire import read_model

        read_parameters(request)
        asked = read_model(HostChange, await read_document(request))
        labelling = self._scheduler.admin.label(request.match_info["name"], asked.labels)
        return self._shown_host(await self._scheduler.under_office(labelling))

    async def remove_host(self, request: web.Request) -> web.Response:
        read_parameters(request)
        removing = self._scheduler.admin.remove(request.match_info["name"])
        await self._scheduler.under_office(removing)
        return answer(DONE)

    async def change_host(self, request: web.Request) -> web.Response:
        from schedulercommon.wire import NoRequest, read_model

        read_parameters(request)
        read_model(NoRequest, await read_document(request))
        admin = self._scheduler.admin
        change = {
            "drain": admin.drain,
            "resume": admin.resume,
            "maintenance": admin.maintain,
            "fence": admin.fence,
        }[request.path.rpartition("/")[2]]
        changing = change(request.match_info["name"])
        return self._shown_host(await self._scheduler.under_office(changing))

    async def capacity(self, request: web.Request) -> web.Response:
        vcpus, memory_mib, level = read_size(request)
        fits = known(self._scheduler).capacity(Shape(vcpus, memory_mib, level))
        hosts = [{"host": host, "fits": count} for host, count in fits]
        return answer(json_bytes({"total": sum(count for _, count in fits), "hosts": hosts}))

    async def events(self, request: web.Request) -> web.StreamResponse:
        read_parameters(request)
        known(self._scheduler)
        with self._scheduler.events.subscribe(last_event_id(request)) as subscription:
            return await self._streams.follow(request, _messages(subscription))

    def _name(self, request: web.Request) -> str:
        """The VM named in the address; one that was found may have a name we would not give."""
        name = request.match_info["name"]
        return name if self._scheduler.book.seen_on(name) else valid_name(name)

    def _shown(self, promise: Promise, detail: Any, status: int = 200) -> web.Response:
        scheduler = self._scheduler
        document = vm_document(promise, scheduler.book, scheduler.fleet, detail)
        return answer(json_bytes(document), status)

    def _shown_host(self, host: Host, status: int = 200) -> web.Response:
        scheduler = self._scheduler
        document = host_document(host, scheduler.book, scheduler.fleet, self._monotonic_s())
        return answer(json_bytes(document), status)


def _switched_on(text: str) -> bool:
    if text not in ("0", "1"):
        raise BadRequest(f"dry_run {text[:20]!r} is neither 0 nor 1")
    return text == "1"


def _plain(document: dict[str, Any]) -> dict[str, object]:
    """*document* as JSON can be written again: a Decimal as a whole number, or else as text, which
    its host refuses in its own words."""
    from decimal import Decimal

    def plain(value: Any) -> object:
        if not isinstance(value, Decimal):
            return value
        small = value.is_finite() and abs(value.adjusted()) < 30
        return int(value) if small and value == value.to_integral_value() else str(value)[:40]

    return {field: plain(value) for field, value in document.items()}


async def _messages(subscription: Subscription) -> AsyncIterator[Message]:
    async for event in subscription:
        yield Message(event.sequence, event.kind, {"time_s": event.time_s, **event.data})
