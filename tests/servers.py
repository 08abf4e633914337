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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGY = ROOT / "debug" / "topology_i7-1185G7.json"
START_S = 30.0
IMAGE = "/var/lib/libvirt/images/hello.qcow2"
SIMULATED = f"--topology={TOPOLOGY}"


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
    """A running local or global scheduler and a way to talk to it."""

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
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

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

    @contextmanager
    def listening(self, after: int | None = None) -> Iterator[Listener]:
        """What ``/v1/events`` tells from now on, or after the event numbered *after*."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        try:
            headers = {} if after is None else {"Last-Event-ID": str(after)}
            connection.request("GET", "/v1/events", headers=headers)
            response = connection.getresponse()
            assert response.readline() == b": listening\n"
            yield Listener(response)
        finally:
            connection.close()

    def heard(self) -> str:
        """All that it printed so far."""
        while not self._lines.empty():
            self.printed.append(self._lines.get())
        return self.told

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=START_S)


class Listener:
    """An open stream of events."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def wait_for(self, kind: str, **data: object) -> dict[str, Any]:
        """The next event of *kind* with *data* among its own; fails if the stream ends first."""
        for found, about in self:
            if found == kind and data.items() <= about.items():
                return about
        raise AssertionError(f"the stream ended without {kind!r} {data}")

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(kind, data), until the service ends the stream."""
        kind = ""
        while line := self._response.readline().decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                yield kind, json.loads(value)


def body(name: str, vcpus: int = 1, level: str = "2", **more: object) -> dict[str, object]:
    """A deploy as ``POST /v1/vms`` takes it."""
    sizes = {"vcpus": vcpus, "memory_mib": 1024, "level": level, "image": IMAGE}
    return {"name": name, **sizes, **more}


class HostFile:
    """The file of a simulated hypervisor, as its VMs' owner edits it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "host.json"

    def settings(self, **more: str) -> dict[str, str]:
        return {"SCL_SIMULATED_STATE": str(self.path), "SCL_DELAY": "0.1", **more}

    @property
    def vms(self) -> dict[str, dict[str, Any]]:
        vms = json.loads(self.path.read_text())["vms"] if self.path.exists() else []
        return {vm["name"]: vm for vm in vms}

    def write(self, vms: Mapping[str, Mapping[str, object]]) -> None:
        beside = self.path.with_suffix(".mine")
        beside.write_text(json.dumps({"vms": [{"name": name, **vms[name]} for name in vms]}))
        beside.replace(self.path)

    def edit(self, name: str, **about: object) -> None:
        """Change a VM or add one."""
        vms = self.vms
        self.write({**vms, name: {**vms.get(name, {}), **about}})

    def drop(self, name: str) -> None:
        self.write({each: about for each, about in self.vms.items() if each != name})


def eventually(condition: Callable[[], T], within_s: float = START_S) -> T:
    """What *condition* answers once that is true of it; fails if it takes too long."""
    deadline_s = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        time.sleep(0.01)
    return answer


def run_local(
    directory: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m schedulerlocal`` as a command that ends by itself."""
    return _run(directory, ("schedulerlocal", *arguments), settings)


def run_global(
    directory: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m schedulerglobal`` as a command that ends by itself."""
    return _run(directory, ("schedulerglobal", *arguments), settings)


def _run(
    directory: Path, command: Sequence[str], settings: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        env=environment(directory, settings),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def environment(directory: Path, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without its settings, with those of a test and with *settings*."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SCL_", "SCG_", "TOPO_", "OVSB_", "QEMU_"))
    }
    ours = {
        "SCL_PORT": "0",
        "SCL_NAME": "testhost",
        "SCL_STATE_DIR": str(directory / "journal"),
        "SCG_PORT": "0",
        "SCG_STORE": f"sqlite:///{directory / 'cluster.db'}",
        "PYTHONPATH": str(ROOT),
    }
    return {**inherited, **ours, **(settings or {})}


@contextmanager
def local_service(
    directory: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    ready: bool = True,
    by: Sequence[str] = (),
) -> Iterator[Service]:
    """A local scheduler with its journal and files under *directory*, ended at the end.

    *by* is a command that runs it, as ``setpriv`` does as somebody else.
    """
    command = ("schedulerlocal", *(arguments or (SIMULATED,)))
    with _service(directory, command, settings, ready, by) as service:
        yield service


@contextmanager
def global_service(
    directory: Path,
    *hosts: str,
    settings: Mapping[str, str] | None = None,
    ready: bool = True,
) -> Iterator[Service]:
    """A global scheduler over *hosts* with its store under *directory*, ended at the end."""
    command = ("schedulerglobal", f"--list={','.join(hosts)}")
    with _service(directory, command, settings, ready) as service:
        yield service


@contextmanager
def local_hosts(
    directory: Path, *names: str, settings: Mapping[str, str] | None = None
) -> Iterator[dict[str, Service]]:
    """Local schedulers by name, each with a simulated host that outlives it."""
    with ExitStack() as stack:
        services = {}
        for name in names:
            (directory / name).mkdir(exist_ok=True)
            services[name] = stack.enter_context(
                local_service(
                    directory / name, settings=host_settings(directory, name, **(settings or {}))
                )
            )
        yield services


def host_settings(directory: Path, name: str, **more: str) -> dict[str, str]:
    """Settings of the host called *name*: what runs there outlives its local scheduler."""
    return {**HostFile(directory / name).settings(), "SCL_NAME": name, **more}


def urls(services: Mapping[str, Service]) -> list[str]:
    """Where *services* listen."""
    return [service.url for service in services.values()]


@contextmanager
def _service(
    directory: Path,
    command: Sequence[str],
    settings: Mapping[str, str] | None,
    ready: bool,
    by: Sequence[str] = (),
) -> Iterator[Service]:
    process = subprocess.Popen(
        [*by, sys.executable, "-m", *command],
        cwd=directory,
        env=environment(directory, settings),
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
