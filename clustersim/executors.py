"""Where cells are worked out: processes of this machine, or a Dask cluster.

Both are executors as the standard library knows them. Ctrl-C is for the command alone: the
processes it starts never see it, and are ended by it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from socket import create_connection
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from schedulercommon.errors import UsageError, VmStackError

LOCAL = "local"
CONNECT_TIMEOUT_S = 5.0

_DASK_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:[0-9]{1,5}")


def check_executor(text: str) -> str:
    """*text*, if it is ``local`` or the address of a Dask scheduler; else raises ValueError."""
    if text == LOCAL or _DASK_ADDRESS.fullmatch(text):
        return text
    raise ValueError(
        f"{text[:80]!r} is no executor; write {LOCAL}, or the address of a Dask scheduler like"
        " tcp://127.0.0.1:8786"
    )


@contextmanager
def open_executor(text: str, workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor and how many cells it works on at once; raises VmStackError, UsageError.

    What has not begun when the block ends by an exception is dropped.
    """
    if text == LOCAL:
        with _processes(workers) as pool:
            yield pool, workers
    else:
        with _dask(text) as found:
            yield found


@contextmanager
def undisturbed() -> Iterator[None]:
    """To submit cells in. The processes that start meanwhile ignore Ctrl-C from their first
    instruction, for what is ignored when a program starts stays so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    # Spawned, not forked: the progress bar has a thread.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        # Cells under way would be finished for nobody.
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    pool.shutdown()


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        import distributed
    except ImportError:
        raise UsageError(
            "a Dask cluster needs the package distributed, which is not installed; install"
            " requirements-dev.txt, or leave --executor out"
        ) from None
    # What it has to say at length comes back as exceptions too, and those are told in a sentence.
    logging.getLogger(distributed.__name__).setLevel(logging.CRITICAL)
    client = _connected(distributed, address)
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise VmStackError(
                f"the Dask scheduler at {address} has no workers; start some with `dask worker"
                f" {address}`"
            )
        executor: Executor = client.get_executor(pure=False)
        try:
            yield executor, workers
        except BaseException:
            executor.shutdown(wait=False)
            raise


def _connected(distributed: Any, address: str) -> Any:
    """A client of the scheduler at *address*; raises VmStackError."""
    found: list[Any] = []
    problems: list[Exception] = []

    def connect() -> None:
        try:
            # Where nobody listens, say so at once: the client would go on trying.
            place = urlsplit(address)
            create_connection((place.hostname, place.port or 0), CONNECT_TIMEOUT_S).close()
            found.append(
                distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
            )
        except (OSError, ValueError, RuntimeError) as problem:
            problems.append(problem)

    # Somebody else may listen there and never say a word; the client would wait for one for good.
    attempt = Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_TIMEOUT_S)
    if found:
        return found[0]
    reason = _reason(problems[0]) if problems else "what listens there does not speak as one"
    raise VmStackError(
        f"no Dask scheduler answers at {address}: {reason}; start one with `dask scheduler`, or"
        " leave --executor out"
    )


def _reason(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    text = str(problem).strip().rstrip(".").partition("\n")[0]
    return text or type(problem).__name__


def all_cores() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
