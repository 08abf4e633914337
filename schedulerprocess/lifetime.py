"""The life of a service: a signal ends it, and what it began ends with it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM and by Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def stopped_before(stop: asyncio.Event, task: asyncio.Task[Any]) -> bool:
    """Wait for *stop* or the end of *task*, whose fault is raised; whether it was *stop*."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((stopping, task), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if task.done():
        task.result()
    return not task.done()


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel *task* and wait until it is over, however it ends."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
