"""Clients of a scheduler that may die over any request: they know whether they were heard."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

IMAGE = "/var/lib/libvirt/images/hello.qcow2"
PATIENCE_S = 25.0

_LATER = frozenset(
    {"not-ready", "overloaded", "store-unavailable", "host-unreachable", "not-leader"}
)


class CutOff(Exception):
    """The connection ended without a whole answer; what was asked may be done."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a VM, as both kinds of routes take it."""

    vcpus: int
    memory_gb: int
    level: str


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    document: dict[str, object] | None = None

    def __str__(self) -> str:
        sent = f" {json.dumps(self.document)}" if self.document else ""
        return f"{self.method} {self.target}{sent}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    request: Request
    status: int
    document: Any
    doubt: bool = False
    """Whether the same was asked before, and may have been done."""

    @property
    def success(self) -> bool:
        return self.status < 300

    @property
    def finished(self) -> bool:
        """Whether a removal is done and not only accepted, which a published route does not say."""
        return self.status == 200 and self.request.method == "DELETE"

    @property
    def code(self) -> str:
        return "" if self.success else str(self.document.get("code") or "")

    @property
    def vm_host(self) -> str:
        """The host of the VM, if the answer shows one."""
        return str(self.document.get("host") or "") if self.success else ""

    @property
    def vm_status(self) -> str:
        return str(self.document.get("status") or "") if self.success else ""

    @property
    def later(self) -> bool:
        """Whether the same request is to be repeated."""
        return self.code in _LATER

    @property
    def unknown(self) -> bool:
        """Whether nobody can tell what became of it yet."""
        said = str(self.document.get("reason"))
        return self.later and (self.document.get("outcome") == "unknown" or "unknown" in said)

    def __str__(self) -> str:
        shown = [self.document.get(field) for field in ("code", "status", "host", "reason")]
        return " ".join([str(self.status), *(str(each) for each in shown if each)])


def deploys(name: str, shape: Shape) -> tuple[Request, ...]:
    """The ways to ask for the same deploy."""
    sizes = f"cpu={shape.vcpus}&mem={shape.memory_gb}&oc={shape.level}"
    document: dict[str, object] = {
        "name": name,
        "vcpus": shape.vcpus,
        "memory_mib": shape.memory_gb * 1024,
        "level": shape.level,
        "image": IMAGE,
    }
    return (
        Request("POST", "/v1/vms", document),
        Request("GET", f"/deploy?name={name}&{sizes}&qcow2={IMAGE}"),
    )


def removals(name: str) -> tuple[Request, ...]:
    return Request("DELETE", f"/v1/vms/{name}"), Request("GET", f"/remove?name={name}")


def look(name: str) -> Request:
    return Request("GET", f"/v1/vms/{name}")


async def ask(port: int, request: Request, within_s: float = PATIENCE_S) -> Answer:
    """One request on a connection of its own.

    Raises ConnectionRefusedError if nothing was asked, CutOff if that is not known.
    """
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(_bytes(port, request))
                received = await reader.read(-1)
            finally:
                writer.close()
    except ConnectionRefusedError:
        raise
    except TimeoutError:
        raise CutOff(f"no answer within {within_s:g} s") from None
    except OSError as problem:
        raise CutOff(str(problem)) from problem
    head, _, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    if not length or len(body) < int(length):
        raise CutOff(f"{len(received)} bytes of an answer")
    try:
        document = json.loads(body)
    except ValueError:
        document = {"reason": f"no JSON: {body[:200]!r}"}
    return Answer(request, int(head[9:12]), document)


def _bytes(port: int, request: Request) -> bytes:
    body = b"" if request.document is None else json.dumps(request.document).encode()
    kind = "Content-Type: application/json\r\n" if body else ""
    head = (
        f"{request.method} {request.target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{kind}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
