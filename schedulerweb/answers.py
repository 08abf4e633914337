"""Answers: JSON, and the one form every refusal has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from schedulercommon.errors import HTTP_STATUS, RefusedError

_HEADERS = CIMultiDict(
    {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "Server": "VMStack",
    }
)
_encode = json.JSONEncoder(separators=(", ", ": ")).encode

_AT_ONCE = 500  # documents, some milliseconds

DONE = b'{"success": true, "reason": null}'


def json_bytes(document: Any) -> bytes:
    """*document* as ASCII JSON text."""
    return _encode(document).encode("ascii")


async def json_array(documents: Iterable[Any]) -> bytes:
    """*documents* as a JSON array; whoever else has something to do gets a turn now and then,
    since a hundred thousand take seconds to write."""
    parts: list[str] = []
    for batch in batched(documents, _AT_ONCE):
        parts.append(_encode(batch)[1:-1])
        await asyncio.sleep(0)
    return f"[{', '.join(parts)}]".encode("ascii")


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """*items*, so many at a time."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def answer(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer whose *body* is JSON already."""
    all_headers = _HEADERS.copy()
    if headers is not None:
        all_headers.update(headers)
    return web.Response(body=body, status=status, headers=all_headers)


def refusal_body(code: str, reason: str) -> bytes:
    """What every refusal on every route looks like."""
    return json_bytes({"success": False, "reason": reason, "code": code})


def refused(refusal: RefusedError) -> web.Response:
    """The answer that tells *refusal*."""
    body = {"success": False, "reason": str(refusal), "code": refusal.code, **refusal.details}
    return answer(
        json_bytes(body),
        HTTP_STATUS.get(refusal.code, 500),
        {"WWW-Authenticate": "Bearer"} if refusal.code == "unauthorized" else None,
    )


def with_etag(request: web.Request, body: bytes, generation: int) -> web.Response:
    """*body*, which *generation* names; 304 without it if that is what the client has already."""
    etag = f'"{generation}"'
    known = request.headers.get("If-None-Match")
    if known is not None:
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        if etag in tags or tags == ["*"]:
            return web.Response(status=304, headers={"ETag": etag, "Server": "VMStack"})
    return answer(body, headers={"ETag": etag})
