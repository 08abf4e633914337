"""When to try again: ever later, never all at once, and not for ever at the same pace."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

FIRST_S = 0.5
LONGEST_S = 30.0
RETRIES_PER_S = 50.0
BURST = 100.0


def retry_after_s(tries: int, rng: Random) -> float:
    """Seconds to wait after *tries* failed ones: doubling from half a second up to half a minute,
    less up to a half of it by chance, so that those who failed together do not return together."""
    longest = min(FIRST_S * 2.0 ** min(tries, 16), LONGEST_S)
    return longest * rng.uniform(0.5, 1.0)


class RetryBudget:
    """So many retries a second for all there is to be done, and some more after a quiet time: what
    a thousand hosts owe when their switch returns comes one after another."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._left = BURST
        self._at_s = monotonic_s()

    def wait_s(self) -> float:
        """Take one retry; how long it has to wait beyond its own time."""
        now_s = self._monotonic_s()
        self._left = min(BURST, self._left + (now_s - self._at_s) * RETRIES_PER_S)
        self._at_s = now_s
        self._left -= 1.0
        return max(0.0, -self._left / RETRIES_PER_S)
