"""A client of a global scheduler: its routes as methods, its answers as values.

>>> from schedulercommon.levels import parse_level
>>> from schedulercommon.model import VmSpec
>>> from schedulerclient.client import Client, Where
>>> from schedulerclient.faults import Refused

>>> client = Client(url)                                     # http://127.0.0.1:8100, say
>>> web1 = VmSpec(name="web1", vcpus=2, memory_mib=2048, level=parse_level("1.5"),
...               image="/var/lib/libvirt/images/hello.qcow2")
>>> deployment = client.deploy(web1, Where(avoid=("epyc-2",)))
>>> deployment.created, deployment.vm.host
(True, 'epyc-1')
>>> client.deploy(web1, Where(avoid=("epyc-2",))).created    # the same again
False
>>> [(host.name, host.cpus.free) for host in client.hosts()]
[('epyc-1', 254), ('epyc-2', 256)]
>>> client.remove("web1").done
True
>>> try:
...     client.vm("web1")
... except Refused as refusal:
...     refusal.code
'unknown-vm'

Every method raises Refused, with the scheduler's code and sentence, or Unreachable, which tells
whether what was asked may have been done nevertheless. A request that only reads is sent once more
if its answer breaks off; one that changes something is sent once. **Repeating a deploy is safe:**
the same request for the same name is made once, however often it is asked, so that is what to do
when its outcome is unknown. A client holds no connection, and threads may share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from schedulerclient.answers import (
    Deployment,
    Event,
    Explanation,
    Host,
    Removal,
    Resized,
    Room,
    Vm,
    read_console,
    read_explanation,
    read_host,
    read_hosts,
    read_removal,
    read_resized,
    read_room,
    read_service,
    read_vm,
    read_vms,
)
from schedulerclient.eventstream import read_events
from schedulerclient.faults import Cut, Senseless, read_refusal
from schedulerclient.transport import Address, Request, exchange, read_address, read_body
from schedulercommon.levels import MIB_PER_GB, Level, format_level
from schedulercommon.model import VmSpec
from schedulercommon.specdocument import spec_document

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8100"
TIMEOUT_S = 120.0
"""Longer than a scheduler waits for a host, so that it is the scheduler who says what is up."""

_OK, _CREATED = 200, 201
_IDLE_S = 60.0  # a stream of events says something every 15 s
_ANY_IMAGE = "/any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a VM may go. A selector is a VM's name or a label, written ``key=value``."""

    host: str = ""
    avoid: tuple[str, ...] = ()
    """Names of hosts."""
    affinity: tuple[str, ...] = ()
    """Selectors: its host has one of each."""
    anti_affinity: tuple[str, ...] = ()
    """Selectors: its host has none."""
    spread: str = ""
    """A label of hosts: it goes where the fewest VMs like it are."""
    policy: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON values; what is as by default is left out."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if value
        }


ANYWHERE = Where()


class Power(StrEnum):
    """What a VM can be told."""

    START = "start"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    RESUME = "resume"


class HostVerb(StrEnum):
    """What a host can be told."""

    DRAIN = "drain"
    """Nothing new goes there."""
    RESUME = "resume"
    """VMs go there again."""
    MAINTENANCE = "maintenance"
    """Nothing new goes there, and it may be away."""
    FENCE = "fence"
    """Asserts that nothing runs there: what was placed there is lost, what was unknown is gone."""


@dataclass(frozen=True)
class Client:
    """Of the scheduler at *url*, ``http://HOST:PORT``; scheme and port may be left out.

    Raises ValueError for what cannot be an address or a token.
    """

    url: str = DEFAULT_URL
    token: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S
    """For each request, all of it."""

    def __post_init__(self) -> None:
        read_address(self.url)
        if not all(0x21 <= ord(character) <= 0x7E for character in self.token):
            raise ValueError("a token is visible ASCII characters without spaces")

    def service(self) -> str:
        """What it calls itself; empty if it does not say."""
        request = self._request("GET", "/")
        try:
            return self._read(read_service, request)
        except (Cut, Senseless):
            return ""

    def vms(self) -> tuple[Vm, ...]:
        return self._get(read_vms, "/v1/vms")

    def vm(self, name: str) -> Vm:
        return self._get(read_vm, _path("vms", name))

    def console(self, name: str, *, lines: int | None = None, most_bytes: int | None = None) -> str:
        """The end of what a VM's guest wrote to its serial console, as the guest wrote it."""
        asked = {"lines": lines, "bytes": most_bytes}
        query = urlencode({name: count for name, count in asked.items() if count is not None})
        return self._get(read_console, f"{_path('vms', name, 'console')}{query and f'?{query}'}")

    def deploy(self, spec: VmSpec, where: Where = ANYWHERE) -> Deployment:
        """Have a VM; ``spec.request_id`` may be one of yours."""
        request = self._request("POST", "/v1/vms", {**spec_document(spec), **where.document()})
        status, document = self._ask(request)
        return Deployment(self._made(read_vm, request, status, document), status == _CREATED)

    def explain(self, spec: VmSpec, where: Where = ANYWHERE) -> Explanation:
        """Where *spec* would go: every host with its score or why not. It needs no image."""
        asked = replace(spec, image=spec.image or _ANY_IMAGE)
        document = {**spec_document(asked), **where.document()}
        request = self._request("POST", "/v1/vms?dry_run=1", document, changes=False)
        return self._read(read_explanation, request)

    def remove(self, name: str) -> Removal:
        """Stop a VM, at once, and forget it."""
        return self._change(read_removal, "DELETE", _path("vms", name))

    def power(self, name: str, verb: Power, *, force: bool = False) -> Vm:
        """Tell a VM; *force* shuts it down without asking its guest."""
        document = {"force": True} if force else {}
        return self._change(read_vm, "POST", _path("vms", name, verb), document)

    def resize(
        self, name: str, *, vcpus: int | None = None, memory_mib: int | None = None
    ) -> Resized:
        """Give a VM another size; what is None stays."""
        sizes = {"vcpus": vcpus, "memory_mib": memory_mib}
        document = {size: value for size, value in sizes.items() if value is not None}
        return self._change(read_resized, "POST", _path("vms", name, "resize"), document)

    def hosts(self) -> tuple[Host, ...]:
        return self._get(read_hosts, "/v1/hosts")

    def host(self, name: str) -> Host:
        return self._get(read_host, _path("hosts", name))

    def add_host(self, url: str, labels: Mapping[str, str] | None = None) -> Host:
        """Schedule on the host whose local scheduler listens at *url*."""
        document = {"url": url, "labels": dict(labels or {})}
        return self._change(read_host, "POST", "/v1/hosts", document)

    def label_host(self, name: str, labels: Mapping[str, str]) -> Host:
        """Give a host *labels* instead of those it has."""
        return self._change(read_host, "PATCH", _path("hosts", name), {"labels": dict(labels)})

    def tell_host(self, name: str, verb: HostVerb) -> Host:
        return self._change(read_host, "POST", _path("hosts", name, verb), {})

    def remove_host(self, name: str) -> Removal:
        """Forget a host; refused while VMs are promised there, or it answers and is in use."""
        return self._change(read_removal, "DELETE", _path("hosts", name))

    def room(self, *, vcpus: int, memory_mib: int, level: Level) -> Room:
        """How many more VMs of that size and level fit."""
        gigabytes = format_level(Level(memory_mib, MIB_PER_GB))
        size = {"cpu": str(vcpus), "mem": gigabytes, "oc": format_level(level)}
        return self._get(read_room, f"/v1/capacity?{urlencode(size, quote_via=quote)}")

    def events(self, after: int | None = None) -> Iterator[Event]:
        """What happens, as it happens, from now on or after the event numbered *after*.

        Raises Unreachable when the scheduler ends the stream or falls silent.
        """
        request = self._request("GET", "/v1/events")
        if after is not None:
            request = replace(request, headers={**request.headers, "Last-Event-ID": str(after)})
        with exchange(self._address, request, self.timeout_s, _IDLE_S) as response:
            if response.status != _OK:
                body = read_body(response, self._address, request)
                self._judged(request, response.status, body)
            yield from read_events(response)
        raise Cut(f"the scheduler at {self._address} ended its stream of events", maybe_done=False)

    @property
    def _address(self) -> Address:
        return read_address(self.url)

    def _request(
        self, method: str, target: str, document: Any = None, *, changes: bool | None = None
    ) -> Request:
        headers = {"Accept": "application/json", "User-Agent": "vmstack-client"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None
        if document is not None:
            body = json.dumps(document).encode("ascii")
            headers["Content-Type"] = "application/json"
        changing = method != "GET" if changes is None else changes
        return Request(method, target, headers, body, changing)

    def _get(self, read: Callable[[Any], T], target: str) -> T:
        return self._read(read, self._request("GET", target))

    def _change(
        self, read: Callable[[Any], T], method: str, target: str, document: Any = None
    ) -> T:
        return self._read(read, self._request(method, target, document))

    def _read(self, read: Callable[[Any], T], request: Request) -> T:
        return self._made(read, request, *self._ask(request))

    def _ask(self, request: Request) -> tuple[int, Any]:
        try:
            return self._ask_once(request)
        except Cut:
            if request.changes:
                raise
            return self._ask_once(request)

    def _ask_once(self, request: Request) -> tuple[int, Any]:
        with exchange(self._address, request, self.timeout_s) as response:
            body = read_body(response, self._address, request)
        return response.status, self._judged(request, response.status, body)

    def _judged(self, request: Request, status: int, body: bytes) -> Any:
        """The JSON of an answer that says yes; the body's ``success`` decides, where it has one."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise self._senseless(request, status, "its answer is not JSON") from None
        refusal = read_refusal(document)
        if refusal is not None and (refusal.code or status < 500):
            raise refusal
        if not _OK <= status < 300:
            reason = "it failed" if refusal is None else refusal.reason
            raise self._senseless(request, status, reason)
        return document

    def _made(self, read: Callable[[Any], T], request: Request, status: int, document: Any) -> T:
        try:
            return read(document)
        except ValueError as problem:
            raise self._senseless(request, status, str(problem)) from problem

    def _senseless(self, request: Request, status: int, why: str) -> Senseless:
        return Senseless(
            f"{self._address} does not answer as a scheduler would (status {status}): {why}",
            maybe_done=request.changes,
        )


def _path(*segments: str) -> str:
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(f"{segment!r} is not a name; name a VM or a host")
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
