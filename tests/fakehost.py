"""A local scheduler in this process that behaves as told, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from aiohttp import web

from tests.webrig import IMAGE

_NUMBERS = count(1)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Manner = Callable[["FakeHost", web.Request, Handler], Awaitable[web.StreamResponse]]
"""How a request is met; the handler does what is asked and answers as it should be."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    authorization: str
    document: Any


def answers(status: int, document: object) -> Manner:
    """That, with nothing done."""

    async def meet(_: FakeHost, __: web.Request, ___: Handler) -> web.StreamResponse:
        return web.json_response(document, status=status)

    return meet


def refuses(code: str, status: int = 409) -> Manner:
    return answers(status, {"success": False, "reason": f"because of {code}", "code": code})


def uncoded(status: int = 200) -> Manner:
    """As older ones refuse."""
    return answers(status, {"success": False, "reason": "no room, or so"})


async def hangs(_: FakeHost, __: web.Request, ___: Handler) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits that long")


async def resets(_: FakeHost, request: web.Request, __: Handler) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def babbles(_: FakeHost, __: web.Request, ___: Handler) -> web.StreamResponse:
    return web.Response(text="<html>oops")


async def breaks_off(_: FakeHost, request: web.Request, __: Handler) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"\x16\x03\x01\r\n\r\n")  # type: ignore[attr-defined]
    request.transport.close()
    return web.Response()


async def dies(host: FakeHost, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses connections from now on, and answers on none of those there are."""
    await host.stop_listening()
    host.manners = {"all": resets}
    return await resets(host, request, handler)


def done_then(manner: Manner) -> Manner:
    """What is asked is done, and then met in *manner*."""

    async def meet(host: FakeHost, request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        return await manner(host, request, handler)

    return meet


class Held:
    """A manner: requests wait until they are let go on; then what is asked is done."""

    def __init__(self, *, done_first: bool = False) -> None:
        self.reached = asyncio.Event()
        """Set once there is one."""
        self.let_go = asyncio.Event()
        self._done_first = done_first

    async def __call__(
        self, _: FakeHost, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        response = await handler(request) if self._done_first else None
        self.reached.set()
        await self.let_go.wait()
        return response if response is not None else await handler(request)


class FakeHost:
    """Sixteen CPUs and room for every VM, on a port it keeps."""

    def __init__(self, name: str, *, typed: bool = True) -> None:
        self.name = name
        self.typed = typed
        """Whether it knows the routes under ``/v1/``."""
        self.vms: dict[str, dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.manners: dict[str, Manner] = {}
        """By ``deploy``, ``remove``, ``cancel``, ``act``, ``look`` or ``all``."""
        self.deployed: dict[str, str] = {}
        """Names by the id of the request."""
        self.port = 0
        self.unmoved = 0
        """How often a typed look was answered with a 304."""
        # as they begin with the time, no two hosts have the same
        self._generation = 1000 * next(_NUMBERS)
        self._said: dict[str, Any] = {}
        self._cancelled: set[str] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def times_asked(self, what: str) -> int:
        """How often it was asked to deploy, remove, cancel, act or look."""
        return sum(_kind(each.method, each.path) == what for each in self.asked)

    async def come(self, port: int | None = None) -> None:
        """Listen on *port*, or where it did before."""
        if self._runner is not None:
            return
        app = web.Application(middlewares=[self._meet])
        app.router.add_get("/status", self._status)
        app.router.add_get("/listvm", self._listvm)
        app.router.add_get("/deploy", self._deploy_published)
        app.router.add_get("/remove", self._remove_published)
        app.router.add_get("/v1/host", self._host)
        app.router.add_post("/v1/vms", self._deploy)
        app.router.add_get("/v1/vms/{name}", self._vm)
        app.router.add_delete("/v1/vms/{name}", self._remove)
        app.router.add_post("/v1/vms/{name}/{verb}", self._vm)
        app.router.add_delete("/v1/requests/{id}", self._cancel)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, access_log=None)
        await self._runner.setup()
        there = "127.0.0.1", self.port if port is None else port
        self._listener = socket.create_server(there)
        self._listener.setblocking(False)
        await web.SockSite(self._runner, self._listener).start()
        self.port = self._listener.getsockname()[1]

    async def go(self) -> None:
        """Refuse connections from now on."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await self._accept_no_more()
            await runner.cleanup()

    async def stop_listening(self) -> None:
        """The same, but for connections there are; :meth:`go` must follow."""
        assert self._runner is not None
        await self._accept_no_more()
        for site in list(self._runner.sites):
            await site.stop()

    async def _accept_no_more(self) -> None:
        """A connection accepted just now is lost, unclosed, if its server closes first (asyncio up
        to Python 3.11): so it gets a turn."""
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            await asyncio.sleep(0)

    @web.middleware
    async def _meet(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        document = await request.json() if request.can_read_body else None
        authorization = request.headers.get("Authorization", "")
        self.asked.append(Asked(request.method, request.path, authorization, document))
        if request.path.startswith("/v1/") and not self.typed:
            return web.Response(status=404, text="404: Not Found")
        manner = self.manners.get(_kind(request.method, request.path)) or self.manners.get("all")
        return await (manner(self, request, handler) if manner else handler(request))

    async def _status(self, _: web.Request) -> web.Response:
        vcpus = sum(vm["vcpus"] for vm in self.vms.values())
        mib = sum(vm["memory_mib"] for vm in self.vms.values())
        level = {"pcap": vcpus, "palloc": vcpus, "vavail": 0.0, "vpotential": 0.0}
        memory = {"pcap": mib, "palloc": mib, "vavail": 0, "vpotential": 65_536 - mib}
        cpu = {"avail": 16 - vcpus, "subset": {"1.0": level} if vcpus else {}}
        pools = {"1": memory} if vcpus else {}
        return web.json_response({"cpu": cpu, "mem": {"avail": 65_536 - mib, "subset": pools}})

    async def _listvm(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.vms))

    async def _host(self, request: web.Request) -> web.Response:
        vcpus = [vm["vcpus"] for vm in self.vms.values()]
        mib = sum(vm["memory_mib"] for vm in self.vms.values())
        level = {
            "level": "1.0",
            "cpus": list(range(sum(vcpus))),
            "vcpus": sum(vcpus),
            "largest_vcpus": max(vcpus, default=0),
            "vms": list(self.vms),
        }
        document = {
            "name": self.name,
            "cpus": {"total": 16, "free": 16 - sum(vcpus)},
            "memory_mib": {"total": 65_536, "free": 65_536 - mib},
            "vm_overhead_mib": 0,
            "levels": [level] if vcpus else [],
        }
        if document != self._said:
            self._generation += 1
            self._said = document
        etag = f'"{self._generation}"'
        if request.headers.get("If-None-Match") == etag:
            self.unmoved += 1
            return web.Response(status=304, headers={"ETag": etag})
        return web.json_response(
            {**document, "generation": self._generation}, headers={"ETag": etag}
        )

    async def _deploy_published(self, request: web.Request) -> web.Response:
        query = request.query
        self.run(query["name"], int(query["cpu"]))
        return web.json_response({"success": True, "reason": None})

    async def _remove_published(self, request: web.Request) -> web.Response:
        if self.vms.pop(request.query["name"], None) is None:
            return web.json_response({"success": False, "reason": "no such VM"})
        return web.json_response({"success": True, "reason": None})

    async def _deploy(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["request_id"] in self._cancelled:
            return _refusal("request-cancelled", 409)
        self.deployed[asked["request_id"]] = asked["name"]
        return web.json_response(self.run(asked["name"], asked["vcpus"]), status=201)

    async def _vm(self, request: web.Request) -> web.Response:
        vm = self.vms.get(request.match_info["name"])
        return _refusal("unknown-vm", 404) if vm is None else web.json_response(vm)

    async def _remove(self, request: web.Request) -> web.Response:
        if self.vms.pop(request.match_info["name"], None) is None:
            return _refusal("unknown-vm", 404)
        return web.json_response({"success": True, "reason": None})

    async def _cancel(self, request: web.Request) -> web.Response:
        attempt = request.match_info["id"]
        name = self.deployed.get(attempt)
        self._cancelled.add(attempt)
        outcome = "cancelled" if name is None else "deployed" if name in self.vms else "removed"
        return web.json_response({"request_id": attempt, "outcome": outcome})

    def run(self, name: str, vcpus: int = 1) -> dict[str, Any]:
        """Have a VM called *name*, whoever wanted it."""
        vm = {
            "name": name,
            "level": "1.0",
            "runs_at": "1.0",
            "vcpus": vcpus,
            "memory_mib": 1024,
            "image": IMAGE,
            "state": "running",
            "pinned_cpus": [0],
            "memory_nodes": [0],
            "labels": {},
            "owner": "",
        }
        return self.vms.setdefault(name, vm)


def _kind(method: str, path: str) -> str:
    if path == "/deploy" or (method, path) == ("POST", "/v1/vms"):
        return "deploy"
    if path == "/remove" or (method == "DELETE" and path.startswith("/v1/vms/")):
        return "remove"
    if path.startswith("/v1/requests/"):
        return "cancel"
    return "act" if method == "POST" else "look"


def _refusal(code: str, status: int) -> web.Response:
    return web.json_response({"success": False, "reason": code, "code": code}, status=status)


@contextlib.asynccontextmanager
async def fake_hosts(*hosts: FakeHost) -> AsyncIterator[tuple[str, ...]]:
    """*hosts* that have come, gone at the end; their URLs."""
    try:
        for host in hosts:
            await host.come()
        yield tuple(host.url for host in hosts)
    finally:
        for host in hosts:
            await host.go()
