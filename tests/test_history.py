"""The model that fifty clients are held against: what it explains, and what it does not."""

from __future__ import annotations

import pytest

from tests.history import Request, Room, Size, Told, Unexplained, explain

ROOM = Room(cpus=8, memory_mib=32_768)


def chronicle(*told: tuple[Request, str, int, int]) -> list[Told]:
    return [Told(*each) for each in told]


SMALL, OTHER = Size(1, 1024, "1.0"), Size(3, 2048, "1.0")
DEPLOY, REMOVE = Request("deploy", "a", SMALL, request_id="a-0"), Request("remove", "a")
CANCEL, SUSPEND = Request("cancel", "a", request_id="a-0"), Request("suspend", "a")
SEEN, RESIZE = Request("seen", "a"), Request("resize", "a", vcpus=2)
DIFFERENT = Request("deploy", "a", OTHER)
ANEW = Request("deploy", "a", SMALL, request_id="a-1")
IMPOSSIBLE = {
    "created twice": [(DEPLOY, "created", 0, 9), (DEPLOY, "created", 1, 8)],
    "there before": [(DEPLOY, "same", 0, 1), (DEPLOY, "created", 2, 3)],
    "removed twice": [
        (DEPLOY, "created", 0, 1),
        (REMOVE, "done", 2, 9),
        (REMOVE, "done", 3, 8),
    ],
    "gone and seen": [
        (DEPLOY, "created", 0, 1),
        (REMOVE, "done", 2, 3),
        (SEEN, "there", 4, 5),
    ],
    "taken by nobody": [(DIFFERENT, "name-taken", 0, 1), (DEPLOY, "created", 2, 3)],
    "refused though not cancelled": [
        (DEPLOY, "request-cancelled", 0, 1),
        (CANCEL, "cancelled", 2, 3),
    ],
    "created though cancelled": [(CANCEL, "cancelled", 0, 1), (DEPLOY, "created", 2, 3)],
    "created though removed": [
        (DEPLOY, "created", 0, 1),
        (REMOVE, "done", 2, 3),
        (DEPLOY, "created", 4, 5),
    ],
    "refused as removed though there": [
        (DEPLOY, "created", 0, 1),
        (DEPLOY, "request-cancelled", 2, 3),
    ],
    "cancelled though there": [(DEPLOY, "created", 0, 1), (CANCEL, "cancelled", 2, 3)],
    "suspended while suspended": [
        (DEPLOY, "created", 0, 1),
        (SUSPEND, "suspended", 2, 9),
        (SUSPEND, "suspended", 3, 8),
    ],
    "not resized": [
        (DEPLOY, "created", 0, 1),
        (RESIZE, "done", 2, 3),
        (DEPLOY, "same", 4, 5),
    ],
    "a mistake of ours": [(DEPLOY, "failed", 0, 1)],
    "room for it": [(DEPLOY, "no-capacity", 0, 1)],
    "room for more": [(DEPLOY, "created", 0, 1), (RESIZE, "no-capacity", 2, 3)],
    "room again": [
        (Request("deploy", "b", Size(8, 1024, "1.0")), "created", 0, 1),
        (Request("remove", "b"), "done", 2, 3),
        (DEPLOY, "no-capacity", 4, 5),
    ],
}


@pytest.mark.parametrize("told", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_the_model_does_not_explain_everything(told: list[tuple[Request, str, int, int]]) -> None:
    with pytest.raises(Unexplained):
        explain(chronicle(*told), ROOM)


EITHER = Request("deploy", "a", SMALL, published=True)
POSSIBLE = {
    "removed between": [
        (DEPLOY, "created", 0, 9),
        (REMOVE, "done", 1, 8),
        (ANEW, "created", 2, 7),
    ],
    "removed before it came again": [
        (DEPLOY, "created", 0, 9),
        (REMOVE, "done", 1, 8),
        (DEPLOY, "request-cancelled", 2, 7),
    ],
    "name of one under way": [(DEPLOY, "hypervisor-failed", 0, 9), (DIFFERENT, "name-taken", 1, 2)],
    "one order of two": [
        (EITHER, "done", 0, 1),
        (REMOVE, "done", 2, 9),
        (EITHER, "done", 3, 10),
        (SEEN, "there", 11, 12),
    ],
    "full for a moment": [
        (Request("deploy", "b", Size(8, 1024, "1.0")), "created", 0, 1),
        (Request("remove", "b"), "done", 2, 5),
        (DEPLOY, "no-capacity", 4, 6),
    ],
}


@pytest.mark.parametrize("told", POSSIBLE.values(), ids=POSSIBLE)
def test_the_model_explains_what_can_be(told: list[tuple[Request, str, int, int]]) -> None:
    explain(chronicle(*told), ROOM)
