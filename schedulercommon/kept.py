"""Worked out once and kept: what a snapshot derives from itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")
S = TypeVar("S")


class kept(Generic[T]):  # noqa: N801  # used like property
    """:func:`functools.cached_property` without the lock that Python 3.11 still takes each time.

    Snapshots are frozen, so that two threads deriving the same thing get the same.
    """

    def __init__(self, derive: Callable[[Any], T]) -> None:
        self._derive = derive
        self.__doc__ = derive.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._derive(instance)
        return value


def knowing(instance: S, **derived: object) -> S:
    """*instance*, which has nothing to work out of what is *derived* here, by name."""
    instance.__dict__.update(derived)
    return instance
