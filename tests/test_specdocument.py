"""A VM's request survives being written down, whichever way it is written."""

from __future__ import annotations

import json
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulercommon.specdocument import read_spec, spec_document, spec_text

LEVELS = st.sampled_from([parse_level("2"), parse_level("4/3"), Fraction(3, 2)])
TEXTS = st.text(max_size=8)


@st.composite
def specs(draw: st.DrawFn) -> VmSpec:
    level = draw(LEVELS)
    vcpus, memory_mib = draw(st.integers(1, 9)), draw(st.integers(1, 9999))
    return VmSpec(
        name=draw(TEXTS),
        vcpus=vcpus,
        memory_mib=memory_mib,
        level=level,
        runs_at=draw(st.sampled_from([level, Fraction(1)])),
        image=draw(TEXTS),
        disk=draw(st.sampled_from(["overlay", "in-place"])),
        max_vcpus=draw(st.sampled_from([0, vcpus + 1])),
        max_memory_mib=draw(st.sampled_from([0, memory_mib + 1])),
        labels=draw(st.sampled_from([(), (("a", "\u2028"), ("b", '"'))])),
        owner=draw(TEXTS),
        request_id=draw(TEXTS),
        start=draw(st.booleans()),
    )


@given(specs())
def test_document_and_text_say_the_same_and_are_read_back(spec: VmSpec) -> None:
    document = spec_document(spec)
    assert json.loads(spec_text(spec)) == document
    assert read_spec(document) == spec


def test_an_ordinary_vm_is_written_as_any_other() -> None:
    spec = VmSpec(
        name="a", vcpus=2, memory_mib=9, level=parse_level("1.5"), image='/"\n', request_id="é"
    )
    assert json.loads(spec_text(spec)) == spec_document(spec)
