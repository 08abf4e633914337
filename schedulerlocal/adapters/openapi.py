"""The local scheduler's API as an OpenAPI document; loaded when it is first asked for."""

from __future__ import annotations

from functools import cache

from schedulercommon import wire
from schedulerlocal.core.lifecycle import Verb
from schedulerweb.answers import json_bytes
from schedulerweb.openapi import Operation, Parameter, document
from schedulerweb.openapiparts import (
    ASKED_NAME,
    CONSOLE,
    IMAGE,
    LAST_EVENT,
    NUMBER,
    PROBES,
    SIZE,
    STATUS,
    TEXT,
    VM_NAME,
)

_VERSION = "1.0"
_ABOUT = (
    "Places VMs on one host whose CPUs are sold at several oversubscription levels. Changes go by"
    " POST and DELETE under /v1/; /deploy and /remove are the published way. Every refusal is the"
    " same JSON: success false, a sentence in reason, a stable code."
)
_REQUEST = Parameter(
    name="request_id",
    place="path",
    schema={"type": "string", "pattern": wire.REQUEST_ID_PATTERN},
    description="the id the deploy was sent with",
)
_KNOWN = Parameter(
    name="If-None-Match",
    place="header",
    schema=TEXT,
    description="the ETag of the answer you have",
    required=False,
)
_CHANGE = ("forbidden", "not-ready", "hypervisor-failed")
_PLACING = (*_CHANGE, "name-taken", "no-capacity", "request-cancelled")
_OF_A_VM = (*_CHANGE, "unknown-vm", "wrong-state", "too-large")
_VERBS = {
    Verb.START: "Start a VM that is down",
    Verb.SHUTDOWN: "Ask the guest to shut down; force pulls the plug",
    Verb.REBOOT: "Ask the guest to reboot",
    Verb.SUSPEND: "Stop the guest where it is",
    Verb.RESUME: "Let a suspended guest go on",
}


def _published() -> list[Operation]:
    return [
        Operation(
            method="get", path="/", name="about", summary="What this is", answer={"type": "object"}
        ),
        Operation(
            method="get",
            path="/status",
            name="status",
            summary="CPUs by level, and memory in MiB",
            answer=STATUS,
            parameters=(_KNOWN,),
            codes=("not-ready",),
            etag=True,
        ),
        Operation(
            method="get",
            path="/listvm",
            name="listvm",
            summary="The names of all VMs",
            answer={"type": "array", "items": TEXT},
            codes=("not-ready",),
        ),
        Operation(
            method="get",
            path="/deploy",
            name="deploy",
            summary="Place a VM",
            answer=wire.Done,
            parameters=(ASKED_NAME, *SIZE, IMAGE),
            codes=_PLACING,
        ),
        Operation(
            method="get",
            path="/remove",
            name="remove",
            summary="Stop a VM by force and forget it",
            answer=wire.Done,
            parameters=(ASKED_NAME,),
            codes=(*_CHANGE, "unknown-vm", "wrong-state"),
        ),
        Operation(
            method="get",
            path="/progress",
            name="progress",
            summary="How much a VM of that size would further the host's balance",
            answer={
                "type": "object",
                "required": ["progress"],
                "properties": {"progress": NUMBER},
            },
            parameters=SIZE,
            codes=("not-ready",),
        ),
        *PROBES,
        Operation(
            method="get",
            path="/metrics",
            name="metrics",
            summary="Gauges for Prometheus",
            answer=TEXT,
            codes=("not-ready",),
            media="text/plain",
        ),
    ]


def _typed() -> list[Operation]:
    return [
        Operation(
            method="get",
            path="/v1/host",
            name="host",
            summary="The host in full",
            answer=wire.HostAnswer,
            parameters=(_KNOWN,),
            codes=("not-ready",),
            etag=True,
        ),
        Operation(
            method="get",
            path="/v1/host/usage",
            name="usage",
            summary="What levels and VMs use, and how long they wait for CPUs",
            answer=wire.UsageAnswer,
            codes=("not-ready",),
        ),
        Operation(
            method="get",
            path="/v1/vms",
            name="list_vms",
            summary="All VMs in full",
            answer={"type": "array", "items": {"$ref": "#/components/schemas/VmAnswer"}},
            codes=("not-ready",),
        ),
        Operation(
            method="post",
            path="/v1/vms",
            name="deploy_vm",
            summary="Place a VM: 201 if it is new, 200 if the same request was answered before",
            answer=wire.VmAnswer,
            statuses=(200, 201),
            body=wire.DeployRequest,
            codes=(*_PLACING, "too-large"),
        ),
        Operation(
            method="get",
            path="/v1/vms/{name}",
            name="vm",
            summary="A VM in full",
            answer=wire.VmAnswer,
            parameters=(VM_NAME,),
            codes=("unknown-vm", "not-ready"),
        ),
        Operation(
            method="delete",
            path="/v1/vms/{name}",
            name="remove_vm",
            summary="Stop a VM by force and forget it",
            answer=wire.Done,
            parameters=(VM_NAME,),
            codes=_OF_A_VM,
        ),
        *[
            Operation(
                method="post",
                path=f"/v1/vms/{{name}}/{verb}",
                name=f"{verb}_vm",
                summary=summary,
                answer=wire.VmAnswer,
                body=wire.ShutdownRequest if verb is Verb.SHUTDOWN else wire.NoRequest,
                body_needed=False,
                parameters=(VM_NAME,),
                codes=_OF_A_VM,
            )
            for verb, summary in _VERBS.items()
        ],
        Operation(
            method="post",
            path="/v1/vms/{name}/resize",
            name="resize_vm",
            summary="Give a VM another size; until a pending reboot the larger one counts",
            answer=wire.ResizeAnswer,
            body=wire.ResizeRequest,
            parameters=(VM_NAME,),
            codes=(*_OF_A_VM, "no-capacity"),
        ),
        Operation(
            method="post",
            path="/v1/vms/{name}/adopt",
            name="adopt_vm",
            summary="Make a VM that was found here one of ours",
            answer=wire.VmAnswer,
            body=wire.AdoptRequest,
            parameters=(VM_NAME,),
            codes=(*_OF_A_VM, "no-capacity"),
        ),
        CONSOLE,
        Operation(
            method="delete",
            path="/v1/requests/{request_id}",
            name="cancel_request",
            summary="Say what became of a deploy, and refuse its id from now on",
            answer=wire.CancelAnswer,
            parameters=(_REQUEST,),
            codes=_CHANGE,
        ),
        Operation(
            method="get",
            path="/v1/events",
            name="events",
            summary="What happens, as server-sent events with ids; it does not end",
            answer=TEXT,
            parameters=(LAST_EVENT,),
            codes=("not-ready",),
            media="text/event-stream",
        ),
    ]


@cache
def openapi_document() -> bytes:
    """The document, as JSON."""
    operations = (*_published(), *_typed())
    return json_bytes(document("VMStack local scheduler", _ABOUT, _VERSION, operations))
