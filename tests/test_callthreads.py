"""Threads for calls that may never return: none is left behind, and a warm one is asked first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from schedulerlocal.adapters.callthreads import CallThreads

T = TypeVar("T")


async def asked(threads: CallThreads, call: Callable[[], T]) -> T:
    async with asyncio.timeout(20):
        return await threads.outcome(threads.submit(call))


async def test_more_calls_than_threads_are_all_made() -> None:
    threads = CallThreads("some", 3)
    made = await asyncio.gather(*(asked(threads, partial(int, n)) for n in range(500)))
    assert made == list(range(500))
    assert threads.idle
    threads.close()


async def test_the_one_that_got_free_last_is_asked_next() -> None:
    """One after another, calls need one thread, however many there are."""
    threads = CallThreads("warm", 4)
    together = threading.Barrier(4)
    await asyncio.gather(*(asked(threads, lambda: together.wait(20)) for _ in range(4)))
    assert len({await asked(threads, threading.get_ident) for _ in range(50)}) == 1
    threads.close()


async def test_one_that_hangs_holds_up_no_other() -> None:
    threads, go_on = CallThreads("hung", 2), threading.Event()
    hung = asyncio.ensure_future(asked(threads, lambda: go_on.wait(20)))
    await asyncio.sleep(0)
    assert [await asked(threads, lambda: 7) for _ in range(5)] == [7] * 5
    assert not hung.done()
    go_on.set()
    assert await hung
    threads.close()


async def test_closed_its_threads_end_once_all_is_done() -> None:
    threads, go_on = CallThreads("ending", 2), threading.Event()
    last = [asyncio.ensure_future(asked(threads, lambda: go_on.wait(20))) for _ in range(5)]
    await asyncio.sleep(0)
    ours = [each for each in threading.enumerate() if each.name.startswith("ending-")]
    assert len(ours) == 2
    threads.close()
    go_on.set()
    assert await asyncio.gather(*last) == [True] * 5
    for each in ours:
        each.join(20)
    assert not any(each.is_alive() for each in ours)
