"""Policies by the names users write: one of the global scheduler's, with moves or without."""

from __future__ import annotations

from clustersim.engine import Strategy
from clustersim.rebalancing import REBALANCERS
from schedulerglobal.core.policies import POLICIES

DEDICATED = "dedicated"
"""One cluster for each level, first-fit."""
FIRST_FIT = "first-fit"
DEFAULT = (DEDICATED, FIRST_FIT, "best-fit", "progress", "product", "tight")
"""What is compared unless asked otherwise."""


def default_policies() -> tuple[str, ...]:
    return tuple(name for name in DEFAULT if name == DEDICATED or name in POLICIES)


def parse_policies(text: str) -> tuple[str, ...]:
    """The names in *text*, parted by commas; raises ValueError with a sentence."""
    names = tuple(text.split(","))
    for name in names:
        check_policy(name)
        if names.count(name) > 1:
            raise ValueError(f"policy {name!r} is given twice; give it once")
    return names


def check_policy(text: str) -> None:
    """Raises ValueError with a sentence that lists the policies there are."""
    parse_strategy(text, f"{DEDICATED}, ")


def strategy_of_a_level(text: str) -> Strategy | None:
    """What ``dedicated`` does in the cluster of each level; None if *text* is another policy."""
    name, plus, moves = text.partition("+")
    return parse_strategy(FIRST_FIT + plus + moves) if name == DEDICATED else None


def parse_strategy(text: str, others: str = "") -> Strategy:
    """The policy called *text*, alone or with ``+`` and a kind of moves behind it.

    Raises ValueError with a sentence that lists those there are, *others* first.
    """
    name, plus, moves = text.partition("+")
    known = POLICIES.get(FIRST_FIT if others and name == DEDICATED else name)
    if known is not None and (not plus or moves in REBALANCERS):
        return Strategy(text, known, REBALANCERS[moves] if plus else None)
    with_moves = "".join(f", +{kind}" for kind in REBALANCERS)
    ends = f", each also with {with_moves[2:]} behind it" if REBALANCERS else ""
    raise ValueError(
        f"there is no policy {text[:40]!r}; choose of {others}{', '.join(POLICIES)}{ends}"
    )
