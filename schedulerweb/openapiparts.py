"""Parameters and schemas that the OpenAPI documents of both tiers have in common."""

from __future__ import annotations

from typing import Any

from schedulercommon import wire
from schedulercommon.model import MAX_VCPUS
from schedulerweb.openapi import Parameter

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
HOST_STATUS = {
    "type": "object",
    "required": ["cpu", "mem"],
    "properties": {
        resource: {
            "type": "object",
            "required": ["avail", "subset"],
            "properties": {
                "avail": {"type": "integer"},
                "subset": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["pcap", "palloc", "vavail", "vpotential"],
                        "properties": {
                            "pcap": {"type": "integer"},
                            "palloc": {"type": "integer"},
                            "vavail": NUMBER,
                            "vpotential": NUMBER,
                        },
                    },
                },
            },
        }
        for resource in ("cpu", "mem")
    },
}
NAME = {"type": "string", "pattern": wire.NAME_PATTERN}

VM_NAME = Parameter(name="name", place="path", schema=NAME, description="the VM's name")
ASKED_NAME = Parameter(name="name", place="query", schema=NAME, description="the VM's name")
SIZE = (
    Parameter(
        name="cpu",
        place="query",
        schema={"type": "integer", "minimum": 1, "maximum": MAX_VCPUS},
        description="vCPUs",
    ),
    Parameter(
        name="mem",
        place="query",
        schema={"type": "string", "pattern": wire.GB_PATTERN, "examples": ["2", "0.5"]},
        description="memory in GB of 1024 MiB, rounded up to whole MiB",
    ),
    Parameter(
        name="oc",
        place="query",
        schema={"type": "string", "pattern": wire.LEVEL_PATTERN, "examples": ["2", "1.5", "4/3"]},
        description="level: vCPUs per CPU, from 1 to 64",
    ),
)
IMAGE = Parameter(
    name="qcow2",
    place="query",
    schema={"type": "string", "pattern": wire.IMAGE_PATTERN},
    description="path of the image, under the host's image folders",
)
LAST_EVENT = Parameter(
    name="Last-Event-ID",
    place="header",
    schema={"type": "string", "pattern": "^[0-9]{1,18}$"},
    description="go on after this event, as far as it is still kept",
    required=False,
)
