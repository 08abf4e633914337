"""The published routes, exactly as curl and an older global scheduler use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.webrig import IMAGE, Answer, Web, running

DEPLOY = {"name": "one", "cpu": "2", "mem": "1", "oc": "2", "qcow2": IMAGE}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as running_web:
        yield running_web


def query(**values: str) -> str:
    return "&".join(f"{name}={quote(value, safe='/')}" for name, value in values.items())


async def test_a_vm_is_deployed_listed_and_removed(web: Web) -> None:
    empty = await web.status()
    done = await web.get("/deploy?" + query(**DEPLOY))
    assert (done.status, done.json) == (200, {"success": True, "reason": None})
    assert (await web.get("/listvm")).json == ["one"]
    assert (await web.status())["cpu"]["subset"] == {
        "2.0": {"pcap": 2, "palloc": 2, "vavail": 2.0, "vpotential": 12.0}
    }
    done = await web.get("/remove?name=one")
    assert (done.status, done.json) == (200, {"success": True, "reason": None})
    assert (await web.get("/listvm")).json == []
    assert await web.status() == empty


async def test_the_same_deploy_again_is_done_and_another_is_refused(web: Web) -> None:
    first = await web.get("/deploy?" + query(**DEPLOY))
    again = await web.get("/deploy?" + query(**DEPLOY))
    assert (again.status, again.json) == (first.status, first.json)
    before = await web.status()
    other = await web.get("/deploy?" + query(**{**DEPLOY, "cpu": "3"}))
    assert other.refusal == (409, "name-taken")
    assert await web.status() == before


async def test_what_does_not_fit_is_refused(web: Web) -> None:
    answer = await web.get("/deploy?" + query(**{**DEPLOY, "cpu": "9"}))
    assert answer.refusal == (409, "no-capacity")


async def test_removing_what_is_not_there_is_refused(web: Web) -> None:
    assert (await web.get("/remove?name=nobody")).refusal == (404, "unknown-vm")


@pytest.mark.parametrize(
    ("mem", "mib"),
    [("1", 1024), ("0.5", 512), (".5", 512), ("1.0001", 1025), ("2.", 2048)],
)
async def test_memory_is_rounded_up_to_mib(web: Web, mem: str, mib: int) -> None:
    await web.get("/deploy?" + query(**{**DEPLOY, "mem": mem}))
    assert (await web.status())["mem"]["subset"]["1"]["palloc"] == mib


@pytest.mark.parametrize(
    ("oc", "label"), [("2", "2.0"), ("1.1", "1.1"), ("4/3", "4/3"), ("8/4", "2.0"), ("1", "1.0")]
)
async def test_levels_are_exact(web: Web, oc: str, label: str) -> None:
    assert (await web.get("/deploy?" + query(**{**DEPLOY, "oc": oc}))).status == 200
    assert list((await web.status())["cpu"]["subset"]) == [label]


async def test_progress_answers_for_what_fits_and_what_does_not(web: Web) -> None:
    for size in ("cpu=2&mem=1&oc=2", "cpu=4096&mem=1048576&oc=1"):
        answer = await web.get("/progress?" + size)
        assert answer.status == 200
        assert isinstance(answer.json["progress"], float)


async def test_status_is_answered_once_per_generation(web: Web) -> None:
    for path in ("/status", "/v1/host"):
        first = await web.get(path)
        tag = first.headers["etag"]
        assert tag == f'"{web.agent.state.generation}"'
        for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            again = await web.get(path, {"If-None-Match": known})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert (await web.get(path, {"If-None-Match": '"1"'})).json == first.json
        await web.get("/deploy?" + query(**{**DEPLOY, "name": "n" + path[-4:]}))
        changed = await web.get(path, {"If-None-Match": tag})
        assert changed.status == 200
        assert changed.headers["etag"] != tag


@pytest.mark.parametrize("path", ["/", "/status", "/listvm", "/healthz", "/readyz", "/v1/host"])
async def test_head_tells_what_get_would(web: Web, path: str) -> None:
    head, get = await web.ask("HEAD", path), await web.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/deploy?" + query(**DEPLOY), "/remove?name=one"])
async def test_head_changes_nothing(web: Web, path: str) -> None:
    answer = await web.ask("HEAD", path)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert (await web.get("/listvm")).json == []


async def test_the_first_page_names_the_routes(web: Web) -> None:
    as_json = await web.get("/")
    assert {"/status", "/v1/host", "/docs"} <= set(as_json.json["routes"])
    as_html = await web.get("/", {"Accept": "text/html,*/*"})
    assert as_html.headers["content-type"].startswith("text/html")
    assert b'href="/status"' in as_html.body


async def test_before_the_state_is_known_nothing_is_claimed(tmp_path: Path) -> None:
    async with running(tmp_path, ready=False) as web:
        assert (await web.get("/healthz")).status == 200
        for path in ("/readyz", "/status", "/listvm", "/v1/host", "/v1/vms", "/v1/events"):
            assert (await web.get(path)).refusal == (503, "not-ready")
        refused = [
            await web.get("/deploy?" + query(**DEPLOY)),
            await web.get("/remove?name=one"),
            await web.deploy("one"),
            await web.ask("DELETE", "/v1/requests/x"),
        ]
        assert [answer.refusal for answer in refused] == [(503, "not-ready")] * 4
        await web.keeper.start()
        assert (await web.get("/readyz")).status == 200
        await web.agent.close()
        assert (await web.get("/readyz")).refusal == (503, "not-ready")


async def test_a_failing_hypervisor_is_told_and_undone(tmp_path: Path) -> None:
    async with running(tmp_path, faults="fail@2") as web:
        before = await web.status()
        answers: list[Answer] = [await web.get("/deploy?" + query(**DEPLOY)) for _ in range(2)]
        assert [answer.status for answer in answers].count(502) == 1
        failed = next(answer for answer in answers if answer.status == 502)
        assert failed.refusal == (502, "hypervisor-failed")
        await web.get("/remove?name=one")
        assert await web.status() == before
