"""JSON to the model: exact numbers, strict types, one sentence for what is wrong."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import BadRequest
from schedulercommon.levels import format_level
from schedulercommon.model import VmSpec
from schedulercommon.wire import (
    AdoptRequest,
    DeployRequest,
    NoRequest,
    ResizeRequest,
    ShutdownRequest,
    read_model,
)

IMAGE = "/var/lib/libvirt/images/a.qcow2"
PLAIN = {"name": "one", "vcpus": 2, "memory_mib": 1024, "level": "2", "image": IMAGE}


def spec(**changed: Any) -> VmSpec:
    return read_model(DeployRequest, {**PLAIN, **changed}).spec()


def refusal(model: Any, document: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as caught:
        read_model(model, document)
    return str(caught.value)


def test_the_least_there_is() -> None:
    assert spec() == VmSpec(name="one", vcpus=2, memory_mib=1024, level=Fraction(2), image=IMAGE)


def test_all_there_is() -> None:
    asked = spec(
        disk="in-place",
        start=False,
        request_id="r:1",
        host="here",
        policy="best-fit",
        labels={"b": "2", "a": "1"},
        max_vcpus=4,
        max_memory_mib=2048,
    )
    assert asked == VmSpec(
        name="one",
        vcpus=2,
        memory_mib=1024,
        level=Fraction(2),
        image=IMAGE,
        disk="in-place",
        start=False,
        request_id="r:1",
        labels=(("a", "1"), ("b", "2")),
        max_vcpus=4,
        max_memory_mib=2048,
    )


@pytest.mark.parametrize(
    ("written", "level"),
    [
        (1, "1"),
        (Decimal("1.1"), "11/10"),
        (Decimal("1.10"), "11/10"),
        (Decimal("2E0"), "2"),
        (Decimal("1.5E1"), "15"),
        ("1.1", "11/10"),
        ("4/3", "4/3"),
        ("64", "64"),
    ],
    ids=repr,
)
def test_levels_are_exact(written: object, level: str) -> None:
    assert spec(level=written).level == Fraction(level)


@given(st.fractions(1, 64, max_denominator=1000))
def test_levels_come_back_as_they_are_printed(level: Fraction) -> None:
    assert spec(level=format_level(level)).level == level


@pytest.mark.parametrize("written", [169, Decimal("169.0"), Decimal("1.69E2"), Decimal("169.000")])
def test_whole_numbers_may_be_written_otherwise(written: object) -> None:
    assert spec(memory_mib=written).memory_mib == 169


@pytest.mark.parametrize(
    "written",
    [Decimal("169.5"), Decimal("1E-3"), Decimal("1E999999"), Decimal("-1"), "169", True, None, []],
    ids=repr,
)
def test_what_is_not_whole_is_refused(written: object) -> None:
    said = refusal(DeployRequest, {**PLAIN, "memory_mib": written})
    assert "'memory_mib'" in said
    assert "whole MiB from 1 to 1073741824" in said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (0, "out of range"),
        (65, "out of range"),
        ("1/0", "divides by zero"),
        ("1.0001", "too fine"),
        (Decimal("1E999999"), "must be a number"),
        (Decimal("-1"), "not a level"),
        (True, "must be a number"),
        (None, "must be a number"),
        ({}, "must be a number"),
        ("٣", "not a level"),
    ],
    ids=repr,
)
def test_what_is_no_level_is_refused(written: object, said: str) -> None:
    sentence = refusal(DeployRequest, {**PLAIN, "level": written})
    assert sentence.startswith("field 'level': ")
    assert said in sentence


@pytest.mark.parametrize(
    ("model", "document", "said"),
    [
        (DeployRequest, {}, "field 'name' is missing; it is 1 to 63 letters"),
        (DeployRequest, {**PLAIN, "x": 1}, "field 'x' is not known here; this takes name, vcpus"),
        (NoRequest, {"x": 1}, "field 'x' is not known here; this takes none"),
        (ShutdownRequest, {"force": 1}, "it must be true or false"),
        (AdoptRequest, {}, "field 'level' is missing; it is vCPUs per CPU"),
        (DeployRequest, {**PLAIN, "disk": "x"}, "it must be 'overlay'"),
        (DeployRequest, {**PLAIN, "image": "a"}, "it must be an absolute path"),
        (DeployRequest, {**PLAIN, "labels": {"a": 1}}, "it must be up to 64 labels"),
    ],
)
def test_sentences_name_the_field_and_the_way_out(
    model: Any, document: dict[str, Any], said: str
) -> None:
    assert said in refusal(model, document)


def test_a_resize_needs_a_size() -> None:
    assert read_model(ResizeRequest, {"vcpus": 3}).sizes() == (3, None)
    assert read_model(ResizeRequest, {"memory_mib": 3}).sizes() == (None, 3)
    with pytest.raises(BadRequest, match="nothing to resize"):
        read_model(ResizeRequest, {}).sizes()


@pytest.mark.parametrize("field", ["vcpus", "memory_mib"])
def test_a_maximum_is_not_below_the_size(field: str) -> None:
    with pytest.raises(BadRequest, match=f"'max_{field}' is 1, less than {field}"):
        spec(**{f"max_{field}": 1})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
fields = st.sampled_from([*DeployRequest.model_fields, "x", "\0", "\ud800"])


@given(st.dictionaries(fields, anything, max_size=4))
def test_anything_is_taken_or_refused_in_a_sentence(changed: dict[str, Any]) -> None:
    try:
        said = repr(spec(**changed))
    except BadRequest as problem:
        said = str(problem)
    assert said.isprintable()
    assert len(said) < 4096
