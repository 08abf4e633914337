"""A mixed load on a scheduler that keeps dying: clients that repeat what was not answered, and what
each of them may expect of its VMs afterwards.

Every name belongs to one client, so what was last acknowledged of it is known exactly. What no
answer may ever be is reported as it comes: a VM that was acknowledged and is unknown, a repeated
deploy that makes another one, a name that is taken after its removal was acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from benchmarks.crashclient import (
    PATIENCE_S,
    Answer,
    CutOff,
    Request,
    Shape,
    deploys,
    look,
    removals,
)

NAMES_PER_CLIENT = 4
PAUSE_S = 0.03
"""Before a request is repeated."""
STUCK_AFTER = 6
"""Where an older host may leave an outcome unknown for ever, clients are told so this often."""
GIVE_UP = 0.08
"""The part of the clients that leave off when they are cut off; the others repeat."""
TWICE = 0.15
"""The part of the requests that are made twice at once."""

_SHAPES = (
    Shape(1, 1, "2"),
    Shape(2, 1, "3"),
    Shape(1, 1, "3"),
    Shape(1, 1, "1"),
    Shape(2, 2, "2"),
    Shape(1, 1, "1.5"),
)


class Known(StrEnum):
    """What a client knows of a name between two requests."""

    NOWHERE = "nowhere"
    PLACED = "placed"
    REMOVING = "being removed"
    """Its removal was accepted."""
    UNSURE = "unsure"
    """The client left off before it had an answer, or asked for opposites at once."""


@dataclass(slots=True, eq=False)
class Tale:
    """A name, and all that happened to it."""

    name: str
    shape: Shape
    known: Known = Known.NOWHERE
    host: str = ""
    """Where it is placed, if an answer said so."""
    removal_asked: bool = False
    """Since it was last known to be placed."""
    busy: bool = False
    turns: int = 0
    """How often its client turned to it."""
    left: bool = False
    """Its client uses it no longer."""
    story: list[tuple[float, str]] = field(default_factory=list)
    """What was asked and answered, and when by the monotonic clock."""

    def tell(self, text: str) -> None:
        self.story.append((time.monotonic(), text))

    def become(self, known: Known, host: str = "") -> None:
        self.tell(f"so it is {known}{f' on {host}' if host else ''}")
        self.known, self.host = known, host


Trouble = Callable[[str, Tale], None]
"""Told what must not be, as a clause about the VM."""

Ask = Callable[[Tale, Request], Awaitable[Answer]]
"""Asks once, of whoever is to be asked; raises as :func:`benchmarks.crashclient.ask`."""


class Load:
    """Clients at work from :meth:`begin` until :meth:`finish`."""

    def __init__(
        self,
        ask: Ask,
        seed: str,
        clients: int,
        *,
        wrong: Trouble,
        older: bool = False,
        looks: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.tales: list[Tale] = []
        self.counts: Counter[str] = Counter()
        self.news = asyncio.Event()
        """Set whenever one of the counts rises."""
        self._ask = ask
        self._seed = seed
        self._clients = clients
        self._older = older
        """Whether some hosts know the published routes only."""
        self._looks = looks
        """Whether what is shown between two changes is what was acknowledged last: who does not
        lead may lag behind."""
        self._patience_s = patience_s
        self._wrong = wrong
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        for number in range(self._clients):
            rng = Random(f"{self._seed} client {number}")
            self._tasks.append(asyncio.create_task(self._client(number, rng)))

    async def finish(self) -> None:
        """Begin nothing new, and wait for what is under way."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_running(self) -> None:
        """Raise what ended a client."""
        for task in self._tasks:
            if task.done():
                task.result()

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        self.news.set()

    async def _client(self, number: int, rng: Random) -> None:
        mine: list[Tale] = []
        while not self._stopping:
            mine = [tale for tale in mine if not tale.left]
            while len(mine) < NAMES_PER_CLIENT:
                tale = Tale(f"c{number}-{len(self.tales)}", rng.choice(_SHAPES))
                mine.append(tale)
                self.tales.append(tale)
            tale = rng.choice(mine)
            tale.busy = True
            tale.turns += 1
            await self._act(tale, rng)
            tale.busy = False

    async def _act(self, tale: Tale, rng: Random) -> None:
        chance = rng.random()
        match tale.known:
            case Known.NOWHERE if chance < 0.1:
                await self._look(tale)
            case Known.NOWHERE if chance > 0.13:
                tale.shape = rng.choice(_SHAPES)
                await self._deploy(tale, rng)
            case Known.PLACED if chance < 0.2:
                await self._look(tale)
            case Known.PLACED if chance < 0.4:
                await self._repeat(tale, rng)
            case Known.PLACED if chance < 0.5:
                await self._deploy_another(tale, rng)
            case Known.NOWHERE | Known.PLACED if chance < 0.53:
                await self._race(tale, rng)
            case Known.REMOVING if chance < 0.3:
                await self._look(tale)
            case Known.REMOVING | Known.UNSURE if chance < 0.6:
                await self._deploy(tale, rng)
            case _:
                await self._remove(tale, rng)

    async def _deploy(self, tale: Tale, rng: Random) -> None:
        """One that is not known to be there."""
        before = tale.known
        answers = await self._once_or_twice(tale, rng, deploys(tale.name, tale.shape))
        placed = [each for each in answers if each is not None and each.success]
        if placed:
            self._count("deploys")
            tale.removal_asked = False
            tale.become(Known.PLACED, next((each.vm_host for each in placed if each.vm_host), ""))
            return
        after = Known.NOWHERE
        for answer in answers:
            if answer is None:
                after = Known.UNSURE
            elif answer.code == "name-taken" and tale.removal_asked:
                # it may be removed between two answers
                after = before if len(answers) == 1 else Known.UNSURE
            elif answer.code != "no-capacity":
                self._wrong(f"was {before}, and its deploy got {answer}", tale)
                after = Known.UNSURE
        if after is Known.NOWHERE:
            self._count("refused")
        tale.become(after)

    async def _repeat(self, tale: Tale, rng: Random) -> None:
        """The deploy of one that is there."""
        for answer in await self._once_or_twice(tale, rng, deploys(tale.name, tale.shape)):
            if answer is None:
                continue
            if answer.status != 200:
                self._wrong(f"was acknowledged, and its repeated deploy got {answer}", tale)
            self._note_host(tale, answer)
            self._count("repeats")

    async def _deploy_another(self, tale: Tale, rng: Random) -> None:
        """Under the name of one that is there."""
        other = Shape(tale.shape.vcpus + 1, tale.shape.memory_gb, tale.shape.level)
        for answer in await self._once_or_twice(tale, rng, deploys(tale.name, other)):
            if answer is not None and answer.code != "name-taken":
                self._wrong(f"was acknowledged, and a deploy of another got {answer}", tale)

    async def _remove(self, tale: Tale, rng: Random) -> None:
        before = tale.known
        tale.removal_asked = True
        answers = await self._once_or_twice(tale, rng, removals(tale.name))
        after = Known.UNSURE
        for answer in answers:
            if answer is None:
                continue
            unknown_vm = answer.code == "unknown-vm"
            if unknown_vm and before is Known.PLACED and len(answers) == 1 and not answer.doubt:
                self._wrong(f"was acknowledged, and its removal got {answer}", tale)
            if unknown_vm or (answer.success and answer.finished):
                after = Known.NOWHERE
            elif answer.success:
                after = Known.NOWHERE if after is Known.NOWHERE else Known.REMOVING
            else:
                self._wrong(f"was {before}, and its removal got {answer}", tale)
        if after is not Known.UNSURE:
            self._count("removes")
        if self._older and before is after is Known.REMOVING and rng.random() < 0.3:
            tale.left = True
        tale.become(after)

    async def _race(self, tale: Tale, rng: Random) -> None:
        """A deploy and a removal at once: anything may come of it."""
        tale.removal_asked = True
        deploy = rng.choice(deploys(tale.name, tale.shape))
        removal = rng.choice(removals(tale.name))
        await asyncio.gather(self._asked(tale, deploy, True), self._asked(tale, removal, True))
        tale.become(Known.UNSURE)

    async def _look(self, tale: Tale) -> None:
        answer = await self._asked(tale, look(tale.name), False)
        if answer is None or not self._looks:
            return
        match tale.known:
            case Known.PLACED if answer.vm_status != "placed":
                self._wrong(f"was acknowledged, and is shown as {answer}", tale)
            case Known.PLACED:
                self._note_host(tale, answer)
            case Known.NOWHERE if answer.status != 404:
                self._wrong(f"was refused or removed, and is shown as {answer}", tale)
            case Known.REMOVING if answer.status == 404:
                tale.become(Known.NOWHERE)
            case Known.REMOVING if answer.vm_status != "removing":
                self._wrong(f"was being removed, and is shown as {answer}", tale)

    def _note_host(self, tale: Tale, answer: Answer) -> None:
        if tale.host and answer.vm_host and answer.vm_host != tale.host:
            self._wrong(f"was on host {tale.host}, and is shown on {answer.vm_host}", tale)
        tale.host = answer.vm_host or tale.host

    async def _once_or_twice(
        self, tale: Tale, rng: Random, ways: tuple[Request, ...]
    ) -> list[Answer | None]:
        """The same request, by one route or by any two at once."""
        times = 2 if rng.random() < TWICE else 1
        leave_off = rng.random() < GIVE_UP
        chosen = [rng.choice(ways) for _ in range(times)]
        return list(await asyncio.gather(*[self._asked(tale, each, leave_off) for each in chosen]))

    async def _asked(self, tale: Tale, request: Request, leave_off: bool) -> Answer | None:
        """What *request* is answered at last, repeated as users are told to; None if the client
        left off, because it was cut off or because nobody will ever know."""
        deadline_s = time.monotonic() + self._patience_s
        doubt, unknown = False, 0
        while time.monotonic() < deadline_s:
            self._count("sent")
            begun_s = time.monotonic()
            try:
                answer = await self._ask(tale, request)
            except ConnectionRefusedError:
                await asyncio.sleep(PAUSE_S)
                continue
            except CutOff as problem:
                tale.story.append((begun_s, f"asks {request}"))
                tale.tell(f"is cut off: {problem}")
                doubt = True
                if leave_off:
                    return None
                await asyncio.sleep(PAUSE_S)
                continue
            tale.story.append((begun_s, f"asks {request}"))
            tale.tell(f"gets {answer}")
            self._count("answered")
            if not answer.later:
                return Answer(request, answer.status, answer.document, doubt)
            doubt = doubt or answer.unknown or answer.code == "host-unreachable"
            if answer.unknown:
                unknown += 1
                self._count("unknown")
                if self._older and unknown >= STUCK_AFTER:
                    tale.left = True
                    return None
            await asyncio.sleep(PAUSE_S)
        waited = f"got no answer to go by for {self._patience_s:g} s"
        self._wrong(f"was {tale.known}, and {request} {waited}", tale)
        tale.left = True
        return None
