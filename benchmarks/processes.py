"""The processes of a cluster under measurement: light locals, and a real global scheduler.

The scheduler has a CPU of its own where there are two; whatever stands for the rest of the world
shares the other.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schedulercommon.errors import VmStackError

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0

_CPUS = sorted(os.sched_getaffinity(0))
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTINGS = ("SCL_", "SCG_", "TOPO_", "OVSB_", "QEMU_")


class NotMeasured(VmStackError):
    """What was to be measured did not come about."""


class LightLocals:
    """A running ``python -m benchmarks.lightlocals``."""

    def __init__(self, process: subprocess.Popen[str], urls: list[str]) -> None:
        self.urls = urls
        self._process = process

    def tell(self, **command: object) -> Any:
        """What the command is answered; raises ValueError for one that makes no sense."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise ValueError(f"{command}: {answer['error']}")
        return answer

    def fault(self, host: int, fault: str, scope: str = "all") -> None:
        self.tell(host=host, fault=fault, scope=scope)

    def heal(self) -> None:
        self.tell(fault="none")

    def dump(self) -> dict[str, dict[str, list[Any]]]:
        """By URL, the VMs there: vCPUs, MiB, level and image of each."""
        return dict(zip(self.urls, self.tell(ask="dump"), strict=True))

    @property
    def cpu_s(self) -> float:
        return cpu_s(self._process.pid)


class GlobalScheduler:
    """A running ``python -m schedulerglobal``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)


def cpu_s(pid: int) -> float:
    """CPU seconds process *pid* has used in all its threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


@contextmanager
def apart(*, scheduler: bool) -> Iterator[None]:
    """What is started inside stays on the scheduler's CPU, or on that of everybody else."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CPUS[-1]} if scheduler else {_CPUS[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def light_locals(hosts: int, *arguments: str) -> Iterator[LightLocals]:
    """*hosts* of them, and *arguments* of their command line; ended at the end."""
    with apart(scheduler=False):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.lightlocals", f"--hosts={hosts}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield LightLocals(process, json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def global_scheduler(
    urls: Sequence[str], directory: Path, settings: Mapping[str, str] | None = None
) -> Iterator[GlobalScheduler]:
    """One that is ready, its store on disk under *directory*; ended at the end.

    Raises NotMeasured with what it said if it does not come up.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
    }
    ours = {
        "SCG_PORT": "0",
        "SCG_STORE": f"sqlite:///{directory / 'cluster.db'}",
        "PYTHONPATH": str(ROOT),
    }
    _allow_many_files()
    printed = directory / "printed.txt"
    with apart(scheduler=True), printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "schedulerglobal", f"--list={','.join(urls)}"],
            cwd=directory,
            env={**inherited, **ours, **(settings or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        port = _wait_for(process, printed, r"listening on http://127\.0\.0\.1:(\d+)")[1]
        _wait_for(process, printed, "is ready")
        yield GlobalScheduler(process, int(port))
    finally:
        # it would wait for hosts that hang, and nobody reads what it wrote
        process.kill()
        process.wait()


def _allow_many_files() -> None:
    """To us, and so to the processes we start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _wait_for(process: subprocess.Popen[bytes], printed: Path, pattern: str) -> re.Match[str]:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        ended = process.poll() is not None
        text = printed.read_text(errors="replace")
        if found := re.search(pattern, text):
            return found
        if ended:
            raise NotMeasured(f"the global scheduler ended: {text[-2000:].strip()}")
        time.sleep(0.02)
    raise NotMeasured(f"the global scheduler printed no {pattern!r} within {PATIENCE_S:g} s")
