"""One request to one scheduler, and its answer judged: a document, a refusal, or no sense."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, TypeVar

from schedulerclient.faults import Senseless, read_refusal
from schedulerclient.transport import Address, Limits, Request, exchange, read_body

T = TypeVar("T")

OK = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A scheduler's yes."""

    address: Address
    request: Request
    status: int
    document: Any


def make_request(
    method: str, target: str, document: Any = None, *, token: str = "", changes: bool = False
) -> Request:
    headers = {"Accept": "application/json", "User-Agent": "vmstack-client"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = None
    if document is not None:
        body = json.dumps(document).encode("ascii")
        headers["Content-Type"] = "application/json"
    return Request(method, target, headers, body, changes)


def ask(address: Address, request: Request, limits: Limits) -> Answer:
    """Raises Refused or Unreachable."""
    with exchange(address, request, limits) as response:
        body = read_body(response, address, request)
    return _judged(address, request, response.status, body)


@contextmanager
def streamed(address: Address, request: Request, limits: Limits) -> Iterator[HTTPResponse]:
    """The answer to *request*, to be read as it comes. Raises Refused or Unreachable."""
    with exchange(address, request, limits) as response:
        if response.status != OK:
            _judged(address, request, response.status, read_body(response, address, request))
        yield response


def understood(read: Callable[[Any], T], answer: Answer) -> T:
    """What *read* makes of it. Raises Senseless."""
    try:
        return read(answer.document)
    except ValueError as problem:
        raise _senseless(answer.address, answer.request, answer.status, str(problem)) from problem


def _judged(address: Address, request: Request, status: int, body: bytes) -> Answer:
    """The body's ``success`` decides whether it is a yes, where it has one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _senseless(address, request, status, "its answer is not JSON") from None
    refusal = read_refusal(document)
    if refusal is not None and (refusal.code or status < 500):
        raise refusal
    if not OK <= status < 300:
        reason = "it failed" if refusal is None else refusal.reason
        raise _senseless(address, request, status, reason)
    return Answer(address, request, status, document)


def _senseless(address: Address, request: Request, status: int, why: str) -> Senseless:
    return Senseless(
        f"{address} does not answer as a scheduler would (status {status}): {why}",
        maybe_done=request.changes,
    )
