"""The global schedulers of a cluster: which is asked, and when another is, or the same again.

What only reads is asked of whichever answers, the last one that did so first. A change goes to the
one that says it leads, or through another that knows it. Until somebody leads it waits; what may
have been done already is asked again only where that comes to the same. Only addresses that were
named are ever asked, so that no answer can lead the token elsewhere. One scheduler alone is asked
once, except that it, too, may be waiting for its lead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from schedulerclient.answers import Standing, read_standing
from schedulerclient.asking import OK, Answer, ask, make_request, understood
from schedulerclient.faults import Cut, Refused, Unreachable
from schedulerclient.transport import Address, Limits, Request

CONNECT_S = 3.0
"""Where there is another to ask, one that is switched off is not waited for any longer."""
STANDING_S = 3.0
"""How long one may take to say whether it leads."""
READ_S = 10.0
"""How long one may take to begin its answer before the next is asked."""

_NOT_NOW = frozenset(("not-ready", "overloaded", "store-unavailable", "not-leader"))
_BEHIND = frozenset(("unknown-vm", "unknown-host"))
"""What one that does not lead may say of what is new."""
_TELLS_NOTHING = frozenset(
    (
        *("unauthorized", "forbidden", "bad-request", "not-found", "method-not-allowed"),
        *("too-large", "not-shared"),
    )
)
"""Refusals that do not show what became of the same request before."""
_DONE = {"success": True, "reason": None}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5

Fault = Refused | Unreachable


@dataclass(frozen=True, slots=True)
class Seat:
    """Where changes go."""

    address: Address
    leading: bool
    """False: it knows who leads, or will."""
    epoch: int


class Schedulers:
    """Those at *addresses*, of one cluster. Threads may share it: what they overwrite of each
    other is found again."""

    def __init__(
        self, addresses: Sequence[Address], timeout_s: float, tell: Callable[[str], None]
    ) -> None:
        self.addresses = tuple(addresses)
        self._timeout_s = timeout_s
        self._tell = tell
        self._good = self.addresses[0]
        self._seat: Seat | None = None
        self._rng = Random()

    @property
    def several(self) -> bool:
        return len(self.addresses) > 1

    def ask(self, request: Request) -> Answer:
        """Raises Refused or Unreachable."""
        until_s = time.monotonic() + self._timeout_s
        return self._change(request, until_s) if request.changes else self._read(request, until_s)

    def standing(self, address: Address) -> Standing:
        """What the one at *address* says of itself. Raises Refused or Unreachable."""
        limits = Limits(min(STANDING_S, self._timeout_s))
        # open to all, so the token stays here
        return understood(read_standing, ask(address, make_request("GET", "/v1/leader"), limits))

    def leading(self, within_s: float) -> Seat:
        """The one that leads, waited for so long; else one that answers. Raises Unreachable."""
        until_s = time.monotonic() + within_s
        for pause_s in self._pauses():
            with suppress(Unreachable):
                seat = self._find()
                if seat.leading:
                    return seat
            if time.monotonic() + pause_s >= until_s:
                return self._find()
            time.sleep(pause_s)
        raise AssertionError("pauses have no end")

    def _read(self, request: Request, until_s: float) -> Answer:
        if self.several and request.fresh:
            with suppress(Unreachable):
                self._good = self._find().address
        left = deque(self._in_order())
        cut: set[Address] = set()
        faults: dict[Address, Fault] = {}
        while left and (time.monotonic() < until_s or not faults):
            address = left.popleft()
            try:
                answer = ask(address, request, self._limits(until_s, READ_S if left else None))
            except Refused as refusal:
                if not self.several or refusal.code not in _NOT_NOW | _BEHIND:
                    raise
                if refusal.code in _BEHIND:
                    if request.fresh:
                        raise
                    return self._read(replace(request, fresh=True), until_s)
                faults[address] = refusal
            except Unreachable as problem:
                faults[address] = problem
                if isinstance(problem, Cut) and address not in cut:
                    cut.add(address)
                    left.append(address)
            else:
                self._good = address
                return answer
        raise _gist(list(faults.values()))

    def _change(self, request: Request, until_s: float) -> Answer:
        unknown: Fault | None = None
        told = False
        for pause_s in self._pauses():
            seat = None
            try:
                seat = self._seat_now()
                watch = partial(self._check_still, seat) if self.several else None
                answer = ask(seat.address, request, self._limits(until_s, watch=watch))
            except Refused as refusal:
                self._seat = None
                if unknown is not None and seat is not None and refusal.code == request.done_if:
                    return Answer(seat.address, request, OK, _DONE)
                if unknown is not None and refusal.code in _TELLS_NOTHING:
                    raise unknown from refusal
                if not self._goes_on(request, refusal, seat):
                    raise
                unknown = refusal if refusal.outcome_unknown else unknown
                fault: Fault = refusal
            except Unreachable as problem:
                self._seat = None
                if not self.several or (problem.maybe_done and not request.again):
                    raise
                unknown = problem if problem.maybe_done else unknown
                fault = problem
            else:
                self._good = answer.address
                return answer
            if time.monotonic() + pause_s >= until_s:
                raise unknown or fault
            if not told:
                left_s = until_s - time.monotonic()
                self._tell(f"{fault}; waiting for one that leads, {left_s:.0f} s at most")
                told = True
            time.sleep(pause_s)
        raise AssertionError("pauses have no end")

    def _goes_on(self, request: Request, refusal: Refused, seat: Seat | None) -> bool:
        """Whether *request* is to be asked again after *refusal*."""
        if not refusal.outcome_unknown and refusal.code == "not-leader":
            return True
        # a change that cannot be repeated may have been made before the store failed
        if not self.several or not request.again:
            return False
        if refusal.code in _NOT_NOW:
            return True
        if not refusal.outcome_unknown or seat is None:
            return False
        # who leads still has to settle it with the host: asking again would tell no more
        try:
            now = self._find()
        except (Refused, Unreachable):
            return True
        return not now.leading or now.epoch != seat.epoch

    def _seat_now(self) -> Seat:
        """Where changes go, as far as is known. Raises Refused or Unreachable."""
        if not self.several:
            return Seat(self._good, leading=True, epoch=0)
        if self._seat is None:
            seat = self._find()
            self._seat = seat if seat.leading else None
            return seat
        return self._seat

    def _find(self) -> Seat:
        """The one that leads, or one that answers. Raises Unreachable, and Refused for one that
        cannot be of the same cluster."""
        spare: Seat | None = None
        faults: list[Fault] = []
        for address in self._in_order():
            try:
                standing = self.standing(address)
            except Unreachable as problem:
                faults.append(problem)
                continue
            except Refused as refusal:
                if refusal.code == "not-found":
                    raise Refused(
                        "not-shared",
                        f"the scheduler at {address} does not know who leads: it is a local one,"
                        " or of an older version; name the global schedulers of one cluster only",
                    ) from refusal
                faults.append(refusal)
                continue
            if not standing.shared:
                raise Refused(
                    "not-shared",
                    f"the scheduler at {address} shares its cluster with no other; name it alone,"
                    " or only those that share a store",
                )
            seat = Seat(address, standing.leading, standing.epoch)
            if standing.leading:
                return seat
            spare = spare or seat
        if spare is None:
            raise _gist(faults)
        return spare

    def _check_still(self, seat: Seat) -> None:
        """Raise Unreachable if another leads than when *seat* was asked, and its answer is not
        worth waiting for."""
        for address in self.addresses:
            if address == seat.address and seat.leading:
                continue
            with suppress(Refused, Unreachable):
                standing = self.standing(address)
                if standing.leading and standing.epoch > seat.epoch:
                    break
        else:
            return
        raise Unreachable(
            f"the scheduler at {seat.address} did not answer, and another leads by now, {address}",
            maybe_done=True,
        )

    def _in_order(self) -> list[Address]:
        """The last one that answered first."""
        return sorted(self.addresses, key=lambda address: address != self._good)

    def _limits(
        self, until_s: float, head_s: float | None = None, watch: Callable[[], None] | None = None
    ) -> Limits:
        limits = Limits(max(until_s - time.monotonic(), 0.001), watch=watch)
        if self.several:
            limits = replace(limits, connect_s=CONNECT_S)
        return limits if head_s is None else replace(limits, head_s=head_s)

    def _pauses(self) -> Iterator[float]:
        """Longer and longer, and never in step with others."""
        pause_s = _FIRST_PAUSE_S
        while True:
            yield pause_s * self._rng.uniform(0.5, 1.5)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _gist(faults: Sequence[Fault]) -> Fault:
    """One of them, or all in one; a refusal says more than that nobody is there."""
    refusals = [fault for fault in faults if isinstance(fault, Refused)]
    if refusals or len(faults) == 1:
        return (refusals or faults)[-1]
    maybe_done = any(isinstance(fault, Unreachable) and fault.maybe_done for fault in faults)
    return Unreachable("; ".join(map(str, faults)), maybe_done=maybe_done)
