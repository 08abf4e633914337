"""The global scheduler's API as an OpenAPI document; loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from schedulercommon import clusterwire, wire
from schedulerglobal.adapters.typed import HOST_VERBS, VERBS
from schedulerweb import openapishared as shared
from schedulerweb.answers import json_bytes
from schedulerweb.openapi import Operation, Parameter, array_of, document, either
from schedulerweb.openapiparts import HOST_STATUS, SIZE, TEXT

_VERSION = "1.0"
_ABOUT = (
    "Places VMs on the hosts of a cluster, and remembers through crashes what it promised. Changes"
    " go by POST, PATCH and DELETE under /v1/; /deploy and /remove are the published way. Every"
    " refusal is the same JSON: success false, a sentence in reason, a stable code. One with the"
    " code host-unreachable and outcome unknown may have been done: repeat the same request. One of"
    " several global schedulers passes changes on to the one that leads, or answers 307 with its"
    " address to a request with the header VMStack-Redirect: 1."
)
_SELF = Parameter(
    name="self",
    place="query",
    schema={"type": "string", "enum": ["0", "1"]},
    description="1: refuse unless it is this one, for load balancers",
    required=False,
)
_LEADER = {
    "type": "object",
    "required": ["cluster", "leading", "shared", "url", "epoch"],
    "properties": {
        "cluster": {"type": "string", "description": "its SCG_CLUSTER; empty if it has no name"},
        "leading": {"type": "boolean", "description": "whether it is this one"},
        "shared": {"type": "boolean", "description": "whether it could be another"},
        "url": {"type": "string", "description": "of who leads or led last, if it is shared"},
        "epoch": {"type": "integer", "description": "rises with every change of the leader"},
    },
}
_HOST = Parameter(
    name="name",
    place="path",
    schema={"type": "string", "pattern": clusterwire.HOST_PATTERN},
    description="the host's name: its SCL_NAME, an older one's address and port",
)
_DRY_RUN = Parameter(
    name="dry_run",
    place="query",
    schema={"type": "string", "enum": ["0", "1"]},
    description="1: say where it would go and why, and do nothing (an ExplainAnswer)",
    required=False,
)

_CHANGE = ("forbidden", "not-ready", "not-leader", "store-unavailable", "host-unreachable")
_PLACING = (
    *_CHANGE,
    *("name-taken", "no-capacity", "wrong-state", "request-cancelled", "hypervisor-failed"),
)
_OF_A_VM = (*_CHANGE, "unknown-vm", "wrong-state", "hypervisor-failed", "too-large")
_OF_A_HOST = (*_CHANGE, "unknown-host", "wrong-state", "too-large")
_SUMMARIES = {
    "resize": "Give a VM another size, on the host it is on",
    "adopt": "Make a VM that was found on a host one of its own",
}
_HOST_SUMMARIES = {
    "drain": "Place nothing new there",
    "resume": "Place VMs there again, fenced or not before",
    "maintenance": "Place nothing new there; it may be away",
    "fence": "Assert that nothing runs there: unknown VMs become gone, placed ones lost",
}


def _published() -> list[Operation]:
    return [
        shared.ABOUT,
        replace(
            shared.STATUS,
            summary="CPUs by level and memory in MiB of every host that answers",
            answer={"type": "object", "additionalProperties": HOST_STATUS},
        ),
        replace(
            shared.LISTVM,
            summary="The host of every VM",
            answer={"type": "object", "additionalProperties": TEXT},
        ),
        replace(shared.DEPLOY, codes=_PLACING),
        replace(
            shared.REMOVE,
            summary="Stop a VM by force and forget it; done later if its host is away",
            codes=_OF_A_VM,
        ),
        *shared.PROBES,
        Operation(
            method="get",
            path="/v1/leader",
            name="leader",
            summary="Which global scheduler leads, and which cluster",
            answer=_LEADER,
            parameters=(_SELF,),
            codes=("not-leader", "store-unavailable"),
            public=True,
        ),
        replace(shared.METRICS, summary="Counts and gauges for Prometheus"),
    ]


def _of_vms() -> list[Operation]:
    return [
        replace(
            shared.LIST_VMS,
            summary="All VMs; what only their hosts know is left null",
            answer=array_of(clusterwire.ClusterVmAnswer),
        ),
        replace(
            shared.DEPLOY_VM,
            answer=either(clusterwire.ClusterVmAnswer, clusterwire.ExplainAnswer),
            body=clusterwire.PlaceRequest,
            parameters=(_DRY_RUN,),
            codes=(*_PLACING, "unknown-host", "too-large"),
        ),
        replace(
            shared.VM, summary="A VM in full, its host asked", answer=clusterwire.ClusterVmAnswer
        ),
        replace(
            shared.REMOVE_VM,
            summary="Stop a VM by force and forget it; 202 if that waits for its host",
            answer=either(wire.Done, clusterwire.RemovalAnswer),
            statuses=(200, 202),
            codes=_OF_A_VM,
        ),
        *[
            replace(
                shared.VERBS[verb],
                summary=_SUMMARIES.get(verb, shared.VERBS[verb].summary),
                answer=clusterwire.ClusterVmAnswer,
                codes=(*_OF_A_VM, "name-taken", "no-capacity"),
            )
            for verb in VERBS
        ],
        replace(shared.CONSOLE, codes=(*shared.CONSOLE.codes, "name-taken", "host-unreachable")),
    ]


def _of_hosts() -> list[Operation]:
    return [
        Operation(
            method="get",
            path="/v1/hosts",
            name="list_hosts",
            summary="All hosts, and addresses where nobody answers",
            answer=array_of(clusterwire.ClusterHostAnswer),
            codes=("not-ready",),
        ),
        Operation(
            method="post",
            path="/v1/hosts",
            name="add_host",
            summary="Schedule on one more host: 201 if it is new, 200 if it is known",
            answer=clusterwire.ClusterHostAnswer,
            statuses=(200, 201),
            body=clusterwire.HostRequest,
            codes=(*_CHANGE, "name-taken", "too-large"),
        ),
        Operation(
            method="get",
            path="/v1/hosts/{name}",
            name="host",
            summary="A host",
            answer=clusterwire.ClusterHostAnswer,
            parameters=(_HOST,),
            codes=("unknown-host", "not-ready"),
        ),
        Operation(
            method="patch",
            path="/v1/hosts/{name}",
            name="label_host",
            summary="Give a host these labels instead of those it has",
            answer=clusterwire.ClusterHostAnswer,
            body=clusterwire.HostChange,
            parameters=(_HOST,),
            codes=_OF_A_HOST,
        ),
        Operation(
            method="delete",
            path="/v1/hosts/{name}",
            name="remove_host",
            summary="Forget a host that is away, or empty and in maintenance",
            answer=wire.Done,
            parameters=(_HOST,),
            codes=_OF_A_HOST,
        ),
        *[
            Operation(
                method="post",
                path=f"/v1/hosts/{{name}}/{verb}",
                name=f"{verb}_host",
                summary=_HOST_SUMMARIES[verb],
                answer=clusterwire.ClusterHostAnswer,
                body=wire.NoRequest,
                body_needed=False,
                parameters=(_HOST,),
                codes=_OF_A_HOST,
            )
            for verb in HOST_VERBS
        ],
        Operation(
            method="get",
            path="/v1/capacity",
            name="capacity",
            summary="How many more such VMs fit, per host and in all",
            answer=clusterwire.CapacityAnswer,
            parameters=SIZE,
            codes=("not-ready",),
        ),
        shared.EVENTS,
    ]


@cache
def openapi_document() -> bytes:
    """The document, as JSON."""
    operations = (*_published(), *_of_vms(), *_of_hosts())
    models = (
        clusterwire.ClusterVmAnswer,
        clusterwire.ExplainAnswer,
        clusterwire.RemovalAnswer,
        clusterwire.ClusterHostAnswer,
        wire.Done,
    )
    return json_bytes(
        document("VMStack global scheduler", _ABOUT, _VERSION, operations, models=models)
    )
