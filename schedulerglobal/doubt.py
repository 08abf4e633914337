"""Refusals of what may have been done all the same: programs are told so beside the sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from schedulercommon.errors import RefusedError

R = TypeVar("R", bound=RefusedError)


def in_doubt(problem: R) -> R:
    """*problem*, which tells programs that nobody knows what became of what was asked."""
    problem.details = {"outcome": "unknown"}
    return problem


def ask_again(kind: Callable[[str], R], why: str) -> R:
    """A refusal whose whole point is the doubt, and that repeating the request ends it."""
    return in_doubt(kind(f"outcome unknown, repeat the same request: {why}"))
