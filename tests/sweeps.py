"""Sweeps as a user runs them, in processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import eventually

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "clustersim", "sweep")
SMALL = (
    *("--workload=azure2017", "--mix=50,0,50:0,100,0", "--vms=30", "--days=1"),
    *("--policy=dedicated,first-fit", "--seeds=2"),
)
"""Eight cells that take no time."""
LONG = ("--published", "--policy=progress", "--days=3", "--workers=2")
"""Ninety cells that take long enough to be interrupted."""


def sweep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``python -m clustersim sweep``, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False
    )


def begin(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def finished_cells(folder: Path) -> int:
    path = folder / "cells.csv"
    return max(path.read_text().count("\n") - 1, 0) if path.exists() else 0


@contextmanager
def dask_cluster(folder: Path) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, which are ended with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started: list[subprocess.Popen[bytes]] = []
    log = folder / "dask.log"

    def start(program: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments]
        with log.open("ab") as output:
            started.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
            )

    try:
        port = address.rpartition(":")[2]
        start("dask_scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard")
        for _ in range(2):
            start(
                *("dask_worker", address, "--host=127.0.0.1", "--nthreads=1", "--no-nanny"),
                *("--no-dashboard", f"--local-directory={folder}"),
            )
        eventually(lambda: log.read_text().count("Register worker") >= 2)
        yield address
    finally:
        for process in reversed(started):  # a worker without its scheduler waits for it
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
