"""kill -9 of the global scheduler at random moments of a mixed load: nothing acknowledged is lost,
nothing is there twice, nothing is forgotten, and what was unknown is settled.

A failure tells the story of the VM; ``python -m benchmarks.crashes SEED KILLS TYPED LIGHT`` makes
the same plan again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.crashrounds import Plan, crash

# the first is of hosts that can cancel requests, the second of some that cannot too
PLANS = [Plan(seed=1, kills=10), Plan(seed=2, kills=10, typed=2, light=2)]


@pytest.mark.parametrize("plan", PLANS, ids=["typed hosts", "older hosts too"])
def test_killed_at_any_moment(tmp_path: Path, plan: Plan) -> None:
    result = crash(tmp_path, plan, lambda _: None)
    assert not result.violations, "\n\n".join(result.violations)
    assert result.kills == plan.kills
    # there was something to lose
    assert result.counts["deploys"] > plan.kills
    assert result.counts["removes"] > plan.kills / 2
    if not plan.light:
        assert result.undecided == 0
