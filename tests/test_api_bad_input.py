"""Whatever is sent wrongly, to either scheduler: one sentence, the right status and code, nothing
changed, all alive."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.badinput import (
    BAD,
    BROKEN_REMOVALS,
    DEPLOY,
    FIELDS,
    IMAGES,
    NAMES,
    NUMBERS,
    OUT_OF_BOUNDS,
    TIERS,
    VERB_BODIES,
    Tier,
    query,
)
from tests.webrig import PLAIN, in_a_thread


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with in_a_thread(TIERS["local"](tmp_path_factory.mktemp("local"))) as served:
        yield served


@pytest.fixture(scope="module", name="global")
def global_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with in_a_thread(TIERS["global"](tmp_path_factory.mktemp("global"))) as served:
        yield served


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    served: Tier = request.getfixturevalue(request.param)
    return served


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("parameter", ["cpu", "mem", "oc"])
@pytest.mark.parametrize(
    ("tier", "route"),
    [
        ("local", "deploy"),
        ("local", "progress"),
        ("global", "deploy"),
        ("global", "v1/capacity"),
    ],
    indirect=["tier"],
)
async def test_wrong_numbers(tier: Tier, route: str, parameter: str, value: str) -> None:
    values = {**DEPLOY, parameter: value}
    if route != "deploy":
        values = {name: values[name] for name in ("cpu", "mem", "oc")}
    answer = await tier.refused("GET", f"/{route}?{query(**values)}")
    assert answer.refusal == BAD
    assert parameter in answer.json["reason"]


@pytest.mark.parametrize(("parameter", "value"), OUT_OF_BOUNDS)
async def test_numbers_out_of_bounds(tier: Tier, parameter: str, value: str) -> None:
    answer = await tier.refused("GET", f"/deploy?{query(**{**DEPLOY, parameter: value})}")
    assert answer.refusal == BAD
    assert parameter in answer.json["reason"]


@pytest.mark.parametrize("value", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("route", ["deploy", "typed"])
async def test_wrong_names(tier: Tier, route: str, value: str) -> None:
    if route == "typed":
        answer = await tier.refused("POST", "/v1/vms", {**PLAIN, "name": value})
    else:
        answer = await tier.refused("GET", f"/deploy?{query(**{**DEPLOY, 'name': value})}")
    assert answer.refusal == BAD
    assert "name" in answer.json["reason"]


@pytest.mark.parametrize("value", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    ("method", "route"),
    [("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/resize"), ("POST", "/adopt")],
)
async def test_wrong_names_in_the_path(tier: Tier, method: str, route: str, value: str) -> None:
    answer = await tier.refused(method, f"/v1/vms/{quote(value, safe='')}{route}", {})
    assert answer.refusal in {BAD, (404, "not-found")}


@pytest.mark.parametrize("value", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("route", ["deploy", "typed"])
async def test_wrong_images(tier: Tier, route: str, value: str) -> None:
    if route == "typed":
        answer = await tier.refused("POST", "/v1/vms", {**PLAIN, "image": value})
    else:
        answer = await tier.refused("GET", f"/deploy?{query(**{**DEPLOY, 'qcow2': value})}")
    assert answer.refusal == BAD


@pytest.mark.parametrize("missing", DEPLOY)
async def test_missing_parameters(tier: Tier, missing: str) -> None:
    given = {name: value for name, value in DEPLOY.items() if name != missing}
    answer = await tier.refused("GET", f"/deploy?{query(**given)}")
    assert answer.refusal == BAD
    assert f"{missing!r} is missing" in answer.json["reason"]


@pytest.mark.parametrize("twice", DEPLOY)
async def test_parameters_given_twice(tier: Tier, twice: str) -> None:
    answer = await tier.refused("GET", f"/deploy?{query(**DEPLOY)}&{twice}={quote(DEPLOY[twice])}")
    assert answer.refusal == BAD
    assert f"{twice!r} is given twice" in answer.json["reason"]


BOTH_HAVE = """
    / /status /listvm /deploy /remove /healthz /readyz /docs /docs/docs.js /openapi.json
    /v1/vms /v1/vms/there /v1/events /metrics
""".split()
GET_ROUTES = {
    "local": [*BOTH_HAVE, "/progress", "/v1/host", "/v1/host/usage"],
    "global": [*BOTH_HAVE, "/v1/capacity", "/v1/hosts", "/v1/hosts/here"],
}


@pytest.mark.parametrize(
    ("tier", "route"),
    [(tier, route) for tier, routes in GET_ROUTES.items() for route in routes],
    indirect=["tier"],
)
@pytest.mark.parametrize("parameter", ["color=red", "token=secret", "Name=one", "=", "%00=1"])
async def test_unknown_parameters(tier: Tier, route: str, parameter: str) -> None:
    assert (await tier.refused("GET", f"{route}?{parameter}")).refusal == BAD


@pytest.mark.parametrize("target", BROKEN_REMOVALS)
async def test_broken_queries(tier: Tier, target: str) -> None:
    assert (await tier.refused("GET", target)).refusal == BAD


METHODS: dict[str, list[tuple[str, str, str]]] = {
    "both": [
        ("POST", "/deploy", "GET"),
        ("POST", "/remove", "GET"),
        ("PUT", "/status", "GET,HEAD"),
        ("DELETE", "/v1/vms", "GET,HEAD,POST"),
        ("GET", "/v1/vms/there/start", "POST"),
        ("OPTIONS", "/v1/vms", "GET,HEAD,POST"),
        ("TRACE", "/status", "GET,HEAD"),
        ("PATCH", "/v1/vms/there", "DELETE,GET,HEAD"),
        ("PROPFIND", "/", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
    ],
    "local": [("GET", "/v1/requests/x", "DELETE")],
    "global": [
        ("PUT", "/v1/hosts/here", "DELETE,GET,HEAD,PATCH"),
        ("PUT", "/v1/hosts", "GET,HEAD,POST"),
        ("GET", "/v1/hosts/here/fence", "POST"),
        ("HEAD", "/v1/events", "GET"),
        ("POST", "/v1/capacity", "GET,HEAD"),
    ],
}


@pytest.mark.parametrize(
    ("tier", "method", "target", "allowed"),
    [(tier, *case) for tier in TIERS for case in METHODS["both"] + METHODS[tier]],
    indirect=["tier"],
)
async def test_wrong_methods(tier: Tier, method: str, target: str, allowed: str) -> None:
    answer = await tier.refused(method, target)
    if method == "HEAD":
        assert answer.status == 405
    else:
        assert answer.refusal == (405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/v1",
        "/v1/vms/",
        "/v1/vms/there/dance",
        "/v1/hosts/",
        "/v1/hosts/here/dance",
        "/docs/../api.py",
        "/docs/x",
        "//status",
    ],
)
async def test_no_such_route(tier: Tier, target: str) -> None:
    assert (await tier.refused("GET", target)).refusal == (404, "not-found")


@pytest.mark.parametrize(
    ("method", "route", "document"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/start", None),
        ("POST", "/shutdown", {"force": True}),
        ("POST", "/resize", {"vcpus": 3}),
        ("POST", "/adopt", {"level": 2}),
    ],
)
async def test_unknown_vms(tier: Tier, method: str, route: str, document: object) -> None:
    answer = await tier.refused(method, f"/v1/vms/nobody{route}", document)
    assert answer.refusal == (404, "unknown-vm")


@pytest.mark.parametrize(
    ("route", "document"),
    [("/start", None), ("/resume", {}), ("/adopt", {"level": 2})],
)
async def test_wrong_states(tier: Tier, route: str, document: object) -> None:
    answer = await tier.refused("POST", f"/v1/vms/there{route}", document)
    assert answer.refusal == (409, "wrong-state")


@pytest.mark.parametrize(("field", "value"), FIELDS.values(), ids=FIELDS)
async def test_wrong_fields(tier: Tier, field: str, value: object) -> None:
    document = {**PLAIN, field: value}
    if value is None:
        del document[field]
    answer = await tier.refused("POST", "/v1/vms", document)
    assert answer.refusal == BAD
    assert field.strip("\0") in answer.json["reason"]


@pytest.mark.parametrize(("field", "value"), [("host", "elsewhere"), ("policy", "first-fit")])
async def test_a_local_scheduler_places_on_its_own_host(
    local: Tier, field: str, value: str
) -> None:
    answer = await local.refused("POST", "/v1/vms", {**PLAIN, field: value})
    assert answer.refusal == BAD
    assert field in answer.json["reason"]


@pytest.mark.parametrize(("route", "document"), VERB_BODIES)
async def test_wrong_bodies_of_verbs(tier: Tier, route: str, document: object) -> None:
    assert (await tier.refused("POST", f"/v1/vms/there/{route}", document)).refusal == BAD


@pytest.mark.parametrize("request_id", ["a" * 129, "%20", "a%00", "a%0a", "%ff", "a%2fb"])
async def test_wrong_request_ids(local: Tier, request_id: str) -> None:
    assert (await local.refused("DELETE", f"/v1/requests/{request_id}")).refusal == BAD
