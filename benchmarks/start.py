"""How long after its start a local scheduler answers that it is ready, and how long to its end."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks import Figure, Progress

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGY = ROOT / "debug" / "topology_EPYC-7662.json"
STARTS = 5
BOUND_S = 1.0
_PATIENCE_S = 30.0


def run(progress: Progress) -> list[Figure]:
    """Medians over a few starts, each with a new process, journal and port."""
    ready_s, end_s = [], []
    for number in range(STARTS):
        progress(f"start {number + 1} of {STARTS}")
        with tempfile.TemporaryDirectory() as directory:
            ready, end = _start_and_stop(directory)
        ready_s.append(ready)
        end_s.append(end)
    return [
        Figure("from start to ready", median(ready_s), "s", BOUND_S),
        Figure("from SIGTERM to the end", median(end_s), "s"),
    ]


def _start_and_stop(directory: str) -> tuple[float, float]:
    """Seconds to the first answer of ``/readyz`` that says so, and seconds to end again."""
    settings = {"SCL_PORT": "0", "SCL_STATE_DIR": directory, "PYTHONPATH": str(ROOT)}
    begun_s = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "schedulerlocal", f"--topology={TOPOLOGY}"],
        cwd=directory,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = _port(process)
        while not _ready(port):
            pass
        ready_s = perf_counter() - begun_s
        begun_s = perf_counter()
        process.terminate()
        process.communicate(timeout=_PATIENCE_S)
        return ready_s, perf_counter() - begun_s
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _port(process: subprocess.Popen[str]) -> int:
    """As it is printed; raises RuntimeError with what was printed instead."""
    assert process.stderr is not None
    printed = ""
    for line in process.stderr:
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
        printed += line
    raise RuntimeError(f"the service ended: {printed}")


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    finally:
        connection.close()
