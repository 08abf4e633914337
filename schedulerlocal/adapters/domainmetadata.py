"""What we note about a VM in its domain: our metadata, written and read back.

It is one element in a namespace of our own that holds one JSON document in plain ASCII, so that
a label or an owner may hold any character at all, those XML cannot hold included. Whatever
libvirt does to the text around it, the document comes back as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any
from xml.etree import ElementTree as ET

from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS, VmSpec
from schedulercommon.specdocument import read_spec, spec_document
from schedulerlocal.core.state import NodeMemory

METADATA_URI = "urn:vmstack:domain"
METADATA_KEY = "vmstack"
"""The namespace and its prefix, as libvirt's setMetadata wants them."""

ET.register_namespace(METADATA_KEY, METADATA_URI)

_encode = json.JSONEncoder(separators=(",", ":")).encode
_TAG = "vm"
_FORMAT = "1"
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", re.ASCII)
_MOST_NODES = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainMetadata:
    """What a domain must tell that libvirt does not know; empty and zero stand for unknown."""

    spec: VmSpec
    """``start`` tells whether the VM is wanted running."""
    memory_nodes: NodeMemory = ()
    """As planned, overhead included."""
    mac: str = ""
    """Chosen once and kept for good; lower case."""
    cpu_model: str = ""
    """What the CPU model asked for came to on this host."""
    machine: str = ""
    """The machine type with its version."""
    disk_path: str = ""
    """The VM's own overlay, or its image where the disk is used in place."""
    base_path: str = ""
    base_size_bytes: int = 0
    base_mtime_ns: int = 0
    """An overlay's base, as it was when the overlay was made."""
    made_ms: int = 0
    """When the VM was made, or became ours, since 1970: VMs are told apart by age."""


@dataclass(frozen=True, slots=True)
class DamagedMetadata:
    """Our metadata is there and cannot be understood: the VM counts as not ours."""

    domain: str
    what: str

    @property
    def sentence(self) -> str:
        return (
            f"the metadata of VM {self.domain!r} cannot be used: {self.what}; it counts as not"
            " made here until it is adopted"
        )


def metadata_element(metadata: DomainMetadata) -> ET.Element:
    """The ``<metadata>`` of a domain."""
    return document_element(metadata_document(metadata))


def document_element(document: str) -> ET.Element:
    """The ``<metadata>`` of a domain, from what :func:`metadata_document` says."""
    element = ET.Element("metadata")
    element.append(_element(f"{{{METADATA_URI}}}{_TAG}", document))
    return element


def metadata_text(metadata: DomainMetadata) -> str:
    """What setMetadata takes; libvirt adds the namespace itself."""
    return ET.tostring(_element(_TAG, metadata_document(metadata)), encoding="unicode")


def read_metadata(domain: ET.Element) -> DomainMetadata | DamagedMetadata | None:
    """What the ``<domain>`` *domain* tells of itself; None if it is not ours.

    Metadata that speaks of another name is damaged: that is how a copied domain comes, whose
    original must not be taken for it.
    """
    metadata = domain.find("metadata")
    ours = [] if metadata is None else metadata.findall(f"{{{METADATA_URI}}}{_TAG}")
    if not ours:
        return None
    name = domain.findtext("name", "")
    if len(ours) > 1:
        return DamagedMetadata(name, "it is there more than once")
    return _understood(name, ours[0].get("format", ""), ours[0].text or "")


@lru_cache(maxsize=1024)
def _understood(name: str, written: str, text: str) -> DomainMetadata | DamagedMetadata:
    """A running VM's is there twice, and is read again whenever the VM changes."""
    if written != _FORMAT:
        return DamagedMetadata(name, "it was written by another version of VMStack")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return DamagedMetadata(name, "it is not JSON")
    try:
        metadata = _read(document)
    except ValueError as problem:
        return DamagedMetadata(name, str(problem))
    if metadata.spec.name != name:
        return DamagedMetadata(name, f"it is about a VM named {metadata.spec.name[:80]!r}")
    return metadata


def is_mac(text: str) -> bool:
    """Whether *text* is the MAC of one network card, in lower case."""
    return bool(_MAC.fullmatch(text))


def metadata_document(metadata: DomainMetadata) -> str:
    """What the element says, plain ASCII."""
    document: dict[str, Any] = {"spec": spec_document(metadata.spec)}
    document |= {
        name: value
        for name in _PLAIN
        if (value := getattr(metadata, name))  # what is unknown is left out
    }
    if metadata.memory_nodes:
        document["memory_nodes"] = {str(node): mib for node, mib in metadata.memory_nodes}
    return _encode(document)


def _element(tag: str, document: str) -> ET.Element:
    element = ET.Element(tag, format=_FORMAT)
    element.text = document
    return element


_PLAIN: dict[str, type[Any]] = {
    "mac": str,
    "cpu_model": str,
    "machine": str,
    "disk_path": str,
    "base_path": str,
    "base_size_bytes": int,
    "base_mtime_ns": int,
    "made_ms": int,
}
_SPEC_NEEDS = ("name", "vcpus", "memory_mib", "level")
_SPEC: dict[str, type[Any]] = {
    "name": str,
    "vcpus": int,
    "memory_mib": int,
    "level": str,
    "runs_at": str,
    "max_vcpus": int,
    "max_memory_mib": int,
    "image": str,
    "disk": str,
    "labels": dict,
    "owner": str,
    "request_id": str,
    "start": bool,
}
"""The fields, and how JSON holds them; those not named here are a later version's."""


def _read(document: object) -> DomainMetadata:
    """Raises ValueError with a part of a sentence."""
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    plain = _checked(document, _PLAIN)
    mac = plain.get("mac", "")
    if mac and not is_mac(mac):
        raise ValueError(f"{mac[:40]!r} is not the MAC of one network card")
    for name in ("disk_path", "base_path"):
        if not plain.get(name, "/").startswith("/"):
            raise ValueError(f"its {name} {plain[name][:80]!r} is not absolute")
    nodes = document.get("memory_nodes", {})
    return DomainMetadata(spec=_read_spec(document), memory_nodes=_read_nodes(nodes), **plain)


def _read_spec(document: Mapping[str, Any]) -> VmSpec:
    content = document.get("spec")
    if not isinstance(content, dict):
        raise ValueError("it does not say what was asked for")
    fields = _checked(content, _SPEC)
    missing = [name for name in _SPEC_NEEDS if name not in fields]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if max(fields["vcpus"], fields.get("max_vcpus", 0)) > MAX_VCPUS:
        raise ValueError(f"it speaks of more than {MAX_VCPUS} vCPUs")
    if max(fields["memory_mib"], fields.get("max_memory_mib", 0)) > MAX_MEMORY_MIB:
        raise ValueError(f"it speaks of more than {MAX_MEMORY_MIB} MiB")
    if fields.get("disk", "overlay") not in ("overlay", "in-place"):
        raise ValueError(f"it has a disk {fields['disk'][:40]!r}")
    if not all(isinstance(value, str) for value in fields.get("labels", {}).values()):
        raise ValueError("it has a label that is not text")
    return read_spec(fields)


def _read_nodes(nodes: object) -> NodeMemory:
    if not isinstance(nodes, dict):
        raise ValueError("its memory nodes are no JSON object")
    read = []
    for node, mib in nodes.items():
        known = node.isascii() and node.isdigit() and len(node) < 5 and int(node) < _MOST_NODES
        if not known or type(mib) is not int or mib < 0:
            raise ValueError(f"{str(node)[:20]!r}: {str(mib)[:20]} is no memory of a node")
        read.append((int(node), mib))
    return tuple(read)


def _checked(document: Mapping[str, Any], types: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The fields of *document* named in *types*, which are of these types and not too small."""
    fields = {name: document[name] for name in types if name in document}
    for name, value in fields.items():
        # a bool is an int too, and no number
        if type(value) is not types[name] or (types[name] is int and value < _least(name)):
            raise ValueError(f"its {name} is {str(value)[:40]!r}")
    return fields


def _least(name: str) -> float:
    return -inf if name == "base_mtime_ns" else 0  # a file may be older than 1970
