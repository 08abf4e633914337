"""A scheduler that answers as told, well or badly, over plain sockets; and what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 20.0

Say = Callable[[socket.socket, threading.Event], None]
"""Answers on a connection; the event is set when the server ends."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    target: str
    headers: dict[str, str] = field(compare=False)
    document: Any = None


def raw(*pieces: bytes, every_s: float = 0.0) -> Say:
    """Those bytes, a pause before each but the first, and the end."""

    def say(line: socket.socket, ending: threading.Event) -> None:
        for number, piece in enumerate(pieces):
            if number and ending.wait(every_s):
                return
            line.sendall(piece)

    return say


def says(document: object, status: int = 200) -> Say:
    """An answer as it should be."""
    return http(json.dumps(document).encode(), status)


def http(body: bytes, status: int = 200, length: int | None = None) -> Say:
    sent = len(body) if length is None else length
    head = f"HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\nContent-Length: {sent}"
    return raw(head.encode() + b"\r\n\r\n" + body)


def refuses(code: str, status: int = 409, **more: object) -> Say:
    return says({"success": False, "reason": f"because of {code}", "code": code, **more}, status)


def resets(*pieces: bytes) -> Say:
    """Those bytes, and a reset."""

    def say(line: socket.socket, ending: threading.Event) -> None:
        raw(*pieces)(line, ending)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return say


def hangs(_: socket.socket, ending: threading.Event) -> None:
    """Nothing, ever."""
    ending.wait(PATIENCE_S)


FIRST_PAGE = says({"service": "VMStack global scheduler", "routes": {}})


class Scripted:
    """Answers the requests it gets, in order, with what it was given; the last one for good.

    What is asked for *at* a path is answered beside that order, its first page among it, and is
    not counted as asked.
    """

    def __init__(self, answers: tuple[Say, ...], at: Mapping[str, Say]) -> None:
        self.asked: list[Asked] = []
        self._answers = list(answers)
        self._at = {"/": FIRST_PAGE, **at}
        self._ending = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def end(self) -> None:
        self._ending.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return
            serving = threading.Thread(target=self._serve, args=(line,), daemon=True)
            self._threads.append(serving)
            serving.start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("rb") as incoming:
            line.settimeout(PATIENCE_S)
            first = incoming.readline().decode().split()
            headers = {}
            while (text := incoming.readline().decode().strip()) != "":
                name, _, value = text.partition(": ")
                headers[name.lower()] = value
            body = incoming.read(int(headers.get("content-length", 0)))
            say = self._at.get(first[1])
            if say is None:
                asked = Asked(first[0], first[1], headers, json.loads(body) if body else None)
                self.asked.append(asked)
                say = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            with suppress(OSError):  # the client gave up, as it should
                say(line, self._ending)


@contextmanager
def scripted(*answers: Say, at: Mapping[str, Say] | None = None) -> Iterator[Scripted]:
    server = Scripted(answers, at or {})
    try:
        yield server
    finally:
        server.end()


def vm_document(name: str = "web1", **about: object) -> dict[str, object]:
    """A VM as a global scheduler tells it."""
    return {
        "name": name,
        "host": "epyc-1",
        "status": "placed",
        "level": "1.5",
        "vcpus": 2,
        "memory_mib": 2048,
        "image": "/images/a.qcow2",
        "labels": {"app": "shop"},
        "owner": "",
        "request_id": "",
        "reason": None,
        "conflicts": [],
        "runs_at": "1.0",
        "state": "running",
        "pinned_cpus": [0, 128],
        "memory_nodes": [0],
        **about,
    }


def host_document(name: str = "epyc-1", **about: object) -> dict[str, object]:
    """A host as a global scheduler tells it."""
    return {
        "name": name,
        "url": f"http://{name}:8099",
        "state": "up",
        "reachable": True,
        "problem": None,
        "seen_s_ago": 1.25,
        "typed": True,
        "fenced": False,
        "labels": {"rack": "r1"},
        "cpus": {"total": 256, "free": 254},
        "memory_mib": {"total": 1024 * 1024, "free": 1024 * 1000},
        "levels": [{"level": "1.5", "cpus": 2, "vcpus": 2}],
        "vms": 1,
        "conflicts": [],
        **about,
    }
