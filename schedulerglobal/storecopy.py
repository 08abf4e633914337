"""Moving what a global scheduler remembers from one store to another."""

from __future__ import annotations

from collections.abc import Callable

from schedulercommon.errors import InputError
from schedulerglobal.ports import Change, Contents, PutHost, PutPromise, PutShares, Store

AT_ONCE = 500


async def copy_store(
    source: Store, target: Store, progress: Callable[[int, int], None]
) -> tuple[int, int]:
    """Write all that *source* holds to *target*, which must be empty; returns how many hosts and
    promises that were.

    *progress* is told how many of how many are written. Raises InputError for a source that holds
    nothing and a target that holds anything, and as the stores do; a copy that failed half-way
    leaves a target to be emptied.
    """
    contents = await source.open()
    try:
        if contents == Contents((), ()):
            raise InputError("the store to copy from holds nothing; name the one that is in use")
        there = await target.open()
        try:
            if there.hosts or there.promises:
                raise InputError(
                    f"the store to copy to holds {len(there.hosts)} hosts and"
                    f" {len(there.promises)} VMs already; name one that is new or empty"
                )
            changes: list[Change] = [
                *map(PutHost, contents.hosts),
                *map(PutPromise, contents.promises),
                PutShares(contents.shares),
            ]
            for start in range(0, len(changes), AT_ONCE):
                await target.write(*changes[start : start + AT_ONCE])
                progress(min(start + AT_ONCE, len(changes)), len(changes))
        finally:
            await target.close()
    finally:
        await source.close()
    return len(contents.hosts), len(contents.promises)
