"""A VmSpec as a JSON document and back: in journals, state files and domain metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from schedulercommon.levels import format_level, parse_level
from schedulercommon.model import VmSpec

_quoted = json.encoder.encode_basestring_ascii


def spec_document(spec: VmSpec) -> dict[str, Any]:
    """*spec* as JSON values; what is as by default is left out."""
    document: dict[str, Any] = {
        "name": spec.name,
        "vcpus": spec.vcpus,
        "memory_mib": spec.memory_mib,
        "level": format_level(spec.level),
    }
    if spec.runs_at != spec.level:
        document["runs_at"] = format_level(spec.runs_at)
    if spec.max_vcpus != spec.vcpus:
        document["max_vcpus"] = spec.max_vcpus
    if spec.max_memory_mib != spec.memory_mib:
        document["max_memory_mib"] = spec.max_memory_mib
    if spec.image:
        document["image"] = spec.image
    if spec.disk != "overlay":
        document["disk"] = spec.disk
    if spec.labels:
        document["labels"] = dict(spec.labels)
    if spec.owner:
        document["owner"] = spec.owner
    if spec.request_id:
        document["request_id"] = spec.request_id
    if not spec.start:
        document["start"] = False
    return document


def spec_text(spec: VmSpec) -> str:
    """:func:`spec_document` as JSON text; an ordinary VM's is put together by hand, being
    written at every change."""
    ordinary = (
        spec.start
        and spec.image
        and spec.request_id
        and spec.disk == "overlay"
        and spec.max_vcpus == spec.vcpus
        and spec.max_memory_mib == spec.memory_mib
        and not (spec.labels or spec.owner)
        and spec.runs_at is spec.level
    )
    if not ordinary:
        return json.dumps(spec_document(spec))
    return (
        f'{{"name":{_quoted(spec.name)},"vcpus":{spec.vcpus},"memory_mib":{spec.memory_mib},'
        f'"level":"{format_level(spec.level)}","image":{_quoted(spec.image)},'
        f'"request_id":{_quoted(spec.request_id)}}}'
    )


def read_spec(document: Mapping[str, Any]) -> VmSpec:
    """The spec that *document* describes; raises KeyError, TypeError or ValueError if none."""
    level = parse_level(document["level"])
    return VmSpec(
        name=document["name"],
        vcpus=int(document["vcpus"]),
        memory_mib=int(document["memory_mib"]),
        level=level,
        runs_at=parse_level(document["runs_at"]) if "runs_at" in document else level,
        image=document.get("image", ""),
        disk=document.get("disk", "overlay"),
        max_vcpus=int(document.get("max_vcpus", 0)),
        max_memory_mib=int(document.get("max_memory_mib", 0)),
        labels=tuple(sorted(document.get("labels", {}).items())),
        owner=document.get("owner", ""),
        request_id=document.get("request_id", ""),
        start=document.get("start", True),
    )
