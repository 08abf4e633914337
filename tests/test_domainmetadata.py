"""What we note in a domain comes back, and what was tampered with is told and not believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.specdocument import spec_document
from schedulerlocal.adapters.domainmetadata import (
    METADATA_KEY,
    METADATA_URI,
    DamagedMetadata,
    DomainMetadata,
    metadata_element,
    metadata_text,
    read_metadata,
)
from tests.domainparts import METADATA, PLAIN
from tests.strategies import specs


def domain_with(*metadata: ET.Element, name: str = PLAIN.name) -> ET.Element:
    domain = ET.Element("domain")
    ET.SubElement(domain, "name").text = name
    domain.extend(metadata)
    return domain


def as_libvirt_keeps(text: str) -> ET.Element:
    """What setMetadata makes of *text*: its root moved into the namespace, nothing else."""
    element = ET.fromstring(text)
    element.tag = f"{{{METADATA_URI}}}{element.tag}"
    metadata = ET.Element("metadata")
    metadata.append(element)
    return metadata


def noted(text: str, **attributes: str) -> ET.Element:
    metadata = ET.Element("metadata")
    vm = ET.SubElement(metadata, f"{{{METADATA_URI}}}vm", {"format": "1"} | attributes)
    vm.text = text
    return metadata


@st.composite
def metadatas(draw: st.DrawFn) -> DomainMetadata:
    text = st.text(max_size=12)
    spec = replace(
        draw(specs(PLAIN.name)),
        image=draw(text),
        owner=draw(text),
        request_id=draw(text),
        labels=tuple(sorted(draw(st.dictionaries(text, text, max_size=3)).items())),
        disk=draw(st.sampled_from(["overlay", "in-place"])),
        start=draw(st.booleans()),
    )
    nodes = draw(st.dictionaries(st.integers(0, 15), st.integers(0, 1 << 30), max_size=3))
    return DomainMetadata(
        spec=spec,
        memory_nodes=tuple(nodes.items()),
        mac=draw(st.sampled_from(["", METADATA.mac])),
        cpu_model=draw(text),
        machine=draw(text),
        disk_path=draw(text.map("/".__add__)),
        base_path=draw(text.map("/".__add__)),
        base_size_bytes=draw(st.integers(0, 1 << 60)),
        base_mtime_ns=draw(st.integers(-(1 << 62), 1 << 62)),
    )


@given(metadatas())
def test_metadata_comes_back_from_either_way_of_writing_it(metadata: DomainMetadata) -> None:
    defined = ET.tostring(domain_with(metadata_element(metadata)), encoding="unicode")
    assert read_metadata(ET.fromstring(defined)) == metadata
    text = metadata_text(metadata)
    assert text.isascii()
    assert text.isprintable()
    assert read_metadata(domain_with(as_libvirt_keeps(text))) == metadata


@pytest.mark.parametrize("name", ["Windows 10", "-x", "<b>&\"']]>", "ü" * 200])
def test_an_adopted_vm_has_the_name_it_came_with(name: str) -> None:
    metadata = replace(METADATA, spec=replace(PLAIN, name=name))
    noted = as_libvirt_keeps(metadata_text(metadata))
    assert read_metadata(domain_with(noted, name=name)) == metadata


def test_the_namespace_is_ours_and_declared_once() -> None:
    text = ET.tostring(metadata_element(METADATA), encoding="unicode")
    assert text.count(f'xmlns:{METADATA_KEY}="{METADATA_URI}"') == 1
    assert "xmlns" not in metadata_text(METADATA)


@pytest.mark.parametrize(
    "domain",
    [
        domain_with(),
        domain_with(ET.Element("metadata")),
        domain_with(ET.fromstring('<metadata><o:os xmlns:o="http://libosinfo.org"/></metadata>')),
        domain_with(ET.fromstring("<metadata><vm>{}</vm></metadata>")),
    ],
    ids=["none", "empty", "another's", "no namespace"],
)
def test_a_domain_without_our_metadata_is_foreign(domain: ET.Element) -> None:
    assert read_metadata(domain) is None


def document(**changes: Any) -> dict[str, Any]:
    return {"spec": spec_document(PLAIN) | changes}


DAMAGED = {
    "empty": ("", "not JSON"),
    "cut short": ('{"spec":', "not JSON"),
    "nested without end": ("[" * 100_000, "not JSON"),
    "a list": ("[]", "no JSON object"),
    "no spec": ("{}", "what was asked for"),
    "spec is text": ('{"spec": "x"}', "what was asked for"),
    "no level": (json.dumps({"spec": {"name": "web-1", "vcpus": 1}}), "lacks memory_mib, level"),
    "level is a number": (json.dumps(document(level=2)), "level"),
    "level out of range": (json.dumps(document(level="65")), "65"),
    "level is no level": (json.dumps(document(level="x")), "level"),
    "runs at a worse one": (json.dumps(document(runs_at="3")), "worse level"),
    "vcpus are text": (json.dumps(document(vcpus="2")), "vcpus"),
    "vcpus are yes": (json.dumps(document(vcpus=True)), "vcpus"),
    "vcpus are none": (json.dumps(document(vcpus=0)), "1 vCPU"),
    "vcpus are a fraction": (json.dumps(document(vcpus=1.5)), "vcpus"),
    "vcpus are endless": (json.dumps(document(vcpus=10**9)), "more than 4096"),
    "more vcpus than the most": (json.dumps(document(max_vcpus=1)), "maximum"),
    "memory is negative": (json.dumps(document(memory_mib=-1)), "memory_mib"),
    "memory is endless": (json.dumps(document(max_memory_mib=10**12)), "more than"),
    "labels are a list": (json.dumps(document(labels=["a"])), "labels"),
    "a label is a number": (json.dumps(document(labels={"a": 1})), "label"),
    "wanted is text": (json.dumps(document(start="no")), "start"),
    "another disk": (json.dumps(document(disk="raw")), "disk"),
    "no name": (json.dumps(document(name="")), "named ''"),
    "another's name": (json.dumps(document(name="web-2")), "'web-2'"),
    "a group's MAC": (json.dumps(document() | {"mac": "53:54:00:12:34:56"}), "MAC"),
    "a path that is not absolute": (json.dumps(document() | {"disk_path": "x"}), "absolute"),
    "a size that is text": (json.dumps(document() | {"base_size_bytes": "9"}), "base_size_bytes"),
    "nodes are a list": (json.dumps(document() | {"memory_nodes": [0]}), "memory nodes"),
    "a node is text": (json.dumps(document() | {"memory_nodes": {"x": 1}}), "'x'"),
    "a node has text": (json.dumps(document() | {"memory_nodes": {"0": "1"}}), "'0'"),
}


@pytest.mark.parametrize(("text", "says"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_metadata_is_told(text: str, says: str) -> None:
    found = read_metadata(domain_with(noted(text)))
    assert isinstance(found, DamagedMetadata)
    assert says in found.what
    assert "'web-1'" in found.sentence
    assert "adopted" in found.sentence
    assert found.sentence.isprintable()
    assert len(found.sentence) < 300


def test_metadata_of_another_version_or_twice_there_is_damaged() -> None:
    good = json.dumps(document())
    assert isinstance(read_metadata(domain_with(noted(good))), DomainMetadata)
    later = read_metadata(domain_with(noted(good, format="2")))
    assert isinstance(later, DamagedMetadata)
    assert "version" in later.what
    twice = noted(good)
    twice.append(twice[0])
    assert isinstance(read_metadata(domain_with(twice)), DamagedMetadata)


def test_fields_of_later_versions_are_passed_over() -> None:
    text = json.dumps(document(colour="blue") | {"weather": []})
    found = read_metadata(domain_with(noted(text)))
    assert found == DomainMetadata(spec=PLAIN)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [
    *("spec", "memory_nodes", "mac", "cpu_model", "machine", "disk_path", "base_path"),
    *("base_size_bytes", "base_mtime_ns"),
]
SPEC_FIELDS = [
    *("name", "vcpus", "memory_mib", "level", "runs_at", "max_vcpus", "max_memory_mib", "image"),
    *("disk", "labels", "owner", "request_id", "start"),
]


@given(
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=2),
    st.dictionaries(st.sampled_from(SPEC_FIELDS), json_values, max_size=2),
)
def test_whatever_is_written_there_is_understood_or_told(
    outer: dict[str, Any], inner: dict[str, Any]
) -> None:
    text = json.dumps(document(**inner) | outer)
    found = read_metadata(domain_with(noted(text)))
    assert isinstance(found, DomainMetadata | DamagedMetadata)
    if isinstance(found, DomainMetadata):
        assert found.spec.name == PLAIN.name
        assert read_metadata(domain_with(metadata_element(found))) == found
