"""The operations that both tiers serve, as a host answers them.

Each is described here alone; a tier replaces what it says otherwise.
"""

from __future__ import annotations

from schedulercommon import wire
from schedulerweb.console import MOST_BYTES, MOST_LINES
from schedulerweb.openapi import Operation, Parameter, array_of
from schedulerweb.openapiparts import (
    ASKED_NAME,
    HOST_STATUS,
    IMAGE,
    LAST_EVENT,
    SIZE,
    TEXT,
    VM_NAME,
)

ABOUT = Operation(
    method="get", path="/", name="about", summary="What this is", answer={"type": "object"}
)
STATUS = Operation(
    method="get",
    path="/status",
    name="status",
    summary="CPUs by level, and memory in MiB",
    answer=HOST_STATUS,
    codes=("not-ready",),
)
LISTVM = Operation(
    method="get",
    path="/listvm",
    name="listvm",
    summary="The names of all VMs",
    answer={"type": "array", "items": TEXT},
    codes=("not-ready",),
)
DEPLOY = Operation(
    method="get",
    path="/deploy",
    name="deploy",
    summary="Place a VM",
    answer=wire.Done,
    parameters=(ASKED_NAME, *SIZE, IMAGE),
)
REMOVE = Operation(
    method="get",
    path="/remove",
    name="remove",
    summary="Stop a VM by force and forget it",
    answer=wire.Done,
    parameters=(ASKED_NAME,),
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
METRICS = Operation(
    method="get",
    path="/metrics",
    name="metrics",
    summary="Gauges for Prometheus",
    answer=TEXT,
    codes=("not-ready",),
    media="text/plain",
)

LIST_VMS = Operation(
    method="get",
    path="/v1/vms",
    name="list_vms",
    summary="All VMs in full",
    answer=array_of(wire.VmAnswer),
    codes=("not-ready",),
)
DEPLOY_VM = Operation(
    method="post",
    path="/v1/vms",
    name="deploy_vm",
    summary="Place a VM: 201 if it is new, 200 if the same request was answered before",
    answer=wire.VmAnswer,
    statuses=(200, 201),
    body=wire.DeployRequest,
)
VM = Operation(
    method="get",
    path="/v1/vms/{name}",
    name="vm",
    summary="A VM in full",
    answer=wire.VmAnswer,
    parameters=(VM_NAME,),
    codes=("unknown-vm", "not-ready"),
)
REMOVE_VM = Operation(
    method="delete",
    path="/v1/vms/{name}",
    name="remove_vm",
    summary="Stop a VM by force and forget it",
    answer=wire.Done,
    parameters=(VM_NAME,),
)
VERBS = {
    verb: Operation(
        method="post",
        path=f"/v1/vms/{{name}}/{verb}",
        name=f"{verb}_vm",
        summary=summary,
        answer=wire.ResizeAnswer if verb == "resize" else wire.VmAnswer,
        body=body,
        body_needed=verb in ("resize", "adopt"),
        parameters=(VM_NAME,),
    )
    for verb, summary, body in (
        ("start", "Start a VM that is down", wire.NoRequest),
        ("shutdown", "Ask the guest to shut down; force pulls the plug", wire.ShutdownRequest),
        ("reboot", "Ask the guest to reboot", wire.NoRequest),
        ("suspend", "Stop the guest where it is", wire.NoRequest),
        ("resume", "Let a suspended guest go on", wire.NoRequest),
        (
            "resize",
            "Give a VM another size; until a pending reboot the larger one counts",
            wire.ResizeRequest,
        ),
        ("adopt", "Make a VM that was found here one of ours", wire.AdoptRequest),
    )
}
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
EVENTS = Operation(
    method="get",
    path="/v1/events",
    name="events",
    summary="What happens, as server-sent events with ids; it does not end",
    answer=TEXT,
    parameters=(LAST_EVENT,),
    codes=("not-ready",),
    media="text/event-stream",
)
