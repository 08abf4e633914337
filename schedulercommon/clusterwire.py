"""What the typed API of the global scheduler takes and gives beyond a single host's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schedulercommon.model import VmState
from schedulercommon.wire import (
    LABEL_PATTERN,
    Capacity,
    DeployRequest,
    Labels,
    LevelOut,
    absent,
)

SELECTOR_PATTERN = (
    r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
    r"|[A-Za-z0-9][A-Za-z0-9_./-]{0,62}=[^\x00-\x1f\x7f]{0,253})$"
)
HOST_PATTERN = r"^[A-Za-z0-9_.:\[\]-]{1,255}$"
URL_PATTERN = r"^[!-~]{1,300}$"
MOST_SELECTORS = 64

Selector = Annotated[str, Field(strict=True, pattern=SELECTOR_PATTERN)]
HostName = Annotated[
    str,
    Field(
        strict=True,
        pattern=HOST_PATTERN,
        description="the name of a host, which for an older one is its address and port",
    ),
]
_SELECTORS = "names of VMs, or labels written key=value"


class PlaceRequest(DeployRequest):
    """A VM to place in the cluster, and where it may go."""

    host: HostName = absent("")
    avoid: Annotated[
        list[HostName],
        Field(max_length=MOST_SELECTORS, description="names of hosts it must not go to"),
    ] = Field(default_factory=list)
    affinity: Annotated[
        list[Selector],
        Field(
            max_length=MOST_SELECTORS,
            description=f"{_SELECTORS}: its host must have one of each. The first VM of a label"
            " may go anywhere",
        ),
    ] = Field(default_factory=list)
    anti_affinity: Annotated[
        list[Selector],
        Field(max_length=MOST_SELECTORS, description=f"{_SELECTORS}: its host must have none"),
    ] = Field(default_factory=list)
    spread: Annotated[
        str,
        Field(
            strict=True,
            pattern=rf"^$|{LABEL_PATTERN}",
            description="a label of hosts, rack for example: it goes where the fewest VMs with its"
            " own labels are (of all VMs, if it has no labels)",
        ),
    ] = ""


class HostRequest(BaseModel):
    """A host to schedule on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[
        str,
        Field(
            strict=True,
            pattern=URL_PATTERN,
            description="where its local scheduler listens, http://HOST:PORT",
        ),
    ]
    labels: Labels = Field(default_factory=dict)


class HostChange(BaseModel):
    """The labels a host is to have, instead of those it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: Labels


class ClusterVmAnswer(BaseModel):
    """A VM of the cluster. What only its host knows is null where that host was not asked, cannot
    be reached or is too old to tell."""

    name: str
    host: str
    status: Literal["pending", "placed", "removing", "unknown", "lost"]
    level: LevelOut | None
    vcpus: int | None
    memory_mib: int | None
    image: str | None
    labels: dict[str, str]
    owner: str
    request_id: str
    reason: str | None
    conflicts: list[str] = Field(description="other hosts that have a VM of that name")
    runs_at: LevelOut | None
    state: VmState | None
    pinned_cpus: list[int] | None
    memory_nodes: list[int] | None


class RemovalAnswer(BaseModel):
    """The removal was accepted; it happens when the host is back."""

    success: Literal[True]
    reason: str
    status: Literal["removing"]


class Verdict(BaseModel):
    """What a host was found to be for a request."""

    host: str
    score: float | None = Field(description="the more the better, by the policy; null if refused")
    reason: str | None = Field(description="why it is left out")


class ExplainAnswer(BaseModel):
    """Where a VM would go and why; nothing was done."""

    host: str | None
    policy: str
    hosts: list[Verdict]


class ClusterLevelAnswer(BaseModel):
    """A level of a host as the cluster sees it."""

    level: LevelOut
    cpus: int
    vcpus: int


class ClusterHostAnswer(BaseModel):
    """A host of the cluster."""

    name: str
    url: str
    state: Literal["up", "suspect", "down", "draining", "maintenance"]
    reachable: bool
    problem: str | None
    seen_s_ago: float | None
    typed: bool = Field(description="whether it knows /v1/, or only the published routes")
    fenced: bool
    labels: dict[str, str]
    cpus: Capacity
    memory_mib: Capacity
    levels: list[ClusterLevelAnswer]
    vms: int
    conflicts: list[str] = Field(description="VMs there that are promised elsewhere or nowhere")


class Fits(BaseModel):
    """How many more such VMs a host can take."""

    host: str
    fits: int


class CapacityAnswer(BaseModel):
    """How many more such VMs the cluster can take."""

    total: int
    hosts: list[Fits]
