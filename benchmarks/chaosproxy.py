"""Proxies that stand between the parts of a cluster and do to their traffic what networks do.

One knows nothing of what it passes on, and stands before PostgreSQL. The other understands as much
of HTTP as it takes to lose, keep back, double and break off requests and answers, and stands before
a local scheduler.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from enum import StrEnum
from random import Random
from typing import Any

CHUNK = 65_536
_NO_BODY = (b"204", b"304")


class Wire(StrEnum):
    """What becomes of some of the requests to a host."""

    DELAYED = "keeps requests back, and delivers them though the client may be gone"
    DROPPED = "loses requests or their answers"
    DOUBLED = "delivers requests twice, one after the other or at once"
    HALF_CLOSED = "closes one direction in the middle of a request or of its answer"


class Proxy(ABC):
    """Listens on a port of its own; to be closed."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Of whom it stands before."""
        self.url = ""
        self.own_port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, own_port: int) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", own_port)
        self.own_port = own_port
        self.url = f"http://127.0.0.1:{own_port}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @abstractmethod
    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begin(self._served(reader, writer))

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # either end broke it off, and so do we
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.add(writer)
        return reader, writer

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()


class StreamProxy(Proxy):
    """Passes bytes on, late or not at all."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.delay_s = 0.0
        """Of everything, in each direction."""
        self._flowing = asyncio.Event()
        self._flowing.set()

    def hold(self) -> None:
        """Pass nothing on, and close nothing, until told to flow."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        theirs, ours = await self._connected()
        try:
            pumps = (self._begin(self._pump(reader, ours)), self._begin(self._pump(theirs, writer)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        finally:
            self._end(ours)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # broken off by either end


class HostProxy(Proxy):
    """Passes requests on one by one, and harms those that *rng* chooses."""

    def __init__(self, port: int, rng: Random) -> None:
        super().__init__(port)
        self.wire: Wire | None = None
        self.harmed = 0
        """Requests so far."""
        self._rng = rng

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await self._connected()
        try:
            while True:
                request = await _message(reader)
                wire, chance, long_s = self.wire, self._rng.random(), self._rng.uniform(0.05, 2.0)
                if wire is None or self._rng.random() < 0.4:
                    ours.write(request)
                    writer.write(await _message(theirs))
                    continue
                self.harmed += 1
                # whether or not the client waits for it, or is there at all
                harm = self._begin(self._harm(wire, chance, long_s, request, writer))
                await asyncio.shield(harm)
        finally:
            self._end(ours)

    async def _harm(
        self,
        wire: Wire,
        chance: float,
        long_s: float,
        request: bytes,
        client: asyncio.StreamWriter,
    ) -> None:
        match wire:
            case Wire.DELAYED:
                await asyncio.sleep(long_s)
                _answer(client, await self._delivered(request))
            case Wire.DROPPED:
                if chance < 0.5:
                    await self._delivered(request)
                await asyncio.sleep(long_s)
                client.transport.abort()
            case Wire.DOUBLED if chance < 0.5:
                await self._delivered(request)
                _answer(client, await self._delivered(request))
            case Wire.DOUBLED:
                both = (self._delivered(request), self._delivered(request))
                _answer(client, (await asyncio.gather(*both))[0])
            case Wire.HALF_CLOSED if chance < 0.3:
                # the client may send, and hears nothing more
                client.write_eof()
                await self._delivered(request)
            case Wire.HALF_CLOSED if chance < 0.6:
                answer = await self._delivered(request)
                client.write(answer[: int(len(answer) * long_s / 2)])
                client.write_eof()
                await asyncio.sleep(long_s)
            case Wire.HALF_CLOSED:
                _answer(client, await self._delivered(request, half_close=True))

    async def _delivered(self, request: bytes, *, half_close: bool = False) -> bytes:
        """The answer to *request* on a connection of its own; nothing if there is none."""
        try:
            reader, writer = await self._connected()
            try:
                writer.write(request)
                if half_close:
                    writer.write_eof()
                return await _message(reader)
            finally:
                self._end(writer)
        except (OSError, asyncio.IncompleteReadError):
            return b""


def _answer(client: asyncio.StreamWriter, answer: bytes) -> None:
    if answer:
        client.write(answer)
    else:
        client.transport.abort()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """The next request or answer, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    if not length or head.split(b" ", 2)[1] in _NO_BODY:
        return head
    return head + await reader.readexactly(int(length))
