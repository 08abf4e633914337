"""Threads for calls that may never return: unlike an executor's they do not keep a process from
ending, since nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class CallThreads:
    """At most *most* threads, made as they are needed; beyond that calls wait their turn."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._made = 0
        self._idle = threading.Semaphore(0)
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """To be called by one thread only."""
        future: Future[T] = Future()
        self._queue.put((future, call))
        if not self._idle.acquire(blocking=False) and self._made < self._most:
            self._made += 1
            name = f"{self._name}-{self._made}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, call = self._queue.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as problem:  # noqa: BLE001 (whoever waits gets it)
                    future.set_exception(problem)
            del future, call
            self._idle.release()
