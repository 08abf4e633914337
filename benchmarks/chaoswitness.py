"""What is seen of a cluster while everything happens to it: each request and its answer, what
befell it and when, and what must not be."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from benchmarks.chaoscluster import Node
from benchmarks.chaosplan import Plan
from benchmarks.crashcheck import Finding
from benchmarks.crashclient import Answer, Request, ask
from benchmarks.crashcluster import Row
from benchmarks.crashload import Tale

SETTLE_S = 45.0
"""Within this all is well again."""
TOLD = 60
"""Lines of a story."""

_CHANGES = ("/deploy?", "/remove?")


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of one request."""

    node: str
    request: Request
    sent_s: float
    took_s: float
    status: int
    """0 if there was no answer."""
    code: str

    @property
    def change(self) -> bool:
        return self.request.method != "GET" or self.request.target.startswith(_CHANGES)

    @property
    def failed(self) -> bool:
        """Whether it is no answer, or one that says that something is out of order."""
        return not 200 <= self.status < 500

    @property
    def acknowledged(self) -> bool:
        """Whether the answer says that something was changed, and not only that it is so."""
        match self.request.method:
            case "POST":
                return self.status == 201
            case "DELETE":
                return self.status in (200, 202)
        return False


@dataclass(slots=True)
class Result:
    counts: Counter[str] = field(default_factory=Counter)
    names: int = 0
    harmed: int = 0
    """Requests to hosts that a proxy did something to."""
    took_over_s: list[float] = field(default_factory=list)
    """From each kill of the leader to the first change another acknowledged."""
    away: list[Heard] = field(default_factory=list)
    """What was asked while PostgreSQL was away for long."""
    back_s: list[float] = field(default_factory=list)
    """From PostgreSQL's return to the first change that was acknowledged."""
    resumed: int = 0
    """Leaders that were stopped past their lease and went on, and changed nothing."""
    violations: list[str] = field(default_factory=list)


class Witness:
    """Of one run."""

    def __init__(self, plan: Plan, nodes: Sequence[Node], progress: Callable[[str], None]) -> None:
        self.result = Result()
        self.heard: list[Heard] = []
        self.tales: Sequence[Tale] = ()
        self.history: Sequence[Row] = ()
        self.round = 0
        self._seed = plan.seed
        self._answer_s = plan.answer_s
        self._nodes = nodes
        self._progress = progress
        self._doors: dict[str, Random] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._asking = 0
        self._idle = asyncio.Event()
        self._begun_s = time.monotonic()
        self._happened: list[tuple[float, str]] = []

    async def asked(self, tale: Tale, request: Request) -> Answer:
        """By any of the global schedulers: which, is a matter of the seed too."""
        door = self._doors.setdefault(tale.name, Random(f"{self._seed} {tale.name}"))
        node = door.choice(self._nodes)
        await self._open.wait()
        self._asking += 1
        try:
            return await self.ask(node, request)
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()

    async def ask(self, node: Node, request: Request) -> Answer:
        """Raises as :func:`benchmarks.crashclient.ask`."""
        sent_s = time.monotonic()
        status, code = 0, ""
        try:
            answer = await ask(node.port, request, self._answer_s)
            status, code = answer.status, answer.code
            return answer
        finally:
            took_s = time.monotonic() - sent_s
            self.heard.append(Heard(node.name, request, sent_s, took_s, status, code))

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """Clients ask nothing until the end of the block, and have all been answered."""
        self._open.clear()
        try:
            while self._asking:
                self._idle.clear()
                await self._idle.wait()
            yield
        finally:
            self._open.set()

    async def acknowledged_after(self, moment_s: float) -> float:
        """How long after *moment_s* the first change was acknowledged that was asked later."""
        begun_s = time.monotonic()
        place = 0
        while True:
            for each in self.heard[place:]:
                if each.acknowledged and each.sent_s > moment_s:
                    return each.sent_s + each.took_s - moment_s
            place = len(self.heard)
            if time.monotonic() > begun_s + SETTLE_S:
                self.violated(("", f"nothing was acknowledged for {SETTLE_S:g} s"))
                return SETTLE_S
            await asyncio.sleep(0.005)

    def note(self, text: str) -> None:
        self._happened.append((time.monotonic(), text))
        self._progress(text)

    def violated(self, *findings: Finding) -> None:
        tales = {tale.name: tale for tale in self.tales}
        for name, clause in findings:
            where = f"seed {self._seed}, round {self.round}"
            lines = [f"{where}: {name} {clause}".replace(":  ", ": ")]
            lines += self._story(tales.get(name))
            lines += [f"  kept: {row}" for row in self.history if row.name == name]
            self.result.violations.append("\n".join(lines))

    def _story(self, tale: Tale | None) -> Iterable[str]:
        story = sorted([*self._happened, *(tale.story if tale is not None else [])])
        # who repeats a request is told the same again and again
        told = [
            (at_s, text)
            for (at_s, text), (_, before) in zip(story, [(0.0, "")] * 2 + story, strict=False)
            if text != before
        ]
        return [f"  {at_s - self._begun_s:8.3f} s  {text}" for at_s, text in told[-TOLD:]]
