"""A wire to PostgreSQL that can be cut, held, and made to say something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

PIECE = 65_536


def as_it_is(said: bytes) -> bytes:
    return said


class Wire:
    """What lies between a scheduler and its database."""

    def __init__(self, port: int, rewrite: Callable[[bytes], bytes]) -> None:
        self._to = port
        self._rewrite = rewrite
        """Of what the server says."""
        self._gate = _open()
        self._stranded: list[asyncio.Event] = []
        self._lines: set[asyncio.StreamWriter] = set()
        self._cut = False
        self.port = 0

    def hold(self) -> None:
        """Nothing passes, and nobody is told: a partition."""
        self._gate.clear()

    def strand(self) -> None:
        """The same for the connections there are; those that come pass."""
        self._gate.clear()
        self._stranded.append(self._gate)
        self._gate = _open()

    def let_go(self) -> None:
        """What was held back passes, late; so does what comes now."""
        for gate in (self._gate, *self._stranded):
            gate.set()
        self._cut = False

    def cut(self) -> None:
        """Break the connections there are, and any that comes."""
        self._cut = True
        for line in self._lines:
            line.transport.abort()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        both, gate = {writer, to_server}, self._gate
        self._lines |= both
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pass(reader, to_server, gate, as_it_is))
                ways.create_task(_pass(server, writer, gate, self._rewrite))
        finally:
            self._lines -= both
            for line in both:
                line.transport.abort()


def _open() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    gate: asyncio.Event,
    rewrite: Callable[[bytes], bytes],
) -> None:
    with suppress(OSError):
        while said := await reader.read(PIECE):
            await gate.wait()
            writer.write(rewrite(said))
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def wire(
    url: str, rewrite: Callable[[bytes], bytes] = as_it_is
) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the database at *url*, and its address over that wire."""
    port = urlsplit(url).port
    assert port is not None
    through = Wire(port, rewrite)
    server = await asyncio.start_server(through.meet, "127.0.0.1", 0)
    through.port = server.sockets[0].getsockname()[1]
    try:
        yield through, url.replace(f":{port}/", f":{through.port}/")
    finally:
        server.close()
        through.let_go()
        through.cut()
        await asyncio.sleep(0)
