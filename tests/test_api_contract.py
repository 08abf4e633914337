"""The local scheduler against its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis

from schedulerlocal.adapters.api import create_app
from schedulerlocal.adapters.openapi import openapi_document
from schedulerlocal.config import ServiceSettings
from tests.contractrig import (
    Answered,
    described,
    examples,
    narrow_schema,
    narrowed,
    routes,
    wide_schema,
)
from tests.webrig import in_a_thread, running

_ELSEWHERE = ("policy", "max_vcpus", "max_memory_mib")
wide = wide_schema(openapi_document())
narrow = narrow_schema(
    narrowed(
        openapi_document(),
        {"DeployRequest": _ELSEWHERE, "ResizeRequest": (), "AdoptRequest": ()},
    )
)
answered = Answered()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with in_a_thread(running(tmp_path_factory.mktemp("journal"))) as served:
        yield served.url


@wide.parametrize()
@examples(50)
def test_the_service_keeps_to_its_document(case: schemathesis.Case, address: str) -> None:
    case.call_and_validate(base_url=address)


@narrow.parametrize()
@examples(50)
def test_what_is_right_is_done(case: schemathesis.Case, address: str) -> None:
    response = case.call_and_validate(base_url=address)
    answered.note(case, response.status_code)


def test_examples_met_success_and_refusal() -> None:
    """Of the two tests above: they would prove little if all they met were refusals."""
    if not answered:
        pytest.skip("the examples were not asked for")
    assert answered["GET /deploy", 200]
    assert answered["POST /v1/vms", 201] + answered["POST /v1/vms", 200]
    assert answered["POST /v1/vms", 409]
    assert answered["GET /progress", 200]


def test_the_document_is_valid() -> None:
    assert wide.raw_schema["openapi"].startswith("3.1")
    wide.validate()


def test_the_document_names_every_route() -> None:
    class NoAgent:
        name = "here"

    app = create_app(NoAgent(), ServiceSettings(name="here"))  # type: ignore[arg-type]
    assert routes(app) == described(openapi_document())
