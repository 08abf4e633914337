"""Patience: calls that never answer are given up, at next to no cost for those that do.

A timer for every call would cost more than most calls take. All calls have the same time, so the
oldest runs out first, and one timer for that one is enough.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self


class Patience:
    """``with patience:`` around awaiting raises TimeoutError there after ``timeout_s``.

    One task may be inside once at a time.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._given_up: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        assert task not in self._deadlines, "patience is not for a call within a call"
        deadline = loop.time() + self.timeout_s
        self._deadlines[task] = deadline
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._look, loop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._deadlines.pop(task)
        if task in self._given_up:
            self._given_up.discard(task)
            if task.uncancel() <= 0 and kind is asyncio.CancelledError:
                raise TimeoutError from problem

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, deadline in self._deadlines.items():
            if deadline > now:
                self._timer = loop.call_at(deadline, self._look, loop)
                return
            if task not in self._given_up:
                self._given_up.add(task)
                task.cancel()
