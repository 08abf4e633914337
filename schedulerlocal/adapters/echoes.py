"""Which of libvirt's events only tell of what we do ourselves, and so need not be looked at.

Making a VM and removing it come with events of their own, in a known order. An event that is not
one of the next of these tells of somebody else, and so may all that come after it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Event = tuple[int, int]
"""What happened, and its detail, as libvirt numbers them."""

_DEFINED, _RESUMED, _STARTED = (0, 0), (4, 0), (2, 0)  # added, unpaused, booted
_SHUTDOWN, _STOPPED, _UNDEFINED = (6, 2), (5, 1), (1, 0)  # by the host, destroyed, removed
MAKING: Sequence[Event] = (_DEFINED, _RESUMED, _STARTED)
REMOVING: Sequence[Event] = (_SHUTDOWN, _STOPPED, _UNDEFINED)


class Echoes:
    """Events come in a thread of libvirt's, whatever they are of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: dict[str, Sequence[Event]] = {}

    @contextmanager
    def of(self, name: str, events: Sequence[Event]) -> Iterator[None]:
        """Around a call that makes *events* of the VM called *name*, or some of them.

        They may also come later, but not if the call fails or is given up: then nobody else may
        tell what became of it.
        """
        with self._lock:
            self._due[name] = events
        try:
            yield
        except BaseException:
            self.doubt(name)
            raise

    def doubt(self, name: str) -> None:
        """What comes of the VM called *name* may be anything."""
        with self._lock:
            self._due.pop(name, None)

    def is_one(self, name: str, event: Event) -> bool:
        with self._lock:
            due = self._due.pop(name, ())
            if event not in due:
                return False
            if rest := due[due.index(event) + 1 :]:
                self._due[name] = rest
            return True


def told_pins(about: Sequence[Any]) -> dict[str, str] | None:
    """The pins an event tells of, if that is all it tells of."""
    if about[-1] != "TUNABLE" or not isinstance(about[0], dict):
        return None
    told = {key.removeprefix("cputune."): value for key, value in about[0].items()}
    return told if all("pin" in key for key in told) else None
