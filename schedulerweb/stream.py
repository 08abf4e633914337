"""Server-sent events: what happens, as it happens, for as long as the client listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from schedulercommon.errors import BadRequest, Overloaded

MOST_STREAMS = 64
_PULSE_S = 15.0


@dataclass(frozen=True, slots=True)
class Message:
    """One event as it goes over the wire."""

    sequence: int
    kind: str
    data: dict[str, Any]


class Streams:
    """The open event streams of a service; they end when it does."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    async def end(self, _: web.Application) -> None:
        """For the application's ``on_shutdown``."""
        for task in self._open:
            task.cancel()

    async def follow(
        self, request: web.Request, messages: AsyncIterator[Message]
    ) -> web.StreamResponse:
        """Answer *request* with *messages*, and a comment now and then to keep the line open."""
        if len(self._open) >= MOST_STREAMS:
            raise Overloaded(f"{MOST_STREAMS} listeners are here already; try again later")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "Server": "VMStack",
            }
        )
        task = asyncio.create_task(_send(request, response, messages))
        self._open.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._open.discard(task)
            task.cancel()
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not isinstance(problem, ConnectionError):
            raise problem  # a client that left is no problem
        return response


async def _send(
    request: web.Request, response: web.StreamResponse, messages: AsyncIterator[Message]
) -> None:
    await response.prepare(request)
    await response.write(b": listening\n\n")
    coming: asyncio.Future[Message] = asyncio.ensure_future(anext(messages))
    try:
        while True:
            await asyncio.wait({coming}, timeout=_PULSE_S)
            if coming.done():
                await response.write(_text(coming.result()))
                coming = asyncio.ensure_future(anext(messages))
            else:
                await response.write(b":\n\n")
    finally:
        coming.cancel()


def _text(message: Message) -> bytes:
    data = json.dumps(message.data, default=str)
    return f"id: {message.sequence}\nevent: {message.kind}\ndata: {data}\n\n".encode()


def last_event_id(request: web.Request) -> int | None:
    """The event after which the client wants to go on; None for from now on."""
    text = request.headers.get("Last-Event-ID")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("Last-Event-ID is not the id of an event; send one received before")
    return int(text)
