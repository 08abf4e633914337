"""An OpenAPI 3.1 document, made from a list of operations and the models of their JSON.

Imports pydantic, so it is loaded when the document is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schedulercommon.errors import HTTP_STATUS
from schedulercommon.wire import Refusal

_REF = "#/components/schemas/{model}"
_EVERYWHERE = ("bad-request", "unauthorized", "overloaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a route, always text in the address."""

    name: str
    place: str
    """``query``, ``path`` or ``header``."""
    schema: Mapping[str, Any]
    description: str
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a route."""

    method: str
    path: str
    name: str
    summary: str
    answer: type[BaseModel] | Mapping[str, Any]
    """A model, or a schema where no model fits."""
    statuses: tuple[int, ...] = (200,)
    body: type[BaseModel] | None = None
    body_needed: bool = True
    parameters: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    """Of the refusals it may answer, beside those every route may."""
    media: str = "application/json"
    as_json: type[BaseModel] | None = None
    """What it answers who asks for JSON, where ``media`` is another."""
    public: bool = False
    """Needs no token."""
    etag: bool = False


def document(
    title: str,
    description: str,
    version: str,
    operations: Iterable[Operation],
    models: Iterable[type[BaseModel]] = (),
) -> dict[str, Any]:
    """The OpenAPI document of *operations*, and of *models* that their schemas refer to."""
    operations = tuple(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": version},
        "paths": paths,
        "components": {
            "schemas": _schemas(operations, models),
            "responses": {code: _refusal(code) for code in HTTP_STATUS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # with and without: a service on loopback may have no token
        "security": [{"token": []}, {}],
    }


def ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def array_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"type": "array", "items": ref(model)}


def either(*models: type[BaseModel]) -> dict[str, Any]:
    return {"anyOf": [ref(model) for model in models]}


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if operation.parameters:
        described["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_needed,
            "content": {"application/json": {"schema": ref(operation.body)}},
        }
    if operation.public:
        described["security"] = []
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _responses(operation: Operation) -> dict[str, Any]:
    answer = operation.answer
    schema = ref(answer) if isinstance(answer, type) else dict(answer)
    done: dict[str, Any] = {
        "description": operation.summary,
        "content": {operation.media: {"schema": schema}},
    }
    if operation.as_json is not None:
        done["content"]["application/json"] = {"schema": ref(operation.as_json)}
    if operation.etag:
        done["headers"] = {
            "ETag": {"description": "the host's generation", "schema": {"type": "string"}}
        }
    responses: dict[str, Any] = {str(status): done for status in operation.statuses}
    if operation.etag:
        responses["304"] = {"description": "unchanged since the ETag in If-None-Match"}
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*_EVERYWHERE, *operation.codes)):
        by_status.setdefault(HTTP_STATUS[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        if len(codes) == 1:
            responses[str(status)] = {"$ref": f"#/components/responses/{codes[0]}"}
        else:
            responses[str(status)] = _refusal(*codes)
    return responses


def _refusal(*codes: str) -> dict[str, Any]:
    return {
        "description": "refused: " + ", ".join(codes),
        "content": {"application/json": {"schema": ref(Refusal)}},
    }


def _schemas(operations: Iterable[Operation], models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """What comes in as it is checked, what goes out as it is written: all fields there."""
    taken: dict[type[BaseModel], None] = {}
    given: dict[type[BaseModel], None] = {Refusal: None, **dict.fromkeys(models)}
    for operation in operations:
        if operation.body is not None:
            taken[operation.body] = None
        for model in (operation.answer, operation.as_json):
            if isinstance(model, type):
                given[model] = None
    _, incoming = models_json_schema([(m, "validation") for m in taken], ref_template=_REF)
    _, outgoing = models_json_schema([(m, "serialization") for m in given], ref_template=_REF)
    found = {**incoming.get("$defs", {}), **outgoing.get("$defs", {})}
    return {name: found[name] for name in sorted(found)}
