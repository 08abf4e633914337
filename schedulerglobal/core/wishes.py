"""What a request wishes of its host, worked out to rows of the view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wishes:
    """Where a VM may go. Reasons are clauses about the host: ``it is to be avoided``."""

    only: frozenset[int] | None = None
    """The rows asked for; None for any."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Rows ruled out, and why."""
    tiers: Mapping[int, int] | None = None
    """To spread: a lower tier wins over any score, and rows without one are ruled out."""

    @property
    def rows(self) -> frozenset[int] | None:
        """The rows to look at; None for all."""
        if self.tiers is None:
            return self.only
        return frozenset(self.tiers) if self.only is None else self.only & self.tiers.keys()
