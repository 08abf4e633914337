"""JSON bodies read strictly: whole, small, UTF-8, one object, no field twice, numbers exact."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any, NoReturn

from aiohttp import web

from schedulercommon.errors import BadRequest, TooLarge

LARGEST_BODY = 64 * 1024
_PATIENCE_S = 10.0


async def read_document(request: web.Request) -> dict[str, Any]:
    """The object that is the body of *request*, empty for no body; fractions are Decimals.

    Raises BadRequest or TooLarge.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("the body is compressed; send it as it is, without Content-Encoding")
    if (request.content_length or 0) > LARGEST_BODY:
        raise _too_large()
    body = await _read(request)
    if not body:
        return {}
    try:
        document = _decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8; encode it so") from None
    except json.JSONDecodeError as problem:
        raise BadRequest(
            f"the body is not JSON: {problem.msg} in line {problem.lineno},"
            f" column {problem.colno}; send one JSON object"
        ) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply; send one plain JSON object") from None
    except (ValueError, ArithmeticError):
        raise BadRequest(
            "the body holds a number that is too long or too large; write a plain one"
        ) from None
    if not isinstance(document, dict):
        raise BadRequest('the body is not a JSON object; send one like {"name": "a"}')
    return document


async def _read(request: web.Request) -> bytes:
    content, body = request.content, bytearray()
    try:
        if content.is_eof():  # it came along with the headers, as most do
            while chunk := content.read_nowait():
                body += chunk
        else:
            async with asyncio.timeout(_PATIENCE_S):
                while len(body) <= LARGEST_BODY and (chunk := await content.readany()):
                    body += chunk
    except TimeoutError:
        raise BadRequest(
            f"the body did not arrive within {_PATIENCE_S:g} s; send all of it at once"
        ) from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadRequest("the body is cut off or badly framed; send it whole") from None
    if len(body) > LARGEST_BODY:
        raise _too_large()
    return bytes(body)


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than {LARGEST_BODY} bytes; send less")


def _no_number(text: str) -> NoReturn:
    raise BadRequest(f"the body holds {text}, which is not a number in JSON; write digits")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"field {twice[:40]!a} is given twice; give it once")
    return document


_decode = json.JSONDecoder(
    parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_each_once
).decode
