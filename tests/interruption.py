"""Ctrl-C ends a run of tests, whatever it interrupts.

Python drops an exception that is raised while it tidies up, in a callback of a weak reference, say,
and then one that says stop is as lost as any other. So the run is told, too: it ends with the test.
"""

from __future__ import annotations

import signal
from types import FrameType

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    """Also one that a shell began in the background, deaf to Ctrl-C with all that it begins."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        session.shouldstop = "interrupted"
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupted)
