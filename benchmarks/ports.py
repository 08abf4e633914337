"""Ports that others can be told before they are listened on, and after."""

from __future__ import annotations

import random
import socket
from contextlib import closing

PORTS = range(12_000, 30_000)
"""Outside those that the system hands out: to others, and to every outgoing connection."""

_ANY = random.SystemRandom()  # tests seed the common one, in several processes alike


def free_port() -> int:
    while True:
        port = _ANY.choice(PORTS)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
