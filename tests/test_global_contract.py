"""The global scheduler against its OpenAPI document, over two hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from schedulerglobal.adapters.api import create_app
from schedulerglobal.adapters.openapi import openapi_document
from tests.badinput import TIERS
from tests.clusterrig import SETTINGS
from tests.contractrig import (
    FEW,
    SOME_NAMES,
    Answered,
    described,
    examples,
    narrow_schema,
    narrowed,
    routes,
    wide_schema,
)
from tests.webrig import in_a_thread

HOSTS = {"type": "string", "enum": ["here", "next"]}


def few_and_right() -> dict[str, Any]:
    wishes = {
        "avoid": {"type": "array", "items": HOSTS, "maxItems": 1},
        "affinity": {"type": "array", "items": {"const": "app=db"}, "maxItems": 1},
        "anti_affinity": {"type": "array", "items": {"const": "there"}, "maxItems": 1},
        "spread": {"const": ""},
        "host": HOSTS,
        "policy": {"type": "string", "enum": ["progress", "first-fit", "distributed", "random"]},
    }
    left_out = ("max_vcpus", "max_memory_mib")
    models: dict[str, tuple[str, ...]] = {
        "PlaceRequest": left_out,
        "ResizeRequest": (),
        "AdoptRequest": (),
    }
    document = narrowed(openapi_document(), models, {**FEW, **wishes})
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "name":
                    parameter["schema"] = HOSTS if path.startswith("/v1/hosts") else SOME_NAMES
    return document


wide = wide_schema(openapi_document())
narrow = narrow_schema(few_and_right())
answered = Answered()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with in_a_thread(TIERS["global"](tmp_path_factory.mktemp("global"))) as served:
        yield served.client.url


@wide.parametrize()
@examples(20)
def test_the_service_keeps_to_its_document(case: schemathesis.Case, address: str) -> None:
    case.call_and_validate(base_url=address)


@narrow.parametrize()
@examples(20)
def test_what_is_right_is_done(case: schemathesis.Case, address: str) -> None:
    response = case.call_and_validate(base_url=address)
    answered.note(case, response.status_code)


def test_examples_met_success_and_refusal() -> None:
    """Of the two tests above: they would prove little if all they met were refusals."""
    if not answered:
        pytest.skip("the examples were not asked for")
    assert answered["GET /deploy", 200]
    assert answered["POST /v1/vms", 201]
    assert answered["POST /v1/vms", 409]
    assert answered["GET /v1/vms/{name}", 200]
    assert answered["DELETE /v1/vms/{name}", 200]
    assert answered["GET /v1/capacity", 200]
    assert answered["PATCH /v1/hosts/{name}", 200]
    assert answered["POST /v1/hosts/{name}/drain", 200]
    assert answered["POST /v1/hosts/{name}/fence", 409]


def test_the_document_is_valid() -> None:
    assert wide.raw_schema["openapi"].startswith("3.1")
    wide.validate()


def test_the_document_names_every_route() -> None:
    class NoScheduler: ...

    app = create_app(NoScheduler(), SETTINGS, time.monotonic)  # type: ignore[arg-type]
    assert routes(app) == described(openapi_document())
