"""JSON to the model and back: what the typed API takes and gives, for both tiers.

These classes check what comes in and describe, in the OpenAPI document, what goes out. Numbers
are exact: whoever parses a body hands over fractions as Decimals. Unknown fields are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeGuard, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from schedulercommon.errors import BadRequest
from schedulercommon.levels import MAX_LEVEL, Level, parse_level
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS, NAME_RULE, VmSpec, VmState

M = TypeVar("M", bound=BaseModel)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
IMAGE_PATTERN = r"^/[^\x00-\x1f\x7f]{1,4094}$"
REQUEST_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"
LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$"
TEXT_PATTERN = r"^[^\x00-\x1f\x7f]{0,253}$"
LEVEL_PATTERN = r"^([0-9]{1,2}(\.[0-9]{0,12})?|[0-9]{1,5}/[0-9]{1,4})$"
REQUEST_ID = re.compile(REQUEST_ID_PATTERN, re.ASCII)
GB_PATTERN = r"^([0-9]{1,6}(\.[0-9]{0,12})?|\.[0-9]{1,12})$"
MOST_LABELS = 64

_MOST_DIGITS = 30


def _whole(value: object) -> object:
    """169.0 is 169; anything that is not whole is left for the field to refuse."""
    if _is_plain(value) and value == value.to_integral_value():
        return int(value)
    return value


def _is_plain(value: object) -> TypeGuard[Decimal]:
    """Whether *value* is a fraction of few digits; others would take long to write out."""
    return isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < _MOST_DIGITS


def _level(value: object) -> Level:
    if _is_plain(value):
        return parse_level(format(value, "f"))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        return parse_level(str(value))
    if isinstance(value, str):
        return parse_level(value)
    raise ValueError(f'it must be a number from 1 to {MAX_LEVEL}, or a text like "1.5" or "4/3"')


_LEVEL = "vCPUs per CPU, from 1 to 64: a number, or text like '2', '1.5' or '4/3'"
_LEVEL_SCHEMA = {
    "description": _LEVEL,
    "anyOf": [
        {"type": "number", "minimum": 1, "maximum": MAX_LEVEL},
        {"type": "string", "pattern": LEVEL_PATTERN},
    ],
    "examples": ["1.5", "4/3", 2],
}
_LEVEL_OUT = {"type": "string", "pattern": LEVEL_PATTERN, "examples": ["2.0", "4/3"]}

Vcpus = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_VCPUS, description=f"a whole number from 1 to {MAX_VCPUS}"),
    BeforeValidator(_whole),
]
MemoryMib = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=MAX_MEMORY_MIB,
        description=f"whole MiB from 1 to {MAX_MEMORY_MIB}",
    ),
    BeforeValidator(_whole),
]
LevelIn = Annotated[Fraction, PlainValidator(_level), WithJsonSchema(_LEVEL_SCHEMA)]
LevelOut = Annotated[str, WithJsonSchema(_LEVEL_OUT)]
Name = Annotated[
    str,
    Field(
        strict=True,
        pattern=NAME_PATTERN,
        description=NAME_RULE,
    ),
]
Image = Annotated[
    str,
    Field(
        strict=True,
        pattern=IMAGE_PATTERN,
        description="an absolute path under the host's image folders, no control characters",
    ),
]
RequestId = Annotated[
    str,
    Field(
        strict=True,
        pattern=REQUEST_ID_PATTERN,
        description="1 to 128 letters, digits, '.', '_', ':' or '-', a letter or digit first",
    ),
]
Text = Annotated[
    str,
    Field(
        strict=True,
        pattern=TEXT_PATTERN,
        description="up to 253 characters, no control characters",
    ),
]
Labels = Annotated[
    dict[Annotated[str, Field(strict=True, pattern=LABEL_PATTERN)], Text],
    Field(
        max_length=MOST_LABELS,
        description=f"up to {MOST_LABELS} labels: names of 1 to 63 letters, digits,"
        " '.', '_', '/' or '-' with texts of up to 253 characters",
    ),
]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def absent(stand_in: Any) -> Any:
    """A field that may be left out; *stand_in* is what the code sees then, and nobody else."""
    return Field(default=stand_in, json_schema_extra=_without_default)


Switch = Annotated[bool, Field(strict=True, description="true or false")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeployRequest(_Request):
    """A VM to place. Once the VM that was made under a request_id is removed, that id is refused
    (request-cancelled), so that a request which arrives again makes no other: take a new one, or
    none."""

    name: Name
    vcpus: Vcpus
    memory_mib: MemoryMib
    level: LevelIn
    image: Image
    disk: Annotated[
        Literal["overlay", "in-place"],
        Field(description="'overlay' (a disk of its own on the image) or 'in-place' (the image)"),
    ] = "overlay"
    start: Switch = True
    request_id: RequestId = absent("")
    host: Name = absent("")
    policy: Name = absent("")
    labels: Labels = Field(default_factory=dict)
    max_vcpus: Vcpus = absent(0)
    max_memory_mib: MemoryMib = absent(0)

    def spec(self) -> VmSpec:
        """The VM asked for; raises BadRequest for an impossible combination."""
        for field in ("vcpus", "memory_mib"):
            if "max_" + field in self.model_fields_set:
                asked, most = getattr(self, field), getattr(self, "max_" + field)
                if most < asked:
                    raise BadRequest(
                        f"field 'max_{field}' is {most}, less than {field} {asked};"
                        " raise it or leave it out"
                    )
        return VmSpec(
            name=self.name,
            vcpus=self.vcpus,
            memory_mib=self.memory_mib,
            level=self.level,
            image=self.image,
            disk=self.disk,
            max_vcpus=self.max_vcpus,
            max_memory_mib=self.max_memory_mib,
            labels=tuple(sorted(self.labels.items())),
            request_id=self.request_id,
            start=self.start,
        )


class ResizeRequest(_Request):
    """The size a VM is to have; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    vcpus: Vcpus = absent(0)
    memory_mib: MemoryMib = absent(0)

    def sizes(self) -> tuple[int | None, int | None]:
        """vCPUs and MiB, None for what stays; raises BadRequest if both do."""
        if not self.model_fields_set:
            raise BadRequest("nothing to resize; give vcpus, memory_mib or both")
        return self.vcpus or None, self.memory_mib or None


class AdoptRequest(_Request):
    """What a VM that was found is to be from now on."""

    level: LevelIn
    labels: Labels = Field(default_factory=dict)
    owner: Text = ""


class ShutdownRequest(_Request):
    """How to shut a VM down."""

    force: Switch = False


class NoRequest(_Request):
    """An empty object; the body may be left out too."""


class VmAnswer(BaseModel):
    """A VM."""

    name: str
    level: LevelOut
    runs_at: LevelOut
    vcpus: int
    memory_mib: int
    image: str
    state: VmState
    pinned_cpus: list[int]
    memory_nodes: list[int]
    labels: dict[str, str]
    owner: str


class TakesEffect(BaseModel):
    """When a new size counts for the guest."""

    vcpus: Literal["live", "next-boot", "unchanged"]
    memory_mib: Literal["live", "next-boot", "unchanged"]


class ResizeAnswer(VmAnswer):
    """A VM in its new size."""

    takes_effect: TakesEffect


class LevelAnswer(BaseModel):
    """A level of a host."""

    level: LevelOut
    cpus: list[int]
    lent_cpus: list[int]
    vcpus: int
    largest_vcpus: int
    vms: list[str]


class Capacity(BaseModel):
    """How much there is for VMs, and how much of it is free."""

    total: int
    free: int


class HostAnswer(BaseModel):
    """A host."""

    name: str
    generation: int
    smt_isolation: bool
    cpus: Capacity
    memory_mib: Capacity
    vm_overhead_mib: int
    levels: list[LevelAnswer]
    foreign: list[str]
    warnings: list[str]


class CpusUsed(BaseModel):
    """How many CPUs there are for VMs, and how many of them were busy, whoever used them."""

    total: int
    used: float | None


class LevelUsage(BaseModel):
    """What a level's VMs used; null is what could not be told."""

    level: LevelOut
    cpus: int
    cpus_used: float | None = Field(description="by its VMs, on borrowed CPUs too")
    busy: float | None = Field(description="share of its own CPUs, whoever used them")
    memory_used_mib: float | None
    waiting: float | None = Field(
        description="share of the time its VMs were ready to run that they waited for a CPU"
    )
    waiting_p95: float | None = Field(
        description="the same of its VMs one by one: 95 in 100 do not exceed it"
    )
    crowding: Literal["calm", "warning", "bad"]


class VmUsed(BaseModel):
    """What a VM used; null is what could not be told."""

    name: str
    level: LevelOut
    vcpus: int
    cpus_used: float | None
    memory_used_mib: float | None
    waiting: float | None


class UsageAnswer(BaseModel):
    """What was used of a host, on average over the time between the last two readings."""

    name: str
    over_s: float | None = Field(description="that time; null if there were no two readings yet")
    cpus: CpusUsed
    memory_share: float | None = Field(description="of all memory, whoever has it")
    levels: list[LevelUsage]
    vms: list[VmUsed]


class CancelAnswer(BaseModel):
    """What became of a request."""

    request_id: str
    outcome: Literal["deployed", "removed", "undone", "cancelled"]


class ConsoleAnswer(BaseModel):
    """The end of what a guest wrote to its console."""

    name: str
    console: str


class Done(BaseModel):
    """It is done."""

    success: Literal[True]
    reason: None


class Refusal(BaseModel):
    """Why a request was refused; nothing has changed."""

    success: Literal[False]
    reason: str = Field(description="one sentence: what is wrong and how to mend it")
    code: str = Field(description="stable, for programs")


def read_model(model: type[M], document: Mapping[str, Any]) -> M:
    """*document* as *model*; raises BadRequest, naming the field."""
    try:
        return model.model_validate(document)
    except ValidationError as problem:
        raise BadRequest(_sentence(model, problem)) from None


def _sentence(model: type[BaseModel], problem: ValidationError) -> str:
    first: Mapping[str, Any] = problem.errors(include_url=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    known = model.model_fields
    if first["type"] == "extra_forbidden":
        takes = f"this takes {', '.join(known)}" if known else "this takes none"
        return f"field {field[:40]!a} is not known here; {takes}"
    wanted = (known[field].description if field in known else None) or _LEVEL
    if first["type"] == "missing":
        return f"field {field!r} is missing; it is {wanted}"
    if first["type"] == "value_error":
        return f"field {field!r}: {first['ctx']['error']}"
    return f"field {field!r} is wrong ({_lowered(first['msg'])}); it must be {wanted}"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
