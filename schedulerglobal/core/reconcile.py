"""What a host's list of VMs says about what was promised of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from schedulerglobal.core.promises import Promise, Status

GONE_FROM_HOST = "its host no longer has it"


def corrected(
    promises: Iterable[Promise],
    names: Collection[str],
    *,
    changed_since: Callable[[str], bool],
    typed: bool,
    fenced: bool,
) -> tuple[list[Promise], bool]:
    """The promises of a host that its list *names* shows to be otherwise.

    Also whether the list must be had again: one that changed since it was asked for may or may not
    be in it. A typed host is asked about unknown attempts one by one instead, which says more. What
    is on a fenced host is a conflict and corrects nothing.
    """
    changed: list[Promise] = []
    again = False
    for promise in promises:
        there = promise.name in names
        match promise.status:
            case Status.PLACED if not there:
                after = replace(promise, status=Status.LOST, reason=GONE_FROM_HOST)
            case Status.LOST if there and not fenced:
                after = replace(promise, status=Status.PLACED, reason="")
            case Status.UNKNOWN if there and not typed:
                after = replace(promise, status=Status.PLACED, settled=True, reason="")
            case Status.REMOVING if there and not typed and not promise.settled:
                after = replace(promise, settled=True)
            case Status.REMOVING if not there and promise.settled:
                after = replace(promise, status=Status.GONE)
            case _:
                continue
        if changed_since(promise.name):
            again = True
        else:
            changed.append(after)
    return changed, again


def fenced_promises(promises: Iterable[Promise]) -> list[Promise]:
    """What becomes of a host's promises when nothing runs there any more."""
    after = []
    for promise in promises:
        match promise.status:
            case Status.PLACED | Status.LOST:
                after.append(replace(promise, status=Status.LOST, reason="its host was fenced"))
            case _:
                after.append(replace(promise, status=Status.GONE, settled=True))
    return after
