"""Who may ask the global scheduler, how much at once, and what it tells whom: tokens above all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.web import Request, Response, StreamResponse

from schedulercommon.errors import ConfigError
from schedulerweb.guard import MOST_CHANGES
from tests.clusterrig import SETTINGS, Cluster, cluster
from tests.fakehost import FakeHost, Handler, answers, fake_hosts
from tests.intruders import CLUSTER_CHANGES, FOREIGN, GIVEN, TOKEN
from tests.servers import global_service, local_hosts, urls
from tests.webrig import IMAGE, running

LOCAL_TOKEN = "for-the-hosts-alone"
PATCH = b"PATCH /v1/hosts/a HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with fake_hosts(FakeHost("a")) as urls, cluster(tmp_path, *urls) as served:
        assert (await served.deploy("there")).status == 201
        yield served


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
async def test_other_sites_change_nothing(web: Cluster, headers: dict[str, str]) -> None:
    before = await web.document("/v1/vms"), await web.hosts()
    for method, target in CLUSTER_CHANGES:
        answer = await web.ask(method, target, headers=headers)
        assert answer.refusal == (403, "forbidden"), target
    assert (await web.document("/v1/vms"), await web.hosts()) == before
    for target in ("/v1/vms", "/v1/hosts", "/status"):
        assert (await web.get(target, headers)).status == 200


async def test_a_public_address_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SCG_URL is 0\.0\.0\.0.*set SCG_TOKEN_FILE"):
        async with cluster(tmp_path, settings=replace(SETTINGS, address="0.0.0.0")):
            pass


async def test_a_public_address_with_a_token_is_served(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    settings = replace(SETTINGS, address="0.0.0.0", token_file=file)
    async with cluster(tmp_path, settings=settings) as web:
        assert (await web.get("/v1/vms")).refusal == (401, "unauthorized")
        assert (await web.get("/v1/vms", GIVEN)).status == 200


# --- towards the hosts ---


async def test_hosts_are_asked_with_their_token_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    files = {"token_file": tmp_path / "ours", "local_token_file": tmp_path / "theirs"}
    files["token_file"].write_text(TOKEN)
    files["local_token_file"].write_text(f"{LOCAL_TOKEN}\nan-older-one\n")
    typed, older, added = FakeHost("a"), FakeHost("b", typed=False), FakeHost("c")
    settings = replace(SETTINGS, **files)
    async with (
        fake_hosts(typed, older, added) as (first, second, third),
        cluster(tmp_path, first, second, settings=settings) as web,
    ):
        told = []
        plain = {"vcpus": 1, "memory_mib": 64, "level": "2", "image": IMAGE}
        for name, host in (("one", "a"), ("two", older.address)):
            order = {"name": name, "host": host, **plain}
            told += [
                await web.post("/v1/vms", order, GIVEN),
                await web.get(f"/v1/vms/{name}", GIVEN),
                await web.ask("DELETE", f"/v1/vms/{name}", headers=GIVEN),
            ]
        told.append(await web.post("/v1/hosts", {"url": third}, GIVEN))
        assert [answer.status for answer in told] == [201, 200, 200, 201, 200, 200, 201]
        for target in ("/v1/hosts", "/metrics", "/openapi.json", "/status"):
            told.append(await web.get(target, GIVEN))
        # theirs does not open ours
        theirs = {"Authorization": f"Bearer {LOCAL_TOKEN}"}
        assert (await web.get("/v1/hosts", theirs)).refusal == (401, "unauthorized")
        for host in (typed, older, added):
            assert host.asked
            assert {each.authorization for each in host.asked} == {f"Bearer {LOCAL_TOKEN}"}
            assert not any(LOCAL_TOKEN in each.path for each in host.asked)
    for secret in (TOKEN, LOCAL_TOKEN):
        assert not any(secret in answer.body.decode() for answer in told)
        assert secret not in caplog.text
    assert caplog.records


async def test_a_host_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    trap, lured = FakeHost("trap"), FakeHost("a")
    file = tmp_path / "theirs"
    file.write_text(LOCAL_TOKEN)

    async def points_elsewhere(_: FakeHost, request: Request, __: Handler) -> StreamResponse:
        return Response(status=307, headers={"Location": f"{trap.url}{request.path_qs}"})

    async with (
        fake_hosts(lured, trap) as (url, _),
        cluster(tmp_path, url, settings=replace(SETTINGS, local_token_file=file)) as web,
    ):
        assert (await web.deploy("vm")).status == 201
        lured.manners["all"] = points_elsewhere
        await web.turns("a", state="suspect")
        lured.manners = dict.fromkeys(("deploy", "remove", "cancel"), points_elsewhere)
        await web.turns("a", state="up")
        assert (await web.deploy("other")).json["code"] == "host-unreachable"
        assert (await web.remove("vm")).status == 202
        assert trap.asked == []


@pytest.mark.parametrize("token", ["", "a-wrong-one"], ids=["none", "wrong"])
async def test_a_host_that_wants_another_token_says_so(tmp_path: Path, token: str) -> None:
    files = tmp_path / "host-tokens", tmp_path / "our-tokens"
    for file, text in zip(files, (LOCAL_TOKEN, token), strict=True):
        file.write_text(text)
    settings = replace(SETTINGS, local_token_file=files[1] if token else None)
    async with (
        running(tmp_path / "here", token_file=files[0]) as host,
        cluster(tmp_path, host.url, settings=settings) as web,
    ):
        found = await web.host(f"127.0.0.1:{host.port}")
        assert (found["state"], found["reachable"]) == ("down", False)
        assert "401" in found["problem"]
        assert "token" in found["problem"]
        refused = await web.deploy("vm")
        assert refused.refusal == (503, "host-unreachable")
        assert LOCAL_TOKEN not in str(found) + refused.json["reason"]


async def test_a_real_cluster_with_tokens_keeps_them_out_of_its_log(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text(TOKEN)
    theirs.write_text(LOCAL_TOKEN)
    settings = {"SCG_TOKEN_FILE": str(ours), "SCG_LOCAL_TOKEN_FILE": str(theirs)}
    with local_hosts(tmp_path, "a", settings={"SCL_TOKEN_FILE": str(theirs)}) as hosts:
        with global_service(tmp_path, *urls(hosts), settings=settings) as service:
            target = f"/deploy?name=a&cpu=1&mem=1&oc=1&qcow2={IMAGE}"
            assert service.ask("GET", target).status == 401
            assert service.ask("GET", f"/status?token={TOKEN}").status == 401
            assert service.ask("GET", target, headers=GIVEN).json["success"] is True
            hosts["a"].stop()
            assert service.ask("GET", "/remove?name=a", headers=GIVEN).status == 200
            assert service.stop() == 0
        for told in (service.told, hosts["a"].told):
            assert "ready" in told
            assert TOKEN not in told
            assert LOCAL_TOKEN not in told


# --- how much ---


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        (b"GET /v1/hosts?" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (400, "bad-request")),
        (b"GET /v1/hosts/" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", (413, "too-large")),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", (413, "too-large")),
        (PATCH + b"Content-Length: 99999999999\r\n\r\n", (413, "too-large")),
        (b"hello\r\n\r\n", (400, "bad-request")),
    ],
    ids=["10 kB request line", "100 kB request line", "100 kB header", "large body", "no HTTP"],
)
async def test_requests_are_bounded(web: Cluster, raw: bytes, refusal: tuple[int, str]) -> None:
    assert (await web.say(raw)).refusal == refusal
    assert (await web.get("/healthz")).status == 200


async def test_changes_under_way_are_bounded(tmp_path: Path) -> None:
    host = FakeHost("a")
    go_on = asyncio.Event()

    async def waits(_: FakeHost, request: Request, handler: Handler) -> StreamResponse:
        await go_on.wait()
        return await handler(request)

    host.manners["deploy"] = waits
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        asked = [asyncio.create_task(web.deploy("vm")) for _ in range(MOST_CHANGES + 1)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().refusal for task in done] == [(503, "overloaded")]
        assert (await web.remove("vm")).refusal == (503, "overloaded")
        assert (await web.get("/v1/hosts")).status == 200
        go_on.set()
        answers = await asyncio.gather(*waiting)
        assert sorted(answer.status for answer in answers) == [*[200] * (MOST_CHANGES - 1), 201]
        assert host.times_asked("deploy") == 1
        assert (await web.remove("vm")).status == 200


async def test_what_a_host_says_stays_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In answers and in the log, where it could pass for a line of ours."""
    caplog.set_level(logging.INFO)
    lie = "no\r\nroom\x1b[31m \ud800\nERROR all is lost " + "x" * 10_000
    said = {"success": False, "reason": lie}
    host = FakeHost("a")
    host.run("a\nERROR vm is lost")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        host.manners["deploy"] = answers(400, {**said, "code": "bad-request"})
        assert (await web.deploy("other")).refusal == (400, "bad-request")
        host.manners["deploy"] = answers(409, {**said, "code": "no-capacity"})
        refused = await web.deploy("other")
        assert refused.json["reason"].isprintable()
        host.manners["all"] = answers(500, said)
        assert (await web.post("/v1/vms/vm/resize", {"vcpus": 2})).json["success"] is False
        found = await web.turns("a", state="suspect")
        assert "all is lost" in found["problem"]
        assert found["problem"].isprintable()
    assert "all is lost" in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)
