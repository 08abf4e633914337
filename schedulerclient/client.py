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

**Several global schedulers of one cluster** are named together: ``Client("http://a,http://b")``
or ``Client(["http://a:8100", "http://b:8100"])``. What reads is asked of whichever answers; one
that does not lead may be behind by a moment. Changes go to the one that leads, and wait for one,
``timeout_s`` at most. What was certainly not done is asked again by itself. Where nobody knows,
deploys and removals are, since repeating them comes to the same, and of a removal ``unknown-vm``
then means done; anything else raises Unreachable, as with one scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    Standing,
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
from schedulerclient.asking import make_request, understood
from schedulerclient.faults import Cut, Refused, Senseless, Unreachable
from schedulerclient.listening import listen
from schedulerclient.schedulers import Schedulers
from schedulerclient.transport import Request, read_addresses
from schedulercommon.levels import MIB_PER_GB, Level, format_level
from schedulercommon.model import VmSpec
from schedulercommon.specdocument import spec_document

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8100"
TIMEOUT_S = 120.0
"""Longer than a scheduler waits for a host, so that it is the scheduler who says what is up."""

_CREATED = 201
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


def _nothing(_: str) -> None: ...


@dataclass(frozen=True)
class Client:
    """Of the scheduler at *url*, ``http://HOST:PORT``; scheme and port may be left out. Of several
    that share a cluster: a sequence of these, or their text with commas between.

    Raises ValueError for what cannot be an address or a token.
    """

    url: str | Sequence[str] = DEFAULT_URL
    token: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S
    """For each request, all of it, and the waiting for a scheduler that leads."""
    tell: Callable[[str], None] = field(default=_nothing, repr=False, compare=False)
    """Is told, in a sentence, why a request takes longer, and what a listener misses."""
    _schedulers: Schedulers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        url = self.url if isinstance(self.url, str) else ",".join(self.url)
        schedulers = Schedulers(read_addresses(url), self.timeout_s, self.tell)
        object.__setattr__(self, "_schedulers", schedulers)
        if not all(0x21 <= ord(character) <= 0x7E for character in self.token):
            raise ValueError("a token is visible ASCII characters without spaces")

    @property
    def urls(self) -> tuple[str, ...]:
        """Where schedulers are asked."""
        return tuple(map(str, self._schedulers.addresses))

    def standings(self) -> dict[str, Standing | Refused | Unreachable]:
        """What each of :attr:`urls` says of itself and of who leads, or why it says nothing."""
        found: dict[str, Standing | Refused | Unreachable] = {}
        for address in self._schedulers.addresses:
            try:
                found[str(address)] = self._schedulers.standing(address)
            except (Refused, Unreachable) as problem:
                found[str(address)] = problem
        return found

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
        answer = self._schedulers.ask(replace(request, again=True))
        return Deployment(understood(read_vm, answer), answer.status == _CREATED)

    def explain(self, spec: VmSpec, where: Where = ANYWHERE) -> Explanation:
        """Where *spec* would go: every host with its score or why not. It needs no image."""
        asked = replace(spec, image=spec.image or _ANY_IMAGE)
        document = {**spec_document(asked), **where.document()}
        request = self._request("POST", "/v1/vms?dry_run=1", document, changes=False)
        return self._read(read_explanation, request)

    def remove(self, name: str) -> Removal:
        """Stop a VM, at once, and forget it."""
        return self._remove(_path("vms", name), "unknown-vm")

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

    def host(self, name: str, *, fresh: bool = False) -> Host:
        """*fresh* asks the scheduler that leads, which knows the last change."""
        request = replace(self._request("GET", _path("hosts", name)), fresh=fresh)
        return self._read(read_host, request)

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
        return self._remove(_path("hosts", name), "unknown-host")

    def room(self, *, vcpus: int, memory_mib: int, level: Level) -> Room:
        """How many more VMs of that size and level fit."""
        gigabytes = format_level(Level(memory_mib, MIB_PER_GB))
        size = {"cpu": str(vcpus), "mem": gigabytes, "oc": format_level(level)}
        return self._get(read_room, f"/v1/capacity?{urlencode(size, quote_via=quote)}")

    def events(self, after: int | None = None) -> Iterator[Event]:
        """What happens, as it happens, from now on or after the event numbered *after*.

        Raises Unreachable when the scheduler ends the stream or falls silent. Of several the one
        that leads is listened to, and another when that one ends or leads no longer: what happens
        between is missed, and *after* is for the first of them, as each has numbers of its own.
        """
        return listen(
            self._schedulers,
            self._request("GET", "/v1/events"),
            after=after,
            timeout_s=self.timeout_s,
            tell=self.tell,
        )

    def _request(
        self, method: str, target: str, document: Any = None, *, changes: bool | None = None
    ) -> Request:
        changing = method != "GET" if changes is None else changes
        return make_request(method, target, document, token=self.token, changes=changing)

    def _get(self, read: Callable[[Any], T], target: str) -> T:
        return self._read(read, self._request("GET", target))

    def _change(
        self, read: Callable[[Any], T], method: str, target: str, document: Any = None
    ) -> T:
        return self._read(read, self._request(method, target, document))

    def _remove(self, target: str, done_if: str) -> Removal:
        request = replace(self._request("DELETE", target), again=True, done_if=done_if)
        return self._read(read_removal, request)

    def _read(self, read: Callable[[Any], T], request: Request) -> T:
        return understood(read, self._schedulers.ask(request))


def _path(*segments: str) -> str:
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(f"{segment!r} is not a name; name a VM or a host")
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
