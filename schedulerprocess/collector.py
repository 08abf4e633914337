"""The garbage collector of a service: what is there once it is ready stays, so leave it alone."""

from __future__ import annotations

import gc

_ALLOCATIONS = 10_000


def calm_collector() -> None:
    """Stop looking through what was made until now, and look through the rest less often.

    By default every request or two would set a collection off. What requests leave behind is
    freed by counting references; cycles are few.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 20)
