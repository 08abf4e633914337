"""One request and its answer over HTTP, within a time limit for all of it.

A connection serves one request: whatever state it is in afterwards, the next one meets a fresh
one, and a request that changes something is never sent twice behind the caller's back.
"""

from __future__ import annotations

import io
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from schedulerclient.faults import Cut, Unreachable

DEFAULT_PORT = 8100
LARGEST_ANSWER = 256 * 1024 * 1024
WATCH_EVERY_S = 2.0
"""After so long a silence one looks whether it is worth waiting on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a scheduler listens."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}"


def read_addresses(text: str) -> tuple[Address, ...]:
    """Addresses parted by commas. Raises ValueError with a sentence."""
    found: list[Address] = []
    parts = text.split(",")
    for part in parts:
        address = read_address(part.strip(" ") if len(parts) > 1 else part)
        if address in found:
            raise ValueError(f"{address} is given twice; give it once")
        found.append(address)
    return tuple(found)


def read_address(text: str) -> Address:
    """The address written as ``http://HOST:PORT``: without a scheme it is http, without a port
    8100 (https: 443). Raises ValueError with a sentence."""
    wrong = f"{text[:100]!r} is not where a scheduler listens; write it like http://127.0.0.1:8100"
    if not all(0x21 <= ord(character) <= 0x7E for character in text):
        raise ValueError(wrong)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wrong) from None
    more = parts.path.rstrip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in ("http", "https") or not host or more or port == 0:
        raise ValueError(wrong)
    secure = parts.scheme == "https"
    return Address(host, port or (443 if secure else DEFAULT_PORT), secure)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked."""

    method: str
    target: str
    """Path and query, quoted."""
    headers: Mapping[str, str]
    body: bytes | None
    changes: bool
    """Something; if not, it may be repeated."""
    again: bool = False
    """Whether a change comes to the same however often it is asked for."""
    done_if: str = ""
    """The code of the refusal that says, when it is asked for again, that it is done."""
    fresh: bool = False
    """Whether reading is for who leads, who alone knows the last change."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an exchange may take."""

    whole_s: float
    connect_s: float = math.inf
    head_s: float = math.inf
    """Until the answer begins."""
    idle_s: float | None = None
    """Without it all of the answer has to come within the whole time; with it only its head has
    to, and then it may go on for ever as long as something comes every so often."""
    watch: Callable[[], None] | None = None
    """Called now and then while nothing comes; what it raises ends the exchange."""


@contextmanager
def exchange(address: Address, request: Request, limits: Limits) -> Iterator[HTTPResponse]:
    """The answer to *request*, its head read. Raises Unreachable."""
    begun_s = time.monotonic()
    head_s = min(limits.head_s, limits.whole_s)
    connect_s = min(limits.connect_s, limits.whole_s)
    make = HTTPSConnection if address.secure else HTTPConnection
    connection = make(address.host, address.port, timeout=connect_s)
    try:
        connection.connect()
    except OSError as problem:
        connection.close()
        raise Unreachable(
            f"cannot reach a scheduler at {address}: {_told(problem, connect_s)}", maybe_done=False
        ) from problem
    line = connection.sock
    timed = _Timed(line, begun_s + head_s, limits.watch)
    connection.sock = timed
    allowed_s = head_s
    try:
        connection.request(
            request.method, request.target, request.body, {**request.headers, "Connection": "close"}
        )
        response = connection.getresponse()
        allowed_s = limits.idle_s or limits.whole_s
        timed.wait(begun_s + limits.whole_s, limits.idle_s)
        yield response
    except TimeoutError as problem:
        raise Unreachable(
            f"the scheduler at {address} did not answer within {round(allowed_s, 3):g} s",
            maybe_done=request.changes,
        ) from problem
    except (OSError, HTTPException) as problem:
        raise Cut(
            f"the scheduler at {address} broke off its answer, or what is there is none"
            f" ({_told(problem, allowed_s)})",
            maybe_done=request.changes,
        ) from problem
    finally:
        connection.close()
        line.close()


def read_body(response: HTTPResponse, address: Address, request: Request) -> bytes:
    """All of the body. Raises Unreachable for one that is out of all proportion."""
    body = bytearray()
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise Unreachable(
                f"{address} answers more than {LARGEST_ANSWER} bytes; is it a scheduler?",
                maybe_done=request.changes,
            )
    return bytes(body)


def _told(problem: Exception, timeout_s: float) -> str:
    if isinstance(problem, TimeoutError):
        return f"no connection within {timeout_s:g} s"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    return " ".join(f"{type(problem).__name__} {ascii(str(problem))[1:-1]}".split())[:200]


class _Timed:
    """As much of a socket as an HTTPConnection uses, each wait cut to the time left.

    A socket's own timeout begins anew with every byte that trickles in.
    """

    def __init__(
        self, line: socket.socket, until_s: float, watch: Callable[[], None] | None
    ) -> None:
        self._line = line
        self._until_s = until_s
        self._idle_s: float | None = None
        self._watch = watch

    def wait(self, until_s: float, idle_s: float | None) -> None:
        """From now on until then, or for so long each time."""
        self._until_s = until_s
        self._idle_s = idle_s

    def _left_s(self) -> float:
        if self._idle_s is not None:
            return self._idle_s
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(self._left_s())
        self._line.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def read_into(self, buffer: memoryview) -> int:
        while self._watch is not None and self._idle_s is None:
            self._line.settimeout(min(self._left_s(), WATCH_EVERY_S))
            try:
                return self._line.recv_into(buffer)
            except TimeoutError:
                self._watch()
        self._line.settimeout(self._left_s())
        return self._line.recv_into(buffer)

    def close(self) -> None:
        """The answer may still be on its way; :func:`exchange` closes the line in the end."""


class _Incoming(io.RawIOBase):
    def __init__(self, timed: _Timed) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any buffer, there
        return self._timed.read_into(buffer)
