"""What happened here, kept for a while and told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

_KEPT = 2000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    sequence: int
    """Rises, over restarts too."""
    time_s: float
    """Since the epoch."""
    kind: str
    data: dict[str, Any]


class EventLog:
    """The last events; recording never waits for a listener."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._next = int(now_s() * 1000)
        self._news = asyncio.Event()

    def record(self, kind: str, **data: Any) -> None:
        self._next += 1
        if _log.isEnabledFor(logging.INFO):
            about = " ".join(f"{name}={value}" for name, value in data.items())
            # names and reasons may be others', and a line of theirs is not to look like ours
            _log.info("%s %s", kind, about if about.isprintable() else repr(about)[1:-1])
        self._events.append(Event(self._next, self._now_s(), kind, data))
        self._news.set()

    def since(self, sequence: int) -> list[Event]:
        """The events kept that came after *sequence*."""
        return [event for event in self._events if event.sequence > sequence]

    @property
    def last(self) -> int:
        """The sequence of the newest event."""
        return self._next

    def subscribe(self, after: int | None = None) -> Subscription:
        """Events as they come, from now or from those after *after* that are still kept.

        An *after* that is yet to come, as one from before the clock was set back, is now.
        """
        return Subscription(self, self._next if after is None else min(after, self._next))

    async def next_after(self, after: int) -> Event:
        """The first event kept that came after *after*, once there is one."""
        while self._next <= after or not self._events:
            self._news.clear()
            await self._news.wait()
        # sequences have no gaps, so the place of the wanted one is known without a search
        missed = max(after - self._next + len(self._events), 0)
        return self._events[missed]


class Subscription:
    """An asynchronous iterator over events; a listener too slow misses the oldest."""

    def __init__(self, log: EventLog, after: int) -> None:
        self._log = log
        self._after = after

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._log.next_after(self._after)
        self._after = event.sequence
        return event
