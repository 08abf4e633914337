"""Who may ask a local scheduler: pages of other sites, public addresses, and how much at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schedulercommon.errors import ConfigError, OutputError
from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.config import ServiceSettings
from schedulerweb.guard import MOST_CHANGES, is_loopback, read_tokens
from tests.intruders import FOREIGN, GIVEN, REMOVE, TOKEN
from tests.webrig import IMAGE, Web, running


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as running_web:
        assert (await running_web.deploy("there")).status == 201
        yield running_web


CHANGES = [
    ("GET", REMOVE),
    ("GET", f"/deploy?name=a&cpu=1&mem=1&oc=1&qcow2={IMAGE}"),
    ("GET", "/%72emove?name=there"),
    ("POST", "/v1/vms/there/suspend"),
    ("POST", "/v1/vms"),
    ("DELETE", "/v1/vms/there"),
    ("DELETE", "/v1/requests/x"),
]


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(("method", "target"), CHANGES)
async def test_other_sites_change_nothing(
    web: Web, method: str, target: str, headers: dict[str, str]
) -> None:
    before = web.agent.state.generation
    answer = await web.ask(method, target, headers=headers)
    assert answer.refusal == (403, "forbidden")
    assert web.agent.state.generation == before
    assert web.agent.states["there"] == "running"


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
async def test_reading_is_not_changing(web: Web, headers: dict[str, str]) -> None:
    assert (await web.get("/status", headers)).status == 200


async def test_changes_under_way_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path) as web:
        await web.deploy("there")
        async with web.keeper.lock:
            asked = [asyncio.create_task(web.get(REMOVE)) for _ in range(MOST_CHANGES + 1)]
            done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().refusal for task in done] == [(503, "overloaded")]
            assert (await web.get("/status")).status == 200
        answers = await asyncio.gather(*waiting)
        assert sorted(answer.status for answer in answers) == [200, *[404] * (MOST_CHANGES - 1)]


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("vmstack.example", False),
    ],
)
def test_loopback(address: str, is_one: bool) -> None:
    assert is_loopback(address) is is_one


async def test_a_public_address_needs_a_token(web: Web) -> None:
    settings = ServiceSettings(name="here", address="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match=r"SCL_URL is 0\.0\.0\.0.*set SCL_TOKEN_FILE"):
        await serve(create_app(web.agent, settings), settings.address, 0)


async def test_a_public_address_with_a_token_is_served(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    async with running(tmp_path, token_file=file, address="0.0.0.0") as web:
        assert (await web.get("/status")).refusal == (401, "unauthorized")
        assert (await web.get("/status", GIVEN)).status == 200


async def test_a_port_taken_is_told(web: Web) -> None:
    app = create_app(web.agent, ServiceSettings(name="here"))
    with pytest.raises(OutputError, match=rf"port {web.port} .* is taken.*SCL_PORT"):
        await serve(app, "127.0.0.1", web.port)


async def test_an_address_of_another_machine_is_told(web: Web, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    for address in ("192.0.2.1", "no such name"):
        settings = ServiceSettings(name="here", address=address, token_file=file)
        with pytest.raises(ConfigError, match="SCL_URL"):
            await serve(create_app(web.agent, settings), address, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "should hold a few tokens"),
        (b"\n \n", "should hold a few tokens"),
        (b"good\nnot good\n", "line 2"),
        ("é".encode(), "line 1"),
        (b"a" * 100_000, "should hold a few tokens"),
    ],
)
def test_token_files_that_cannot_be_used(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_tokens(file)


def test_token_files_that_are_not_there(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the token file"):
            read_tokens(file)


async def test_pages_load_nothing_from_elsewhere(web: Web) -> None:
    page = await web.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert b"http" not in page.body.replace(b"http-equiv", b"")
    assert page.headers["x-frame-options"] == "DENY"
    for line in page.body.decode().splitlines():
        for mark in ('src="', 'href="'):
            if mark in line:
                file = line.partition(mark)[2].partition('"')[0]
                assert (await web.get("/" + file)).status == 200
