"""Our lead of the cluster, and what is done under it: nothing that began under it goes on after.

A global scheduler with a store of its own leads always. One that shares its store leads while its
lease lasts by its own clock, which began to run before the store's did: so that it stops before
another begins, however long it slept. Whatever of a term is still under way when the term ends is
cut off, for what it knows of the cluster may be old by the time there is another term.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from schedulercommon.errors import HostUnreachable, NotLeader, RefusedError, StoreUnavailable
from schedulerglobal.doubt import ask_again

T = TypeVar("T")

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads."""

    epoch: int
    url: str
    """Empty where nobody ever did."""


def lead_lost() -> HostUnreachable:
    """The answer to who asked for what was cut off in the middle."""
    return ask_again(HostUnreachable, "this global scheduler lost the lead meanwhile")


class Office:
    """Whether we lead, and under which epoch. Not safe for threads."""

    def __init__(self, now_s: Callable[[], float], *, shared: bool) -> None:
        self._now_s = now_s
        """Monotonic."""
        self.shared = shared
        self._leader = Leader(0, "")
        self._succeeded = asyncio.Event()
        self.problem = ""
        """Why the store does not say who leads; empty if it does."""
        self._until_s = 0.0 if shared else _FOREVER
        self._ready = not shared
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cut_off: set[asyncio.Task[Any]] = set()

    @property
    def held(self) -> bool:
        """Whether we may change things now."""
        return self._ready and self._now_s() < self._until_s

    @property
    def leader(self) -> Leader:
        """Who leads as far as we know."""
        return self._leader

    def follow(self, leader: Leader) -> None:
        """This one leads."""
        self._leader = leader
        self._succeeded.set()
        self._succeeded = asyncio.Event()

    async def succeeded(self) -> None:
        """Return when another leads than does now, as far as we know."""
        await self._succeeded.wait()

    @property
    def knows_leader(self) -> bool:
        """Whether there is somebody to pass changes on to."""
        return bool(self.leader.url) and not self.problem

    @property
    def outlived(self) -> bool:
        """Whether a term of ours is over that was not ended yet."""
        return self._ready and not self.held

    @property
    def began(self) -> bool:
        """Whether a term of ours began that was not ended yet, over or not."""
        return self._ready

    @property
    def epoch(self) -> int | None:
        """Of our lead; None without, or where there is but one who could lead."""
        return self.leader.epoch if self.shared and self.held else None

    def begin(self, until_s: float) -> None:
        """We lead until then (monotonic), and know the cluster as the last leader left it."""
        self._ready = True
        self._until_s = until_s

    def extend(self, until_s: float) -> None:
        """Our lease lasts until then (monotonic)."""
        self._until_s = until_s

    def check(self) -> None:
        """Raise NotLeader or StoreUnavailable unless we may change things."""
        if not self.held:
            raise self._not_leader()

    async def end(self) -> None:
        """We lead no longer: whatever was under way is cut off."""
        self._ready = False
        self._until_s = 0.0
        tasks = list(self._tasks)
        self._cut_off.update(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def under(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work* while we lead.

        Raises as :meth:`check` if we do not, and HostUnreachable if it was cut off, so that nobody
        here knows what became of it.
        """
        if not self.shared:
            return await work
        if not self.held:
            work.close()
            raise self._not_leader()
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if task not in self._cut_off:
                task.cancel()
                raise
            raise lead_lost() from None
        finally:
            self._tasks.discard(task)
            self._cut_off.discard(task)

    def _not_leader(self) -> RefusedError:
        if self.problem:
            return StoreUnavailable(f"{self.problem}; until then nothing can be changed")
        whom = f"{self.leader.url} leads, or led last" if self.leader.url else "nobody led it yet"
        return NotLeader(
            f"this global scheduler does not lead the cluster ({whom}); repeat the request in a"
            " moment, or send it there"
        )
