"""Broken HTTP, bodies and connections: answered in JSON as far as anybody listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schedulerweb.server import MOST_CONNECTIONS
from tests.webrig import PLAIN, Web, running

BAD, LARGE = (400, "bad-request"), (413, "too-large")
LIMIT = 64 * 1024


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as running_web:
        yield running_web


async def unharmed(web: Web) -> None:
    assert (await web.get("/listvm")).json == []
    assert (await web.deploy("after")).status == 201


def post(body: bytes, *lines: str, length: int | None = None) -> bytes:
    head = "\r\n".join(["POST /v1/vms HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *lines])
    size = len(body) if length is None else length
    return f"{head}\r\nContent-Length: {size}\r\n\r\n".encode() + body


def chunked(*chunks: bytes) -> bytes:
    head = b"POST /v1/vms HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


WHOLE = json.dumps(PLAIN).encode()

MALFORMED: dict[str, tuple[bytes, tuple[int, str]]] = {
    "not HTTP": (b"hello\r\n\r\n", BAD),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", BAD),
    "wrong version": (b"GET /status HTTP/9.9\r\nHost: x\r\n\r\n", BAD),
    "unknown method": (b"JUMP / HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    "blank in the path": (b"GET /sta tus HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    "NUL in the path": (b"GET /sta\0tus HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    "no path": (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    "relative path": (b"GET status HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    "no host": (b"GET /status HTTP/1.1\r\n\r\n", BAD),
    "header without colon": (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", BAD),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n", BAD),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", BAD),
    "two lengths": (post(WHOLE, "Content-Length: 3"), BAD),
    "negative length": (post(WHOLE, length=-5), BAD),
    "length no number": (b"POST /v1/vms HTTP/1.1\r\nContent-Length: x\r\n\r\n", BAD),
    "length and chunks": (post(WHOLE, "Transfer-Encoding: chunked"), BAD),
    "broken chunk": (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), BAD),
    "unknown expectation": (post(WHOLE, "Expect: tea"), BAD),
    "unknown expectation elsewhere": (b"GET /x HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", BAD),
    "CONNECT": (b"CONNECT host:80 HTTP/1.1\r\nHost: [::1]\r\n\r\n", (404, "not-found")),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", (404, "not-found")),
    "not UTF-8": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    "percent garbage": (b"GET /%zz%ff HTTP/1.1\r\nHost: x\r\n\r\n", (404, "not-found")),
    "10 kB request line": (b"GET /status?" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", BAD),
    "10 kB path": (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (404, "not-found")),
    "100 kB request line": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", LARGE),
    "100 kB header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", LARGE),
    "1000 headers": (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 1000 + b"\r\n", BAD),
    "no JSON": (post(b"name=one"), BAD),
    "empty body": (post(b""), BAD),
    "a list": (post(b"[]"), BAD),
    "a number": (post(b"7"), BAD),
    "null": (post(b"null"), BAD),
    "cut-off JSON": (post(WHOLE[:-1]), BAD),
    "two documents": (post(WHOLE + WHOLE), BAD),
    "NaN": (post(WHOLE.replace(b'"2"', b"NaN")), BAD),
    "Infinity": (post(WHOLE.replace(b'"2"', b"-Infinity")), BAD),
    "10 000 digits": (post(WHOLE.replace(b"1024", b"1" * 10_000)), BAD),
    "exponent": (post(WHOLE.replace(b"1024", b"1e999999999")), BAD),
    "exponent out of all bounds": (post(WHOLE.replace(b"1024", b"1e99999999999999999999")), BAD),
    "tiny exponent": (post(WHOLE.replace(b'"2"', b"1e-999999999")), BAD),
    "field twice": (post(WHOLE[:-1] + b', "name": "two"}'), BAD),
    "deep": (post(b"[" * 60_000), BAD),
    "deep objects": (post(b'{"a":' * 10_000), BAD),
    "UTF-16": (post(WHOLE.decode().encode("utf-16")), BAD),
    "Latin-1": (post('{"name": "é"}'.encode("latin-1")), BAD),
    "NUL in the body": (post(b"\0" * 10), BAD),
    "compressed": (post(b"\x1f\x8b\x08", "Content-Encoding: gzip"), BAD),
    "too large": (post(b" " * (LIMIT + 1)), LARGE),
    "said to be too large": (post(b"", length=10**12), LARGE),
    "too many chunks": (chunked(*[b"1000\r\n" + b" " * 0x1000 + b"\r\n"] * 17), LARGE),
    "large and expected": (post(b"", "Expect: 100-continue", length=10**9), LARGE),
}


@pytest.mark.parametrize(("raw", "refusal"), MALFORMED.values(), ids=MALFORMED)
async def test_what_cannot_be_read(web: Web, raw: bytes, refusal: tuple[int, str]) -> None:
    assert (await web.say(raw)).refusal == refusal
    await unharmed(web)


CUT_OFF = {
    "body": post(WHOLE[:20], length=len(WHOLE)),
    "no body": post(b"", length=10),
    "within a chunk": chunked(b"50\r\n{"),
    "between chunks": chunked(b"1\r\n{\r\n"),
}


@pytest.mark.parametrize("raw", CUT_OFF.values(), ids=CUT_OFF)
async def test_a_body_cut_off_is_told_so(web: Web, raw: bytes) -> None:
    assert (await web.say(raw, half_close=True)).refusal == BAD
    await unharmed(web)


async def test_who_stops_sending_still_gets_the_answer(web: Web) -> None:
    answer = await web.say(post(WHOLE), half_close=True)
    assert (answer.status, answer.json["name"]) == (201, "one")


@pytest.mark.parametrize("raw", [b"GET /sta", post(WHOLE[:20], length=len(WHOLE))])
async def test_who_hangs_up_does_no_harm(web: Web, raw: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(raw)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await unharmed(web)


async def test_requests_may_follow_each_other_at_once(web: Web) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(one * 9 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    answers = await reader.read(-1)
    writer.close()
    assert answers.count(b"HTTP/1.1 200 OK") == 10


async def test_numbers_may_be_whole_in_other_words(web: Web) -> None:
    body = WHOLE.replace(b"1024", b"1024.0").replace(b'"2"', b"1.10")
    answer = await web.say(post(body))
    assert answer.status == 201, answer.body
    assert (answer.json["memory_mib"], answer.json["level"]) == (1024, "1.1")


async def test_too_many_connections_are_told_so(web: Web) -> None:
    streams = [
        await asyncio.open_connection("127.0.0.1", web.port) for _ in range(MOST_CONNECTIONS)
    ]
    try:
        answer = await web.get("/healthz")
        assert answer.refusal == (503, "overloaded")
    finally:
        for _, writer in streams:
            writer.close()
        for _, writer in streams:
            await writer.wait_closed()
    await unharmed(web)
