"""A local scheduler of next to no cost, on a port of its own: its published routes, answered from
bytes, and the faults it is told to have."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_plus

from benchmarks.lightfaults import Fault, babble, reset, trickle
from benchmarks.lighthost import LightHost, LightVm
from schedulercommon.errors import HTTP_STATUS, BadRequest, NoCapacity, RefusedError
from schedulercommon.levels import gb_to_mib, parse_decimal, parse_level
from schedulercommon.model import MAX_VCPUS, NAME

BOAST = 100
"""How many times its capacity a host that lies says is free."""

_DONE = b'{"success": true, "reason": null}'
_JSON = b"application/json; charset=utf-8"
_PLAIN = b"text/plain; charset=utf-8"
_DEPLOY = {"name", "cpu", "mem", "oc", "qcow2"}
_BACKLOG = 256


@dataclass(frozen=True, slots=True)
class Manner:
    """How the hosts answer when nothing is wrong."""

    coded: bool = False
    """Whether refusals carry their code, and its status."""
    etag: bool = False
    """Whether ``/status`` has one, and answers 304 to whoever knows it."""
    latency_s: float = 0.0
    """Before anything is done about a request."""


class Site:
    """A host where it is reached: its port, how it fares, and what it was asked."""

    def __init__(self, host: LightHost, manner: Manner) -> None:
        self.host = host
        self.port = 0
        self.fault: Fault | None = None
        self.asked: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self.longest_gap_s = 0.0
        """Between two readings of the status, the wait from the last one until now left out."""
        self.read_s: float | None = None
        self.manner = manner
        self._server: asyncio.Server | None = None
        self._kept: tuple[int, bytes] = 0, b""

    async def listen(self) -> None:
        """On the port it had before, if it had one."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=_BACKLOG
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def hang_up(self) -> None:
        """Refuse connections from now on, and end those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self.connections):
            connection.abort()

    def answer(self, method: bytes, target: bytes, head: bytes) -> bytes:
        """Does what is asked; the whole answer."""
        path, _, query = target.partition(b"?")
        if path == b"/status":
            return self._status(head)
        if path not in (b"/listvm", b"/deploy", b"/remove"):
            return _response(b"404: Not Found", b"404 Not Found", _PLAIN)
        if method != b"GET":
            return _response(b"405: Method Not Allowed", b"405 Method Not Allowed", _PLAIN)
        if path == b"/listvm":
            return _response(json.dumps(list(self.host.vms)).encode())
        refusal = self._change(path, query)
        return _ANSWER_DONE if refusal is None else self.refused(refusal)

    def refused(self, refusal: RefusedError, *, coded: bool = False) -> bytes:
        body = {"success": False, "reason": str(refusal)}
        if not (coded or self.manner.coded):
            return _response(json.dumps(body).encode())
        status = b"%d Refused" % HTTP_STATUS[refusal.code]
        return _response(json.dumps({**body, "code": refusal.code}).encode(), status)

    def boast(self) -> bytes:
        return _response(json.dumps(self.host.status(BOAST)).encode())

    def note_reading(self, now_s: float) -> None:
        if self.read_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.read_s)
        self.read_s = now_s

    def _status(self, head: bytes) -> bytes:
        generation = self.host.generation
        if not self.manner.etag:
            if self._kept[0] != generation:
                self._kept = generation, _response(json.dumps(self.host.status()).encode())
            return self._kept[1]
        tag = b'"%d"' % generation
        if tag in head:
            return b"HTTP/1.1 304 Not Modified\r\nETag: %s\r\n\r\n" % tag
        if self._kept[0] != generation:
            body = json.dumps(self.host.status()).encode()
            self._kept = generation, _response(body, more=b"ETag: %s\r\n" % tag)
        return self._kept[1]

    def _change(self, path: bytes, query: bytes) -> RefusedError | None:
        try:
            found = _parameters(query)
            if path == b"/remove":
                return self.host.remove(found["name"])
            return self.host.deploy(*_vm(found))
        except KeyError as problem:
            return BadRequest(f"parameter {problem} is missing; give it")
        except ValueError as problem:
            return BadRequest(str(problem))


def _parameters(query: bytes) -> dict[str, str]:
    text = query.decode("ascii")
    pairs = dict(pair.split("=", 1) for pair in text.split("&") if "=" in pair)
    if "%" in text or "+" in text:
        pairs = {name: unquote_plus(value) for name, value in pairs.items()}
    return pairs


def _vm(found: dict[str, str]) -> tuple[str, LightVm]:
    """Raises ValueError with a sentence, or KeyError for what is missing."""
    if unknown := found.keys() - _DEPLOY:
        raise ValueError(f"parameter {min(unknown)!r} is not known here; leave it out")
    name, vcpus = found["name"], found["cpu"]
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:70]!r} is not a name; write letters, digits, '.', '_' or '-'")
    if not (vcpus.isascii() and vcpus.isdigit() and 1 <= int(vcpus[:9]) <= MAX_VCPUS):
        raise ValueError(f"cpu {vcpus[:40]!r} is not a whole number from 1 to {MAX_VCPUS}")
    memory_mib = _memory_mib(found["mem"])
    return name, LightVm(int(vcpus), memory_mib, parse_level(found["oc"]), found["qcow2"])


@lru_cache(maxsize=1024)
def _memory_mib(text: str) -> int:
    memory_mib = gb_to_mib(parse_decimal(text))
    if memory_mib < 1:
        raise ValueError(f"mem {text!r} is nothing; give an amount in GB")
    return memory_mib


def _response(
    body: bytes, status: bytes = b"200 OK", kind: bytes = _JSON, more: bytes = b""
) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s" % (
        status,
        kind,
        more,
        len(body),
        body,
    )


_ANSWER_DONE = _response(_DONE)


class Connection(asyncio.Protocol):
    """One client's connection, a request at a time."""

    __slots__ = ("_buffer", "_closing", "_loop", "_site", "_transport")

    def __init__(self, site: Site) -> None:
        self._site = site
        self._buffer = b""
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._site.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as it is called
        self._site.connections.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or len(data) < end + _body_size(data, end):
            self._buffer = data
            return
        self._buffer = b""
        line, _, head = data[:end].partition(b"\r\n")
        parts = line.split(b" ")
        if len(parts) != 3:
            self._transport.abort()
            return
        self._closing = b"onnection: close" in head or parts[2] == b"HTTP/1.0"
        site = self._site
        path = parts[1].partition(b"?")[0]
        site.asked[path.decode("latin-1")] += 1
        if path == b"/status":
            site.note_reading(self._loop.time())
        fault = site.fault
        if fault is not None and fault.concerns(path):
            self._misbehave(fault, parts[0], parts[1], head)
        elif site.manner.latency_s:
            self._later(site.manner.latency_s, parts[0], parts[1], head)
        else:
            self._write(site.answer(parts[0], parts[1], head))

    def _write(self, answer: bytes) -> None:
        self._transport.write(answer)
        if self._closing:
            self._transport.close()

    def _later(self, delay_s: float, method: bytes, target: bytes, head: bytes) -> None:
        """Do it then, whether or not the client is still there."""
        self._loop.call_later(delay_s, lambda: self._write(self._site.answer(method, target, head)))

    def _misbehave(self, fault: Fault, method: bytes, target: bytes, head: bytes) -> None:
        site, transport = self._site, self._transport
        path = target.partition(b"?")[0]
        match fault.kind:
            case "hang":
                pass
            case "reset":
                reset(transport)
            case "forget-half":
                site.answer(method, target, head)
                reset(transport)
            case "trickle":
                trickle(transport, site.answer(method, target, head))
            case "garbage":
                babble(transport, sum(site.asked.values()))
            case "slow":
                self._later(fault.delay_s, method, target, head)
            case "lies" if path == b"/status":
                self._write(site.boast())
            case "lies" if path == b"/deploy":
                refusal = NoCapacity("no room: it needs more CPUs and 0 are free")
                self._write(site.refused(refusal, coded=True))
            case _:
                self._write(site.answer(method, target, head))


def _body_size(data: bytes, end: int) -> int:
    if data.startswith(b"GET "):
        return 0
    _, there, rest = data[:end].lower().partition(b"\r\ncontent-length:")
    size = rest.partition(b"\r\n")[0].strip()
    return int(size) if there and size.isdigit() else 0
