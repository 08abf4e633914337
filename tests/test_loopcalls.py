"""Calls from other threads: all of them, in order, on the loop, and none that ends the others."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from functools import partial
from typing import Any

from schedulerlocal.adapters.callthreads import CallThreads
from schedulerlocal.adapters.loopcalls import LoopCalls

THREADS, EACH = 4, 500


async def test_whoever_calls_all_is_done_on_the_loop_in_order() -> None:
    calls = LoopCalls(asyncio.get_running_loop())
    made: dict[int, list[int]] = {number: [] for number in range(THREADS)}
    where: set[int] = set()

    left = [asyncio.Event() for _ in range(THREADS)]

    def make(number: int, turn: int) -> None:
        made[number].append(turn)
        where.add(threading.get_ident())

    def ask(number: int) -> None:
        for turn in range(EACH):
            calls.soon(make, number, turn)
        calls.soon(left[number].set)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for each in left:
        await each.wait()
    assert all(turns == list(range(EACH)) for turns in made.values())
    assert where == {threading.get_ident()}


async def test_a_call_that_fails_does_not_take_those_behind_it_along() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, about: complaints.append(about))
    calls, done = LoopCalls(loop), asyncio.Event()
    calls.soon(partial(divmod, 1, 0))
    calls.soon(done.set)
    await done.wait()
    assert [type(each["exception"]) for each in complaints] == [ZeroDivisionError]


def test_threads_outlive_their_loop_and_serve_the_next() -> None:
    threads = CallThreads("test", 1)

    async def ask() -> int:
        return await threads.outcome(threads.submit(lambda: 7))

    assert [asyncio.run(ask()), asyncio.run(ask())] == [7, 7]


def test_files_go_with_their_loop() -> None:
    def once() -> None:
        async def open_one() -> None:
            LoopCalls(asyncio.get_running_loop())

        asyncio.run(open_one())

    once()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
