"""The parts that ``make test`` takes the tests in: two beside each other, then one by itself.

``watched`` has those that reach the decisions, whose branches are watched; ``beside`` those that
boot guests, which wait most of the time, and those that only make use of decisions, in great number
or in processes of their own: watching them would double their time, and a branch taken by the way
is not one that was tested. ``alone`` has those that measure. Without ``--part`` there is one
process for all, those that boot guests after the others and those that measure last.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

WATCHED, BESIDE, ALONE = PARTS = ("watched", "beside", "alone")

_UNWATCHED = (
    *("test_api_contract", "test_client", "test_clustersim", "test_concurrency", "test_crashes"),
    *("test_global_contract", "test_global_crashes", "test_parts", "test_replay"),
)
_FAILED = "cache/lastfailed"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=PARTS, help="run one part of the tests; see tests/parts.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file with nothing for this part is not read, which for the last would take longer than to
    run it."""
    if not collection_path.name.startswith("test_"):
        return None
    match config.getoption("--part"):
        case "watched" if collection_path.name.startswith(_UNWATCHED):
            return True
        case "alone" if "mark.alone" not in collection_path.read_text(encoding="utf-8"):
            return True
    return None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if {"lab", "shared_lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("real")
        if part_of(item) != WATCHED:
            item.add_marker("no_cover")
    items.sort(key=lambda item: (_has(item, "alone"), _has(item, "real")))
    if part := config.getoption("--part"):
        others = [item for item in items if part_of(item) != part]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if part_of(item) == part]


def part_of(item: pytest.Item) -> str:
    if _has(item, "alone"):
        return ALONE
    unwatched = _has(item, "real") or item.path.name.startswith(_UNWATCHED)
    return BESIDE if unwatched else WATCHED


def _has(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Have ``--lf`` know what failed in every part: each tells of its own, whoever ends last."""
    cache = getattr(session.config, "cache", None)  # -p no:cacheprovider
    if cache is None or not session.config.getoption("--part"):
        return (yield)
    ours = {item.nodeid for item in getattr(session, "items", ())}
    others = [each for each in cache.get(_FAILED, {}) if each not in ours]
    outcome = yield
    # a file that could not be read is everybody's
    failed = [each for each in cache.get(_FAILED, {}) if each in ours or "::" not in each]
    cache.set(_FAILED, dict.fromkeys([*others, *failed], True))
    return outcome
