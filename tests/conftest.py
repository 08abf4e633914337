from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Postgres, postgres_server

pytest_plugins = ["tests.interruption", "tests.parts", "tests.lab.needs", "tests.hypervisorlab"]

# No deadlines: a noisy machine is no bug. In CI the same examples every time, so that a red run
# can be repeated; at a desk new ones, and more of them with --hypothesis-profile=thorough.
_ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("desk", _ANY_SPEED)
settings.register_profile("ci", _ANY_SPEED, derandomize=True, database=None, print_blob=True)
settings.register_profile("thorough", _ANY_SPEED, max_examples=2_000)
# A server and its hundreds of clients in one process need more files than the usual 1024.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_enough = 8192 if _hard == resource.RLIM_INFINITY else min(8192, _hard)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, _enough), _hard))

settings.load_profile("ci" if os.environ.get("CI") else "desk")

# Assertions in modules that tests share tell as much as those in tests.
pytest.register_assert_rewrite(
    "tests.storecontract", "tests.storerounds", "tests.servers", "tests.webrig"
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests that leave it running; each takes a database of its own."""
    with postgres_server() as server:
        yield server
