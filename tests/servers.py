"""Services as processes: started on a free port, watched by what they print, never left behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGY = ROOT / "debug" / "topology_i7-1185G7.json"
START_S = 30.0


class Answer:
    """A response that was read whole."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """A running ``python -m schedulerlocal`` and a way to talk to it."""

    def __init__(self, process: subprocess.Popen[str], lines: Queue[str]) -> None:
        self.process = process
        self.port = 0
        self.printed: list[str] = []
        self._lines = lines

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line printed from now on that matches; fails if the service ends first."""
        while True:
            try:
                line = self._lines.get(timeout=START_S)
            except Empty:
                raise AssertionError(f"no {pattern!r} within {START_S} s:\n{self.told}") from None
            if not line:
                raise AssertionError(f"it ended without {pattern!r}:\n{self.told}")
            self.printed.append(line)
            if found := re.search(pattern, line):
                return found

    @property
    def told(self) -> str:
        return "".join(self.printed)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; raises OSError or HTTPException if the service dies over it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        try:
            payload = None if body is None else json.dumps(body)
            typed = {"Content-Type": "application/json"} if payload else {}
            connection.request(method, path, payload, {**typed, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        return self.ask("GET", path).json

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=START_S)


@contextmanager
def local_service(
    directory: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    ready: bool = True,
) -> Iterator[Service]:
    """A local scheduler with its journal and files under *directory*, ended at the end."""
    ours = {
        "SCL_PORT": "0",
        "SCL_NAME": "testhost",
        "SCL_STATE_DIR": str(directory / "journal"),
        "PYTHONPATH": str(ROOT),
        **(settings or {}),
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SCL_", "SCG_", "TOPO_", "OVSB_", "QEMU_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "schedulerlocal", *(arguments or (f"--topology={TOPOLOGY}",))],
        cwd=directory,
        env={**inherited, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: Queue[str] = Queue()
    reading = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reading.start()
    service = Service(process, lines)
    try:
        service.port = int(service.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        if ready:
            service.wait_for("is ready")
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=START_S)
        reading.join(timeout=START_S)
        if process.stdout:
            process.stdout.close()


def _read(process: subprocess.Popen[str], lines: Queue[str]) -> None:
    if process.stdout is not None:
        for line in process.stdout:
            lines.put(line)
    lines.put("")
