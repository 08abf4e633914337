"""A scheduler against its OpenAPI document: whatever it allows is taken, the rest is refused.

A few dozen examples for each operation; ``make fuzz`` takes five hundred.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, settings

from tests.webrig import IMAGE

ROOT = Path(__file__).resolve().parent.parent
Schema = dict[str, Any]

SOME_NAMES: Schema = {"type": "string", "enum": ["a", "b", "c"]}
_FEW: dict[str, Schema] = {
    "name": SOME_NAMES,
    "vcpus": {"type": "integer", "minimum": 1, "maximum": 3},
    "memory_mib": {"type": "integer", "minimum": 1, "maximum": 64},
    "level": {"type": "string", "enum": ["1", "2", "4/3"]},
    "image": {"type": "string", "enum": [IMAGE]},
    "host": {"type": "string", "enum": ["here"]},
}
_SHORT = {"cpu": "vcpus", "mem": "vcpus", "oc": "level", "qcow2": "image"}
FEW = _FEW | {short: _FEW[name] for short, name in _SHORT.items()}


def examples(usually: int) -> settings:
    """So many of each operation, unless FUZZ_EXAMPLES says how many."""
    return settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", usually)),
        suppress_health_check=list(HealthCheck),
    )


def narrowed(
    document: bytes, models: Mapping[str, tuple[str, ...]], few: Mapping[str, Schema] = FEW
) -> Schema:
    """*document* with few names, sizes and levels, all of them right: most requests succeed.

    *models* are those of bodies, with the fields to leave out.
    """
    narrow: Schema = json.loads(document)
    for methods in narrow["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = few.get(parameter["name"], parameter["schema"])
    for model, left_out in models.items():
        fields = narrow["components"]["schemas"][model]["properties"]
        for name in left_out:
            del fields[name]
        fields |= {name: few[name] for name in fields if name in few}
    return narrow


def wide_schema(document: bytes) -> schemathesis.BaseSchema:
    """Whatever *document* allows, and what it does not."""
    config = schemathesis.Config.from_path(ROOT / "schemathesis.toml")
    return schemathesis.openapi.from_dict(json.loads(document), config=config)


def narrow_schema(narrow: Schema) -> schemathesis.BaseSchema:
    """What *narrow* allows, but for what does not end."""
    schema = schemathesis.openapi.from_dict(narrow)
    schema.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])
    return schema.exclude(path="/v1/events")


class Answered:
    """How the examples of a file were answered."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int]] = Counter()

    def note(self, case: schemathesis.Case, status: int) -> None:
        self._counts[case.operation.label, status] += 1

    def __getitem__(self, answer: tuple[str, int]) -> int:
        return self._counts[answer]

    def __len__(self) -> int:
        return len(self._counts)


def routes(app: web.Application) -> set[tuple[str, str]]:
    """Method and path of all that *app* serves, but for the pages that show the document."""
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if isinstance(route, web.ResourceRoute) and route.resource and route.method != "HEAD"
    }
    return served - {("get", path) for path in ("/docs", "/docs/{file}", "/openapi.json")}


def described(document: bytes) -> set[tuple[str, str]]:
    """Method and path of all that *document* describes."""
    paths = json.loads(document)["paths"]
    return {(method, path) for path, methods in paths.items() for method in methods}
