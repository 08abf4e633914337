"""The event log: what a listener is told, wherever it begins."""

from __future__ import annotations

import asyncio

import pytest

from schedulerprocess.events import EventLog, Subscription

NOW_S = 5.0
FIRST = 5_001
MANY = 2_500
KEPT = 2_000


def recorded(count: int) -> EventLog:
    log = EventLog(lambda: NOW_S)
    for number in range(count):
        log.record("happened", number=number)
    return log


async def told(listener: Subscription, count: int) -> list[int]:
    async with asyncio.timeout(5):
        return [(await anext(listener)).data["number"] for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "after", "first"),
    [
        (3, 0, 0),
        (3, FIRST - 1, 0),
        (3, FIRST, 1),
        (3, FIRST + 2, 3),
        (MANY, 0, MANY - KEPT),
        (MANY, FIRST + MANY - KEPT - 2, MANY - KEPT),
        (MANY, FIRST + MANY - KEPT - 1, MANY - KEPT),
        (MANY, FIRST + MANY - KEPT, MANY - KEPT + 1),
        (MANY, FIRST + MANY - 2, MANY - 1),
        (3, None, 3),
        (3, 10**17, 3),
        (0, 0, 0),
        (0, None, 0),
    ],
    ids=[
        "all", "just before the first", "after the first", "after the last", "some forgotten",
        "the last forgotten", "just before the first kept", "after the first kept",
        "before the last", "from now", "from one yet to come", "none yet", "none yet, from now",
    ],
)  # fmt: skip
async def test_a_listener_is_told_what_came_after(
    count: int, after: int | None, first: int
) -> None:
    log = recorded(count)
    listener = log.subscribe(after)
    missing = asyncio.create_task(told(listener, max(count - first, 0) + 2))
    await asyncio.sleep(0)
    for number in (count, count + 1):
        log.record("happened", number=number)
    assert await missing == list(range(first, count + 2))


async def test_a_slow_listener_misses_the_oldest() -> None:
    log = recorded(1)
    listener = log.subscribe(0)
    assert await told(listener, 1) == [0]
    for number in range(1, MANY):
        log.record("happened", number=number)
    assert await told(listener, KEPT) == list(range(MANY - KEPT, MANY))
