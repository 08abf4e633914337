"""A load of requests in a process of its own, on plain sockets, so that it costs little.

``python -m benchmarks.load`` reads a job (JSON) and prints, as JSON, what became of each request.
A *closed* load has so many clients, each sending its next request once the last is answered. An
*open* one sends each request when it is due, however many are unanswered, on a connection that is
idle or a new one.
"""

from __future__ import annotations

import heapq
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

from benchmarks.processes import ROOT, NotMeasured, apart

IMAGE = "/var/lib/libvirt/images/hello.qcow2"
SIZES = ("cpu=1&mem=2&oc=1", "cpu=4&mem=8&oc=2", "cpu=2&mem=4&oc=3", "cpu=2&mem=2&oc=2")
"""Of VMs, in turn: 1, 2, 2/3 and 1 CPUs."""

_CHUNK = 65_536


class Asked(NamedTuple):
    """A request, and when it is due: seconds after the load's beginning."""

    target: str
    due_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """A load for the service on *port* of this machine."""

    port: int
    asked: Sequence[Asked]
    clients: int = 0
    """Of a closed load; 0 for an open one."""
    patience_s: float = 30.0
    """How long to wait for what is unanswered once everything has been sent."""


class Answered(NamedTuple):
    """What became of a request; status 0 if it was not answered."""

    sent_s: float
    """On the monotonic clock, which all processes of a machine share."""
    took_s: float
    status: int
    success: bool
    code: str


def deploy(name: str, number: int) -> str:
    """The route that deploys a VM of the size whose turn it is."""
    return f"/deploy?name={name}&{SIZES[number % len(SIZES)]}&qcow2={IMAGE}"


def steady(name: str, rate_per_s: float, duration_s: float, hold_s: float) -> list[Asked]:
    """Deploys of ``NAME-0``, ``NAME-1``, … at that rate, each removed *hold_s* later."""
    asked = []
    for number in range(int(rate_per_s * duration_s)):
        due_s = number / rate_per_s
        asked.append(Asked(deploy(f"{name}-{number}", number), due_s))
        asked.append(Asked(f"/remove?name={name}-{number}", due_s + hold_s))
    return sorted(asked, key=lambda each: each.due_s)


def run_load(job: Job) -> list[Answered]:
    """One for each request asked, in that order."""
    with begun_load(job) as load:
        return load.answers()


class Load:
    """A load under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answers(self) -> list[Answered]:
        """One for each request asked, in that order, once all are answered or given up."""
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise NotMeasured("the load ended early; its complaint is above")
        return [Answered(*row) for row in json.loads(printed)]


def percentile(values: Sequence[float], percent: int) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) * percent // 100, len(ranked) - 1)]


@contextmanager
def begun_load(job: Job) -> Iterator[Load]:
    with apart(scheduler=False):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
        yield Load(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


class _Line:
    """A connection, and the request that is on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = -1
        self.sent_s = 0.0
        self._got = b""

    def send(self, request: int, text: bytes) -> None:
        self.request, self._got = request, b""
        self.sent_s = time.monotonic()
        self.socket.sendall(text)

    def received(self) -> Answered | None:
        """The answer once it is whole."""
        try:
            chunk = self.socket.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionError:
            chunk = b""
        if not chunk:
            return Answered(self.sent_s, time.monotonic() - self.sent_s, 0, False, "cut off")
        self._got += chunk
        head, ended, body = self._got.partition(b"\r\n\r\n")
        if not ended:
            return None
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        took_s = time.monotonic() - self.sent_s
        document = json.loads(body)
        success, code = document.get("success") is True, document.get("code") or ""
        return Answered(self.sent_s, took_s, int(head[9:12]), success, code)


class _Generator:
    def __init__(self, job: Job) -> None:
        self._job = job
        host = f"127.0.0.1:{job.port}"
        self._texts = [
            f"GET {each.target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for each in job.asked
        ]
        self._dues_s = [(each.due_s, number) for number, each in enumerate(job.asked)]
        heapq.heapify(self._dues_s)
        self._answers: list[Answered | None] = [None] * len(job.asked)
        self._epoll = select.epoll()
        self._lines: dict[int, _Line] = {}
        self._idle: list[_Line] = []

    def run(self) -> list[Answered]:
        open_load = not self._job.clients
        begun_s = time.monotonic()
        for _ in range(0 if open_load else self._job.clients):
            self._send_next()
        last_s = begun_s
        while self._dues_s or len(self._idle) < len(self._lines):
            now_s = time.monotonic()
            wait_s = 1.0
            if self._dues_s and open_load:
                wait_s = self._dues_s[0][0] + begun_s - now_s
            elif now_s - last_s > self._job.patience_s:
                break
            if wait_s <= 0:
                self._send_next()
                last_s = time.monotonic()
                continue
            for number, _ in self._epoll.poll(wait_s):
                # a line may be dropped, and its number be another's, since poll found it
                line = self._lines.get(number)
                if line is not None and self._take(line) and not open_load:
                    self._send_next()
                    last_s = time.monotonic()
        return [
            answer or Answered(begun_s + asked.due_s, self._job.patience_s, 0, False, "unanswered")
            for answer, asked in zip(self._answers, self._job.asked, strict=True)
        ]

    def _send_next(self) -> None:
        if not self._dues_s:
            return
        _, request = heapq.heappop(self._dues_s)
        line = self._idle.pop() if self._idle else self._connected()
        try:
            line.send(request, self._texts[request])
        except ConnectionError:
            # the other end closed it while it was idle
            self._drop(line)
            self._connected().send(request, self._texts[request])

    def _connected(self) -> _Line:
        line = _Line(self._job.port)
        self._lines[line.socket.fileno()] = line
        self._epoll.register(line.socket, select.EPOLLIN)
        return line

    def _take(self, line: _Line) -> bool:
        """Whether a request has ended."""
        answer = line.received()
        if answer is None:
            return False
        waiting = line.request >= 0
        if waiting:
            self._answers[line.request] = answer
        line.request = -1
        if answer.status == 0:
            if not waiting:
                self._idle.remove(line)
            self._drop(line)
        else:
            self._idle.append(line)
        return waiting

    def _drop(self, line: _Line) -> None:
        self._epoll.unregister(line.socket)
        del self._lines[line.socket.fileno()]
        line.socket.close()


def main() -> None:
    document = json.loads(sys.stdin.readline())
    job = Job(**{**document, "asked": [Asked(*each) for each in document["asked"]]})
    print(json.dumps(_Generator(job).run()), flush=True)


if __name__ == "__main__":
    main()
