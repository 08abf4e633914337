"""The end of a guest's console: how much of it is asked for, and the answer that shows it.

It is text; a program that asks for JSON gets a document with the text in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from schedulerweb.answers import answer, json_bytes
from schedulerweb.query import read_count, read_parameters

MOST_BYTES = 1 << 19
MOST_LINES = 10_000
USUAL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Tail:
    """How much of the end: no more than so many bytes, and of these so many lines."""

    most_bytes: int = USUAL_BYTES
    lines: int | None = None
    """None: all of them, the first perhaps not from its beginning."""

    @property
    def query(self) -> str:
        lines = "" if self.lines is None else f"&lines={self.lines}"
        return f"bytes={self.most_bytes}{lines}"

    def of(self, text: bytes) -> bytes:
        text = text[-self.most_bytes :]
        if self.lines is None:
            return text
        lines = text.splitlines(keepends=True)
        return b"".join(lines[-self.lines :])


def read_tail(request: web.Request) -> Tail:
    """What ``?lines=&bytes=`` asks for; by itself ``lines`` may take as many bytes as there are."""
    found = read_parameters(request, (), ("lines", "bytes"))
    lines = read_count("lines", found["lines"], MOST_LINES) if "lines" in found else None
    usual = USUAL_BYTES if lines is None else MOST_BYTES
    most = read_count("bytes", found["bytes"], MOST_BYTES) if "bytes" in found else usual
    return Tail(most, lines)


def console_answer(request: web.Request, name: str, text: str) -> web.Response:
    if "application/json" in request.headers.get("Accept", ""):
        return answer(json_bytes({"name": name, "console": text}))
    # what it says is the guest's: it may hold anything, and is never a page
    return answer(text.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})
