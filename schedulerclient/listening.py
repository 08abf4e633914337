"""Listening to a cluster: to the scheduler that leads, and to the next one when its stream ends.

Each scheduler numbers and keeps events of its own, and only the one that leads has what is done to
VMs. So what happened between the end of one's stream and the beginning of another's is missed;
where the same one is listened to again, it goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from schedulerclient.answers import Event
from schedulerclient.asking import streamed
from schedulerclient.eventstream import read_events
from schedulerclient.faults import Cut, Refused, Unreachable
from schedulerclient.schedulers import CONNECT_S, Fault, Schedulers
from schedulerclient.transport import Address, Limits, Request

IDLE_S = 60.0
"""A stream of events says something every 15 s."""
LEAD_S = 10.0
"""After news of another leader, so long is waited for it to lead."""

_PAUSE_S = 0.3
_LATER = frozenset(("not-ready", "overloaded"))


def listen(
    schedulers: Schedulers,
    request: Request,
    *,
    after: int | None,
    timeout_s: float,
    tell: Callable[[str], None],
) -> Iterator[Event]:
    """Events from now on, or from those after *after* that the first one listened to has kept.

    Raises Unreachable when one scheduler alone ends its stream or falls silent; of several, when
    none was to be listened to for *timeout_s*.
    """
    if not schedulers.several:
        yield from _stream(schedulers.addresses[0], request, after, Limits(timeout_s))
        return
    limits = Limits(timeout_s, connect_s=CONNECT_S)
    rng = Random()
    here = schedulers.leading(min(LEAD_S, timeout_s)).address
    heard_s = time.monotonic()
    while True:
        try:
            for event in _stream(here, request, after, limits):
                heard_s, after = time.monotonic(), event.sequence
                yield event
                if event.kind == "leader" and schedulers.leading(LEAD_S).address != here:
                    problem: Fault = Cut(f"{here} leads no longer", maybe_done=False)
                    break
        except Unreachable as unreachable:
            problem = unreachable
        except Refused as refusal:
            if refusal.code not in _LATER:
                raise
            problem = refusal
        time.sleep(_PAUSE_S * rng.uniform(0.5, 1.5))
        if time.monotonic() - heard_s > timeout_s:
            raise problem
        before, here = here, schedulers.leading(timeout_s).address
        if here != before:
            after = None
            tell(f"{problem}; from now on {here} is listened to, what happened between is missed")


def _stream(
    address: Address, request: Request, after: int | None, limits: Limits
) -> Iterator[Event]:
    if after is not None:
        request = replace(request, headers={**request.headers, "Last-Event-ID": str(after)})
    with streamed(address, request, replace(limits, idle_s=IDLE_S)) as response:
        for event in read_events(response):
            yield replace(event, source=str(address))
    raise Cut(f"the scheduler at {address} ended its stream of events", maybe_done=False)
