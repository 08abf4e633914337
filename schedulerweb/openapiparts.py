"""What the OpenAPI documents of both tiers have in common: the published routes' parts."""

from __future__ import annotations

from typing import Any

from schedulercommon import wire
from schedulercommon.model import MAX_VCPUS
from schedulerweb.console import MOST_BYTES, MOST_LINES
from schedulerweb.openapi import Operation, Parameter

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
STATUS = {
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
CONSOLE = Operation(
    method="get",
    path="/v1/vms/{name}/console",
    name="console",
    summary="The end of what the guest wrote to its serial console",
    answer=TEXT,
    parameters=(
        VM_NAME,
        Parameter(
            name="lines",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": MOST_LINES},
            description="the last so many lines",
            required=False,
        ),
        Parameter(
            name="bytes",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": MOST_BYTES},
            description="no more than the last so many bytes (65536, with lines 524288)",
            required=False,
        ),
    ),
    codes=("unknown-vm", "wrong-state", "hypervisor-failed", "not-ready"),
    media="text/plain",
    as_json=wire.ConsoleAnswer,
)
LAST_EVENT = Parameter(
    name="Last-Event-ID",
    place="header",
    schema={"type": "string", "pattern": "^[0-9]{1,18}$"},
    description="go on after this event, as far as it is still kept",
    required=False,
)
PROBES = [
    Operation(
        method="get",
        path=path,
        name=path[1:],
        summary=summary,
        answer={
            "type": "object",
            "required": ["status"],
            "properties": {"status": TEXT},
        },
        codes=codes,
        public=True,
    )
    for path, summary, codes in (
        ("/healthz", "Whether the service lives", ()),
        ("/readyz", "Whether it knows its host", ("not-ready",)),
    )
]
