"""A VM as the cluster promises it, and the ways a promise may go.

::

    pending ──→ placed ──→ removing ──→ gone
       │  ╲      ↑  ↓ ↑        ↑
       ↓   ╲     │ lost ───────┤
      gone  ╲──→ unknown ──────╯        unknown also ends placed or gone, once settled

A promise is written down before its host is asked, so that whatever happens in between is known
to be unsettled. Names are unique among promises that are not gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from schedulercommon.model import VmSpec


class Status(StrEnum):
    """Where a promise stands."""

    PENDING = "pending"
    """Written down; its host is being asked."""
    PLACED = "placed"
    """Its host has it."""
    REMOVING = "removing"
    """Its removal was accepted; it is gone once the host says so."""
    GONE = "gone"
    UNKNOWN = "unknown"
    """The host was asked and what became of it is not known; never tried elsewhere."""
    LOST = "lost"
    """Its host says it is not there, or was fenced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One VM of the cluster."""

    key: str
    """Of this promise and no other, over all time."""
    spec: VmSpec
    host: str
    """The name of the host it is on, or being tried on."""
    status: Status
    attempt: str
    """The request id its host was asked with: ours, new for every attempt. The user's own is
    ``spec.request_id``."""
    settled: bool = True
    """Whether what became of the attempt is known; a removal may begin before it is."""
    reason: str = ""
    """Why it is where it is, for people; empty where all is well."""
    changed_s: float = 0.0
    """Since the epoch."""

    @property
    def name(self) -> str:
        return self.spec.name


NEXT: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset(
        (Status.PENDING, Status.PLACED, Status.GONE, Status.UNKNOWN, Status.REMOVING)
    ),
    Status.PLACED: frozenset((Status.PLACED, Status.REMOVING, Status.LOST, Status.GONE)),
    Status.REMOVING: frozenset((Status.REMOVING, Status.PLACED, Status.GONE)),
    Status.UNKNOWN: frozenset((Status.UNKNOWN, Status.PLACED, Status.GONE, Status.REMOVING)),
    Status.LOST: frozenset((Status.LOST, Status.PLACED, Status.REMOVING, Status.GONE)),
    Status.GONE: frozenset(),
}
"""Where a promise may go from each status; a promise that is gone stays so."""


def as_found(promise: Promise) -> Promise:
    """*promise* as whoever reads it in the store has to take it: nobody knows what became of one
    that was pending."""
    if promise.status is not Status.PENDING:
        return promise
    return replace(promise, status=Status.UNKNOWN, settled=False)
