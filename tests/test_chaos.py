"""What befalls several global schedulers on one PostgreSQL, a small part of ``make chaos``: nothing
acknowledged is lost, nothing is there twice, nothing is forgotten, another leads soon.

A failure tells the story of the VM; ``make chaos SEED=1 ROUNDS=30`` makes more of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from benchmarks.chaosplan import Fault, Plan, mixed, only
from benchmarks.chaosrounds import chaos
from tests.postgres import postgres_server

SEED = 1
KILLS = 3
LEASE_S = 1.0
ANSWER_S = 1.5
OFTEN_WITHIN_S, WITHIN_S = 2.0, 5.0
"""A noisy machine may be late once; the bench holds every kill to the first."""
AWAY_S = 1.0
ROUNDS = tuple(
    replace(each, after_s=each.after_s / 2, wire_s=each.wire_s / 2, lasts_s=AWAY_S)
    for each in (
        *only(Fault.LEADER_KILLED, SEED, KILLS),
        *only(Fault.LEADER_STOPPED, SEED, 1),
        *only(Fault.DATABASE_AWAY, SEED, 1, wire=False),
    )
)


@pytest.mark.alone
def test_everything_befalls_a_cluster(tmp_path: Path) -> None:
    plan = Plan(SEED, ROUNDS, globals_=2, hosts=2, lease_s=LEASE_S, answer_s=ANSWER_S)
    with postgres_server(fsync=True) as postgres:
        result = chaos(tmp_path, plan, postgres, lambda _: None)
    assert not result.violations, "\n\n".join(result.violations)
    # there was something to lose
    assert result.counts["deploys"] > 10
    assert result.counts["removes"] > 10
    assert len(result.took_over_s) == KILLS
    assert median(result.took_over_s) < OFTEN_WITHIN_S
    assert max(result.took_over_s) < WITHIN_S
    assert result.resumed == 1
    refused = [each for each in result.away if each.change and each.failed]
    readings = [each for each in result.away if not each.change]
    assert {(each.status, bool(each.code)) for each in refused} == {(503, True)}
    assert readings
    assert not any(each.failed for each in readings)


def test_one_seed_one_sequence() -> None:
    assert mixed(SEED, 30) == mixed(SEED, 30)
    assert mixed(SEED, 30) != mixed(SEED + 1, 30)
    assert {each.fault for each in mixed(SEED, 200)} == set(Fault)
