"""How a host is: from the polls it missed, what its operator wants, and what it did of late."""

from __future__ import annotations

from enum import StrEnum

SUSPECT_AFTER = 2
DOWN_AFTER = 5


class Wanted(StrEnum):
    """What the operator wants of a host."""

    OPEN = "open"
    DRAINING = "draining"
    """Nothing new goes there."""
    MAINTENANCE = "maintenance"
    """Nothing new goes there either, and it may be away."""


class Health(StrEnum):
    """Whether a host answers."""

    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class HostState(StrEnum):
    """How a host is shown."""

    UP = "up"
    SUSPECT = "suspect"
    """It missed two polls; nothing new goes there."""
    DOWN = "down"
    """It missed five, or never answered."""
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


def health(missed: int, *, ever_seen: bool) -> Health:
    """From the number of polls missed in a row."""
    if missed >= DOWN_AFTER or not ever_seen:
        return Health.DOWN
    return Health.SUSPECT if missed >= SUSPECT_AFTER else Health.UP


def shown_state(healthy: Health, wanted: Wanted) -> HostState:
    """Maintenance hides whether the host is there; draining does only while it is."""
    if wanted is Wanted.MAINTENANCE:
        return HostState.MAINTENANCE
    if healthy is not Health.UP:
        return HostState(healthy.value)
    return HostState.DRAINING if wanted is Wanted.DRAINING else HostState.UP
