"""The local scheduler's API as an OpenAPI document; loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from schedulercommon import wire
from schedulerweb import openapishared as shared
from schedulerweb.answers import json_bytes
from schedulerweb.openapi import Operation, Parameter, document
from schedulerweb.openapiparts import NUMBER, SIZE, TEXT

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
_CHANGE = ("forbidden", "not-ready", "not-leader", "store-unavailable", "hypervisor-failed")
_PLACING = (*_CHANGE, "name-taken", "no-capacity", "request-cancelled")
_OF_A_VM = (*_CHANGE, "unknown-vm", "wrong-state", "too-large")


def _published() -> list[Operation]:
    return [
        shared.ABOUT,
        replace(shared.STATUS, parameters=(_KNOWN,), etag=True),
        shared.LISTVM,
        replace(shared.DEPLOY, codes=_PLACING),
        replace(shared.REMOVE, codes=(*_CHANGE, "unknown-vm", "wrong-state")),
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
        *shared.PROBES,
        shared.METRICS,
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
        shared.LIST_VMS,
        replace(shared.DEPLOY_VM, codes=(*_PLACING, "too-large")),
        shared.VM,
        replace(shared.REMOVE_VM, codes=_OF_A_VM),
        *[
            replace(
                operation,
                codes=(*_OF_A_VM, "no-capacity") if verb in ("resize", "adopt") else _OF_A_VM,
            )
            for verb, operation in shared.VERBS.items()
        ],
        shared.CONSOLE,
        Operation(
            method="delete",
            path="/v1/requests/{request_id}",
            name="cancel_request",
            summary="Say what became of a deploy, and refuse its id from now on",
            answer=wire.CancelAnswer,
            parameters=(_REQUEST,),
            codes=_CHANGE,
        ),
        shared.EVENTS,
    ]


@cache
def openapi_document() -> bytes:
    """The document, as JSON."""
    operations = (*_published(), *_typed())
    return json_bytes(document("VMStack local scheduler", _ABOUT, _VERSION, operations))
