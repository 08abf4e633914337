"""Policies by the names users write: one of the global scheduler's, with moves or without."""

from __future__ import annotations

from collections.abc import Mapping

from clustersim.engine import Strategy
from clustersim.rebalancing import REBALANCERS
from schedulerglobal.core.policies import POLICIES, Policy

DEDICATED = "dedicated"
"""One cluster for each level, first-fit."""
DEFAULT: tuple[str, ...] = (DEDICATED, "first-fit", "best-fit", "progress", "product", "tight")
"""What is compared unless asked otherwise."""

_APART = {DEDICATED: POLICIES["first-fit"]}


def parse_policies(text: str) -> tuple[str, ...]:
    """The names in *text*, parted by commas; raises ValueError with a sentence."""
    names = tuple(text.split(","))
    for name in names:
        _parse(name, {**_APART, **POLICIES})
        if names.count(name) > 1:
            raise ValueError(f"policy {name!r} is given twice; give it once")
    return names


def strategy_of_a_level(text: str) -> Strategy | None:
    """What ``dedicated`` does in the cluster of each level; None if *text* is another policy."""
    return _parse(text, _APART) if text.partition("+")[0] == DEDICATED else None


def parse_strategy(text: str) -> Strategy:
    """The policy called *text*, alone or with ``+`` and a kind of moves behind it, for hosts that
    levels share. Raises ValueError with a sentence that lists those there are."""
    return _parse(text, POLICIES)


def _parse(text: str, policies: Mapping[str, Policy]) -> Strategy:
    name, plus, moves = text.partition("+")
    if name in policies and (not plus or moves in REBALANCERS):
        return Strategy(text, policies[name], REBALANCERS[moves] if plus else None)
    kinds = ", ".join(f"+{kind}" for kind in REBALANCERS)
    raise ValueError(
        f"there is no policy {text[:40]!r}; choose of {', '.join(policies)}, each also with {kinds}"
        " behind it"
    )
