"""Who may ask a scheduler, of either tier: tokens, and where none is set, who needs none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clusterrig import SETTINGS, cluster
from tests.fakehost import FakeHost, fake_hosts
from tests.intruders import CLUSTER_CHANGES, GIVEN, OWN, REMOVE, TOKEN, WRONG_TOKENS
from tests.webrig import IMAGE, Client, running

Serve = Callable[[Path, Path | None], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def a_local(directory: Path, token_file: Path | None) -> AsyncIterator[Client]:
    async with running(directory, token_file=token_file) as web:
        yield web


@asynccontextmanager
async def a_global(directory: Path, token_file: Path | None) -> AsyncIterator[Client]:
    settings = replace(SETTINGS, token_file=token_file)
    async with (
        fake_hosts(FakeHost("a")) as urls,
        cluster(directory, *urls, settings=settings) as web,
    ):
        yield web


TIERS: dict[str, Serve] = {"local": a_local, "global": a_global}


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def web(tier: str, tmp_path: Path) -> AsyncIterator[Client]:
    async with TIERS[tier](tmp_path, None) as served:
        assert (await served.deploy("there")).status == 201
        yield served


@pytest.fixture
async def closed(tier: str, tmp_path: Path) -> AsyncIterator[Client]:
    """A service that asks for a token."""
    file = tmp_path / "tokens"
    file.write_text(f"an-older-one\n\n{TOKEN}\n")
    async with TIERS[tier](tmp_path, file) as served:
        yield served


ROUTES = {
    "local": [
        *[("GET", path) for path in "/ /status /listvm /deploy /remove /progress /docs".split()],
        *[("GET", path) for path in "/openapi.json /v1/host /v1/vms /v1/vms/a /v1/events".split()],
        *[("POST", path) for path in "/v1/vms /v1/vms/a/start /v1/vms/a/resize".split()],
        *[("DELETE", path) for path in "/v1/vms/a /v1/requests/a".split()],
    ],
    "global": [
        *[("GET", path) for path in "/ /status /listvm /docs /openapi.json /metrics".split()],
        *[("GET", path) for path in "/v1/vms /v1/vms/there /v1/hosts /v1/hosts/a".split()],
        *[("GET", path) for path in "/v1/capacity /v1/events".split()],
        *CLUSTER_CHANGES,
    ],
}
BOTH = [
    *[("GET", "/docs/docs.js"), ("GET", "/nothing"), ("POST", "/deploy")],
    *[("OPTIONS", "/status"), ("HEAD", "/status")],
]


@pytest.mark.parametrize(
    ("tier", "method", "path"),
    [(tier, *route) for tier, routes in ROUTES.items() for route in (*routes, *BOTH)],
)
async def test_every_route_asks_for_a_token(closed: Client, method: str, path: str) -> None:
    answer = await closed.ask(method, path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        assert answer.refusal == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_token(closed: Client, path: str) -> None:
    assert (await closed.get(path)).status == 200


@pytest.mark.parametrize("token", [TOKEN, "an-older-one"])
async def test_a_token_opens(closed: Client, token: str) -> None:
    given = {"Authorization": f"bearer {token}"}
    assert (await closed.get("/v1/vms", given)).status == 200
    target = f"/deploy?name=a&cpu=1&mem=1&oc=1&qcow2={IMAGE}"
    assert (await closed.get(target, given)).status == 200


@pytest.mark.parametrize("headers", WRONG_TOKENS, ids=lambda headers: " ".join(*headers.items()))
async def test_a_token_wrong_or_elsewhere_opens_nothing(
    closed: Client, headers: dict[str, str]
) -> None:
    assert (await closed.get("/v1/vms", headers)).refusal == (401, "unauthorized")
    assert (await closed.get(REMOVE, headers)).refusal == (401, "unauthorized")


@pytest.mark.parametrize("parameter", ["token", "access_token", "Authorization"])
async def test_a_token_in_the_address_is_refused(closed: Client, parameter: str) -> None:
    target = f"/v1/vms?{parameter}={TOKEN}"
    assert (await closed.get(target)).refusal == (401, "unauthorized")
    refused = await closed.get(target, GIVEN)
    assert refused.refusal == (400, "bad-request")
    assert TOKEN not in refused.body.decode()


async def test_with_a_token_a_proxy_may_use_any_name(closed: Client) -> None:
    named = {**GIVEN, "Host": "vmstack.example"}
    assert (await closed.get("/remove?name=a", named)).refusal == (404, "unknown-vm")
    foreign = {**named, "Origin": "http://evil.example"}
    assert (await closed.get("/remove?name=a", foreign)).refusal == (403, "forbidden")


@pytest.mark.parametrize("headers", OWN.values(), ids=OWN)
async def test_own_pages_and_plain_clients_may(web: Client, headers: dict[str, str]) -> None:
    assert (await web.get(REMOVE, headers)).status == 200
