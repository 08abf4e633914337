"""One request and its answer over HTTP, within a time limit for all of it.

A connection serves one request: whatever state it is in afterwards, the next one meets a fresh
one, and a request that changes something is never sent twice behind the caller's back.
"""

from __future__ import annotations

import io
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


@dataclass(frozen=True, slots=True)
class Address:
    """Where a scheduler listens."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}"


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


@contextmanager
def exchange(
    address: Address, request: Request, timeout_s: float, idle_s: float | None = None
) -> Iterator[HTTPResponse]:
    """The answer to *request*, its head read; reading its body has to end in the same time.

    With *idle_s* only the head has to come within *timeout_s*, and then the body may take for
    ever as long as something comes every *idle_s*. Raises Unreachable.
    """
    until_s = time.monotonic() + timeout_s

    def left_s() -> float:
        left = until_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    make = HTTPSConnection if address.secure else HTTPConnection
    connection = make(address.host, address.port, timeout=timeout_s)
    try:
        connection.connect()
    except OSError as problem:
        connection.close()
        raise Unreachable(
            f"cannot reach a scheduler at {address}: {_told(problem, timeout_s)}", maybe_done=False
        ) from problem
    line = connection.sock
    timed = _Timed(line, left_s)
    connection.sock = timed
    try:
        connection.request(
            request.method, request.target, request.body, {**request.headers, "Connection": "close"}
        )
        response = connection.getresponse()
        if idle_s is not None:
            timed.wait_for_each(idle_s)
        yield response
    except TimeoutError as problem:
        raise Unreachable(
            f"the scheduler at {address} did not answer within {idle_s or timeout_s:g} s",
            maybe_done=request.changes,
        ) from problem
    except (OSError, HTTPException) as problem:
        raise Cut(
            f"the scheduler at {address} broke off its answer, or what is there is none"
            f" ({_told(problem, timeout_s)})",
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

    def __init__(self, line: socket.socket, left_s: Callable[[], float]) -> None:
        self._line = line
        self._left_s = left_s

    def wait_for_each(self, idle_s: float) -> None:
        self._left_s = lambda: idle_s

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(self._left_s())
        self._line.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def read_into(self, buffer: memoryview) -> int:
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
