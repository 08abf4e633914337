"""The ways a light local scheduler can go wrong, and how each looks on the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Self

CHANGES = (b"/deploy", b"/remove")
FAULTS = {
    "hang": "takes the request, does nothing, never answers",
    "reset": "does nothing and resets the connection",
    "forget-half": "does what is asked and resets the connection",
    "trickle": "does what is asked and answers a byte every half second",
    "garbage": "does nothing and answers what is not HTTP, or HTTP without JSON, in turn",
    "lies": "says far more is free than is, and refuses every deploy for want of room, coded",
    "refuse": "closes its port and every connection",
    "slow:SECONDS": "does what is asked that much later, then answers",
    "lose": "forgets all its VMs, at once and once",
    "none": "is well again",
}
TRICKLE_S = 0.5

_RESETS = struct.pack("ii", 1, 0)
_NOT_HTTP = b"\x16\x03\x01\x00\x05\x01\x00\xff\r\n\r\n"
_NOT_JSON = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>oops</htm"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a host."""

    kind: str
    changes_only: bool = False
    """Whether readings are as they should be."""
    delay_s: float = 0.0

    @classmethod
    def parse(cls, text: str, scope: str = "all") -> Self | None:
        """None for ``none``; raises ValueError for a word that is no fault or no scope."""
        kind, _, delay = text.partition(":")
        if scope not in ("all", "changes"):
            raise ValueError(f"{scope!r} is neither all nor changes")
        if text == "none":
            return None
        if text not in FAULTS and not (kind == "slow" and delay):
            raise ValueError(f"{text!r} is none of {', '.join(FAULTS)}")
        return cls(kind, scope == "changes", float(delay or 0))

    def concerns(self, path: bytes) -> bool:
        return not self.changes_only or path in CHANGES


def reset(transport: asyncio.Transport) -> None:
    """End the connection so that the client is told it was reset."""
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
    transport.abort()


def trickle(transport: asyncio.Transport, answer: bytes) -> None:
    loop = asyncio.get_running_loop()

    def drop(place: int) -> None:
        if place < len(answer) and not transport.is_closing():
            transport.write(answer[place : place + 1])
            loop.call_later(TRICKLE_S, drop, place + 1)

    drop(0)


def babble(transport: asyncio.Transport, number: int) -> None:
    if number % 2:
        transport.write(_NOT_JSON)
    else:
        transport.write(_NOT_HTTP)
        transport.close()
