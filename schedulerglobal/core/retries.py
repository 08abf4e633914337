"""When to try again: ever later, never all at once, and not for ever at the same pace."""

from __future__ import annotations

from random import Random

FIRST_S = 0.5
LONGEST_S = 30.0


def retry_after_s(tries: int, rng: Random) -> float:
    """Seconds to wait after *tries* failed ones: doubling from half a second up to half a minute,
    less up to a half of it by chance, so that those who failed together do not return together."""
    longest = min(FIRST_S * 2.0 ** min(tries, 16), LONGEST_S)
    return longest * rng.uniform(0.5, 1.0)
