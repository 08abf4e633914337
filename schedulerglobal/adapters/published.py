"""The published routes of the global scheduler: what curl and scripts use."""

from __future__ import annotations

from aiohttp import web

from schedulercommon.errors import BadRequest, NotReady
from schedulerglobal.scheduler import ClusterScheduler
from schedulerglobal.views import status_document, vm_hosts
from schedulerweb.answers import DONE, answer, json_bytes
from schedulerweb.pages import first_page
from schedulerweb.query import read_deploy, read_name, read_parameters, valid_name

_NEVER_KEPT = {"Cache-Control": "no-store"}
_LINKS = {
    "/docs": "the API, to read and to try",
    "/openapi.json": "the API as an OpenAPI document",
    "/status": "every host's CPUs by level, and memory",
    "/listvm": "the host of every VM",
    "/deploy?name=&cpu=&mem=&oc=&qcow2=": "place a VM: vCPUs, GB, vCPUs per CPU, image",
    "/remove?name=": "stop a VM and forget it",
    "/v1/vms": "the VMs in full",
    "/v1/hosts": "the hosts in full",
    "/v1/capacity?cpu=&mem=&oc=": "how many more such VMs fit",
    "/v1/leader": "which global scheduler leads, and which cluster",
    "/v1/events": "what happens, as it happens",
    "/metrics": "counts and gauges for Prometheus",
    "/healthz": "whether this service lives",
    "/readyz": "whether it knows its hosts",
}


class PublishedRoutes:
    """Handlers of the published routes; parameters come in the query, changes go by GET."""

    def __init__(self, scheduler: ClusterScheduler, cluster: str) -> None:
        self._scheduler = scheduler
        self._cluster = cluster

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/", self.first_page)
        app.router.add_get("/status", self.status)
        app.router.add_get("/listvm", self.listvm)
        # HEAD must change nothing, so these do not take it
        app.router.add_get("/deploy", self.deploy, allow_head=False)
        app.router.add_get("/remove", self.remove, allow_head=False)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/v1/leader", self.leader)

    async def first_page(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return first_page(request, "VMStack global scheduler", _LINKS)

    async def status(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return answer(json_bytes(status_document(known(self._scheduler).fleet)))

    async def listvm(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return answer(json_bytes(vm_hosts(known(self._scheduler).book)))

    async def deploy(self, request: web.Request) -> web.Response:
        await self._scheduler.deploy(read_deploy(request))
        return answer(DONE, headers=_NEVER_KEPT)

    async def remove(self, request: web.Request) -> web.Response:
        await self._scheduler.remove(valid_name(read_name(request)))
        return answer(DONE, headers=_NEVER_KEPT)

    async def healthz(self, request: web.Request) -> web.Response:
        read_parameters(request)
        return answer(b'{"status": "ok"}')

    async def leader(self, request: web.Request) -> web.Response:
        """For load balancers: asked for ``self=1``, only the one that leads answers with 200."""
        given = read_parameters(request, (), ("self",)).get("self", "0")
        office = self._scheduler.office
        if given not in ("0", "1"):
            raise BadRequest(f"self {given[:20]!r} is neither 0 nor 1")
        if given == "1":
            office.check()
        document = {
            "cluster": self._cluster,
            "leading": office.held,
            "shared": office.shared,
            "url": office.leader.url,
            "epoch": office.leader.epoch,
        }
        return answer(json_bytes(document), headers=_NEVER_KEPT)

    async def readyz(self, request: web.Request) -> web.Response:
        read_parameters(request)
        self._scheduler.check_ready()
        office = self._scheduler.office
        if not office.held and not office.knows_leader:
            office.check()
        return answer(b'{"status": "ready"}')


def known(scheduler: ClusterScheduler) -> ClusterScheduler:
    """*scheduler*, once it has read its store; raises NotReady before."""
    if not scheduler.opened:
        raise NotReady("this global scheduler is starting; try again in a moment")
    return scheduler
