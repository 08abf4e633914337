"""Events that only tell of what we do ourselves, told from those that tell of somebody else."""

from __future__ import annotations

import pytest

from schedulerlocal.adapters.echoes import MAKING, REMOVING, Echoes, Event

DEFINED, RESUMED, STARTED = (0, 0), (4, 0), (2, 0)
REDEFINED, SUSPENDED, CRASHED = (0, 1), (3, 0), (5, 5)
STOPPED, UNDEFINED = (5, 1), (1, 0)


@pytest.mark.parametrize(
    ("due", "come", "heard"),
    [
        (MAKING, [DEFINED, RESUMED, STARTED], []),
        (MAKING, [DEFINED, STARTED], []),
        (REMOVING, [STOPPED, UNDEFINED], []),
        (REMOVING, [UNDEFINED], []),
        (MAKING, [DEFINED, RESUMED, STARTED, STARTED], [STARTED]),
        (MAKING, [DEFINED, STARTED, SUSPENDED, RESUMED], [SUSPENDED, RESUMED]),
        (MAKING, [DEFINED, REDEFINED, STARTED], [REDEFINED, STARTED]),
        (MAKING, [DEFINED, CRASHED, STARTED], [CRASHED, STARTED]),
        (REMOVING, [STOPPED, UNDEFINED, DEFINED], [DEFINED]),
        (REMOVING, [STARTED, STOPPED], [STARTED, STOPPED]),
    ],
    ids=[
        "made",
        "made, where nobody tells of resuming",
        "removed",
        "removed while off",
        "started again",
        "suspended and resumed",
        "defined anew meanwhile",
        "crashed meanwhile",
        "made again",
        "started meanwhile",
    ],
)
def test_only_what_somebody_else_did_is_heard(
    due: list[Event], come: list[Event], heard: list[Event]
) -> None:
    echoes = Echoes()
    with echoes.of("vm", due):
        assert [each for each in come if not echoes.is_one("vm", each)] == heard


def test_everything_is_heard_of_other_vms() -> None:
    echoes = Echoes()
    with echoes.of("vm", MAKING):
        assert not echoes.is_one("other", DEFINED)


def test_what_comes_of_a_call_that_failed_is_heard() -> None:
    echoes = Echoes()
    with pytest.raises(ValueError, match="failed"), echoes.of("vm", MAKING):
        raise ValueError("failed")
    assert not echoes.is_one("vm", DEFINED)
    with echoes.of("vm", MAKING):
        echoes.doubt("vm")
    assert not echoes.is_one("vm", DEFINED)


def test_echoes_may_come_late() -> None:
    echoes = Echoes()
    with echoes.of("vm", MAKING):
        pass
    assert all(echoes.is_one("vm", event) for event in (DEFINED, RESUMED, STARTED))
