"""Levels and amounts as users write them: exact, and refused with a sentence."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.levels import (
    Level,
    check_level,
    format_level,
    gb_to_mib,
    parse_decimal,
    parse_level,
)


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("1", Fraction(1), "1.0"),
        ("2", Fraction(2), "2.0"),
        ("2.0", Fraction(2), "2.0"),
        ("2.", Fraction(2), "2.0"),
        ("02", Fraction(2), "2.0"),
        ("1.5", Fraction(3, 2), "1.5"),
        ("3/2", Fraction(3, 2), "1.5"),
        ("1.1", Fraction(11, 10), "1.1"),
        ("1.05", Fraction(21, 20), "1.05"),
        ("1.125", Fraction(9, 8), "1.125"),
        ("4/3", Fraction(4, 3), "4/3"),
        ("8/6", Fraction(4, 3), "4/3"),
        ("7/6", Fraction(7, 6), "7/6"),
        ("1.001", Fraction(1001, 1000), "1.001"),
        ("64", Fraction(64), "64.0"),
        ("10", Fraction(10), "10.0"),
    ],
)
def test_a_level_is_exact_and_prints_in_one_way(text: str, level: Fraction, shown: str) -> None:
    assert parse_level(text) == level
    assert format_level(parse_level(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "2 ", "+2", "-2", "1e1", "1_0", "0x2", "nan", "inf", "two", "1,5", "1.2.3", "."),
        *("٢", "２", "2\n", "4/", "/3", "4/3/2", "4 / 3", "-4/3", "1.5/1", "4/0", "4//3"),
        *("0", "0.5", "3/4", "64.1", "65", "0/3", "1001/1002"),
        *("1.0001", "1002/1001", "1" * 5_000, "1." + "0" * 60, "1/" + "1" * 50),
    ],
    ids=ascii,
)
def test_what_is_no_level_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_level(text)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 200


@given(
    st.fractions(min_value=1, max_value=64, max_denominator=1000),
)
def test_a_printed_level_reads_back_as_itself(level: Fraction) -> None:
    check_level(level)
    assert parse_level(format_level(level)) == level


@pytest.mark.parametrize(
    "duplicate", [copy, deepcopy, lambda level: pickle.loads(pickle.dumps(level))]
)
@pytest.mark.parametrize("text", ["1", "1.5", "4/3"])
def test_a_level_is_the_same_key_however_it_came(
    text: str, duplicate: Callable[[Level], Level]
) -> None:
    level = duplicate(parse_level(text))
    assert level == Fraction(text)
    assert {Fraction(text): "here"}[level] == {level: "here"}[Fraction(text)] == "here"
    assert level * 2 == Fraction(text) * 2


@given(st.integers(1, 64_000), st.integers(1, 1_000))
def test_finite_decimals_print_as_decimals_and_others_as_ratios(over: int, under: int) -> None:
    level = Fraction(over, under)
    rest = level.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    shown = format_level(level)
    if rest == 1:
        whole, _, places = shown.partition(".")
        assert whole.isdigit()
        assert places.isdigit()
        assert places == "0" or not places.endswith("0")
        assert Fraction(shown) == level
    else:
        assert shown == f"{level.numerator}/{level.denominator}"


@pytest.mark.parametrize(
    ("gigabytes", "mib"),
    [
        ("1", 1024),
        ("0.5", 512),
        (".5", 512),
        ("1.1", 1127),
        ("0.0009765625", 1),
        ("0.0009765626", 2),
        ("0.0001", 1),
        ("29.03125", 29_728),
        ("1048576", 1 << 30),
    ],
)
def test_gigabytes_become_whole_mib_rounded_up(gigabytes: str, mib: int) -> None:
    assert gb_to_mib(parse_decimal(gigabytes)) == mib


@pytest.mark.parametrize("text", ["", ".", "-1", "+1", "1e3", "1_0", "٣", "1 ", "a", "1" * 41])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        parse_decimal(text)
