"""The OpenAPI document against the service: whatever it allows is taken, the rest is refused.

Fifty examples for each operation; ``make fuzz`` takes five hundred.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, settings

from schedulerlocal.adapters.api import create_app
from schedulerlocal.adapters.openapi import openapi_document
from schedulerlocal.config import ServiceSettings
from tests.webrig import IMAGE, running

EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    suppress_health_check=list(HealthCheck),
)
ROOT = Path(__file__).resolve().parent.parent

answered: Counter[tuple[str, int]] = Counter()


def as_published() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(openapi_document())
    return document


def narrowed() -> dict[str, Any]:
    """The document with few names, sizes and levels, all of them right: most requests succeed."""
    document = as_published()
    names = {"type": "string", "enum": ["a", "b", "c"]}
    few = {
        "name": names,
        "vcpus": {"type": "integer", "minimum": 1, "maximum": 3},
        "memory_mib": {"type": "integer", "minimum": 1, "maximum": 64},
        "level": {"type": "string", "enum": ["1", "2", "4/3"]},
        "image": {"type": "string", "enum": [IMAGE]},
        "host": {"type": "string", "enum": ["here"]},
    }
    few |= {"cpu": few["vcpus"], "mem": few["vcpus"], "oc": few["level"], "qcow2": few["image"]}
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = few.get(parameter["name"], parameter["schema"])
    for model in ("DeployRequest", "ResizeRequest", "AdoptRequest"):
        fields = document["components"]["schemas"][model]["properties"]
        for name in ("policy", "max_vcpus", "max_memory_mib"):
            fields.pop(name, None)
        fields |= {name: few[name] for name in fields if name in few}
    return document


wide = schemathesis.openapi.from_dict(
    as_published(), config=schemathesis.Config.from_path(ROOT / "schemathesis.toml")
)
narrow = schemathesis.openapi.from_dict(narrowed())
narrow.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service in a thread of its own."""
    started, stopped = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve_until_stopped() -> None:
        async with running(tmp_path_factory.mktemp("journal")) as served:
            found.append(f"http://127.0.0.1:{served.port}")
            started.set()
            await asyncio.to_thread(stopped.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve_until_stopped()))
    thread.start()
    assert started.wait(30)
    yield found[0]
    stopped.set()
    thread.join()


@wide.parametrize()
@EXAMPLES
def test_the_service_keeps_to_its_document(case: schemathesis.Case, address: str) -> None:
    case.call_and_validate(base_url=address)


@narrow.exclude(path="/v1/events").parametrize()
@EXAMPLES
def test_what_is_right_is_done(case: schemathesis.Case, address: str) -> None:
    response = case.call_and_validate(base_url=address)
    answered[case.operation.label, response.status_code] += 1


def test_examples_met_success_and_refusal() -> None:
    """Of the two tests above: they would prove little if all they met were refusals."""
    if not answered:
        pytest.skip("the examples were not asked for")
    assert answered["GET /deploy", 200]
    assert answered["POST /v1/vms", 201] + answered["POST /v1/vms", 200]
    assert answered["POST /v1/vms", 409]
    assert answered["GET /progress", 200]


def test_the_document_is_valid() -> None:
    assert as_published()["openapi"].startswith("3.1")
    wide.validate()


def test_the_document_names_every_route() -> None:
    class NoAgent:
        name = "here"

    app = create_app(NoAgent(), ServiceSettings(name="here"))  # type: ignore[arg-type]
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if isinstance(route, web.ResourceRoute) and route.resource and route.method != "HEAD"
    }
    pages = {("get", path) for path in ("/docs", "/docs/{file}", "/openapi.json")}
    described = {
        (method, path) for path, methods in as_published()["paths"].items() for method in methods
    }
    assert routes - pages == described
