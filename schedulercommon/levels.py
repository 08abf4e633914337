"""Oversubscription levels as exact ratios, and the exact numbers users write.

Nothing here passes through a float: ``1.1`` is 11/10, ``4/3`` is four thirds, and a third of a
GB is rounded up once, at the end.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Self

Level = Fraction
"""vCPUs per CPU."""


class _KeptHash(Fraction):
    """A level that knows its hash: levels are keys everywhere, and a Fraction works its hash out
    anew each time, which takes longer than the look-up itself. Comparing two is as frequent."""

    __slots__ = ("_hash",)
    _hash: int

    def __new__(cls, value: Fraction) -> Self:
        level = super().__new__(cls, value)
        level._hash = hash(value)
        return level

    def __eq__(self, other: object) -> bool:
        if type(other) is _KeptHash:
            # most that differ have other hashes too
            return self is other or (
                self._hash == other._hash and self.as_integer_ratio() == other.as_integer_ratio()
            )
        return super().__eq__(other)

    def __hash__(self) -> int:  # type: ignore[override]  # the stubs of Fraction have none
        return self._hash

    def __reduce__(self) -> tuple[type[Fraction], tuple[int, int]]:
        return Fraction, (self.numerator, self.denominator)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self


PREMIUM: Level = _KeptHash(Fraction(1))
"""The level whose VMs own their CPUs."""

MAX_LEVEL = 64
MAX_DENOMINATOR = 1000
MIB_PER_GB = 1024

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", re.ASCII)
_RATIO = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_LONGEST_NUMBER = 40  # characters; no size in use comes near, and int() is quadratic


def parse_decimal(text: str) -> Fraction:
    """The exact value of *text*: ASCII digits with at most one point.

    Raises ValueError with a sentence for anything else (sign, exponent, underscore, other
    scripts' digits, emptiness).
    """
    if len(text) > _LONGEST_NUMBER or not _DECIMAL.fullmatch(text):
        shown = text if len(text) <= _LONGEST_NUMBER else text[:_LONGEST_NUMBER] + "…"
        raise ValueError(f"{shown!r} is not a number; write digits with at most one point")
    return Fraction(text + "0" if text.endswith(".") else text)


@lru_cache(maxsize=1024)
def parse_level(text: str) -> Level:
    """The level written as ``2``, ``1.5`` or ``4/3``.

    Raises ValueError with a sentence unless 1 ≤ level ≤ 64 with a denominator ≤ 1000.
    """
    ratio = _RATIO.fullmatch(text)
    if ratio:
        if int(ratio[2]) == 0:
            raise ValueError(f"level {text!r} divides by zero; write it like 2, 1.5 or 4/3")
        level = Fraction(int(ratio[1]), int(ratio[2]))
    else:
        try:
            level = parse_decimal(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is not a level; write it like 2, 1.5 or 4/3") from None
    check_level(level)
    return _KeptHash(level)


def check_level(level: Level) -> None:
    """Raise ValueError unless *level* is one a host can sell."""
    vcpus, cpus = level.numerator, level.denominator
    if not cpus <= vcpus <= MAX_LEVEL * cpus:
        raise ValueError(
            f"level {format_level(level)} is out of range;"
            f" levels go from 1 to {MAX_LEVEL} vCPUs per CPU"
        )
    if cpus > MAX_DENOMINATOR:
        raise ValueError(
            f"level {level} is too fine; its denominator may be at most {MAX_DENOMINATOR}"
        )


@lru_cache(maxsize=1024)
def format_level(level: Level) -> str:
    """How a level is printed: ``2.0`` or ``1.1`` if it is a finite decimal, else ``4/3``."""
    rest, places = level.denominator, 0
    twos = fives = 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{level.numerator}/{level.denominator}"
    places = max(twos, fives, 1)
    digits = str(level.numerator * 10**places // level.denominator).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}"


def gb_to_mib(gigabytes: Fraction) -> int:
    """Whole MiB for an amount in GB (1 GB is 1024 MiB on the published routes), rounded up."""
    return ceil(gigabytes * MIB_PER_GB)


def parse_gb(text: str, most_gb: int) -> int:
    """Whole MiB for the GB that *text* writes; raises ValueError saying what it is not."""
    try:
        gigabytes = parse_decimal(text)
    except ValueError:
        gigabytes = Fraction(0)
    if not 0 < gigabytes <= most_gb:
        raise ValueError(
            f"is not an amount in GB above 0 and up to {most_gb};"
            " write digits with at most one point"
        )
    return gb_to_mib(gigabytes)


def parse_count(text: str, most: int) -> int:
    """The number that *text* writes; raises ValueError saying what it is not."""
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= most:
        raise ValueError(f"is not a whole number from 1 to {most}")
    return int(text)
