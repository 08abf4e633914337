"""Whatever is sent wrongly: one sentence, the right status and code, nothing changed, all alive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.webrig import IMAGE, PLAIN, Answer, Web, running

DEPLOY = {"name": "one", "cpu": "2", "mem": "1", "oc": "2", "qcow2": IMAGE}
BAD = (400, "bad-request")


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as running_web:
        assert (await running_web.deploy("there")).status == 201
        yield running_web


async def unchanged(web: Web, before: tuple[int, object]) -> None:
    assert (web.agent.state.generation, await web.status()) == before
    assert (await web.get("/healthz")).status == 200


async def refused(web: Web, method: str, target: str, document: object = None) -> Answer:
    """The answer, once it is known that nothing else came of the request."""
    before = (web.agent.state.generation, await web.status())
    answer = await web.ask(method, target, document)
    await unchanged(web, before)
    return answer


NUMBERS = {
    "empty": "",
    "negative": "-1",
    "plus": "+1",
    "zero": "0",
    "huge": "99999999999",
    "10 kB": "1" * 10_000,
    "nan": "nan",
    "inf": "inf",
    "word": "two",
    "exponent": "1e1",
    "underscore": "1_0",
    "arabic digit": "٣",
    "fullwidth digit": "２",
    "superscript": "²",
    "hex": "0x2",
    "comma": "1,5",
    "two points": "1.5.2",
    "blank": " 2",
    "blank after": "2 ",
    "newline": "2\n",
    "NUL": "2\0",
    "ampersand": "2&",
    "less than": "<2",
    "hash": "2#",
    "list": "[2]",
}


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("parameter", ["cpu", "mem", "oc"])
@pytest.mark.parametrize("route", ["deploy", "progress"])
async def test_wrong_numbers(web: Web, route: str, parameter: str, value: str) -> None:
    values = {**DEPLOY, parameter: value}
    if route == "progress":
        values = {name: values[name] for name in ("cpu", "mem", "oc")}
    text = "&".join(f"{name}={quote(given)}" for name, given in values.items())
    answer = await refused(web, "GET", f"/{route}?{text}")
    assert answer.refusal == BAD
    assert parameter in answer.json["reason"]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("cpu", "1.5"),
        ("cpu", "2."),
        ("cpu", "4097"),
        ("mem", "1048577"),
        ("oc", "0.5"),
        ("oc", "65"),
        ("oc", "1/2"),
        ("oc", "4/0"),
        ("oc", "4/-3"),
        ("oc", "1.00001"),
        ("oc", "2000003/1000001"),
        ("oc", "4/3/2"),
        ("mem", "1/2"),
    ],
)
async def test_numbers_out_of_bounds(web: Web, parameter: str, value: str) -> None:
    values = {**DEPLOY, parameter: value}
    text = "&".join(f"{name}={quote(given)}" for name, given in values.items())
    answer = await refused(web, "GET", f"/deploy?{text}")
    assert answer.refusal == BAD
    assert parameter in answer.json["reason"]


NAMES = {
    "empty": "",
    "dot first": ".one",
    "dash first": "-one",
    "long": "a" * 64,
    "10 kB": "a" * 10_000,
    "blank": "a b",
    "newline": "one\n",
    "NUL": "a\0b",
    "slash": "../one",
    "markup": "<b>one</b>",
    "ampersand": "a&b",
    "hash": "a#b",
    "accent": "é",
    "percent": "%",
    "quote": "a'b",
}


@pytest.mark.parametrize("value", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("route", ["deploy", "typed"])
async def test_wrong_names(web: Web, route: str, value: str) -> None:
    if route == "typed":
        answer = await refused(web, "POST", "/v1/vms", {**PLAIN, "name": value})
    else:
        values = {**DEPLOY, "name": value}
        text = "&".join(f"{name}={quote(given)}" for name, given in values.items())
        answer = await refused(web, "GET", f"/deploy?{text}")
    assert answer.refusal == BAD
    assert "name" in answer.json["reason"]


@pytest.mark.parametrize("value", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    ("method", "route"),
    [("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/resize"), ("POST", "/adopt")],
)
async def test_wrong_names_in_the_path(web: Web, method: str, route: str, value: str) -> None:
    answer = await refused(web, method, f"/v1/vms/{quote(value, safe='')}{route}", {})
    assert answer.refusal in {BAD, (404, "not-found")}


IMAGES = {
    "empty": "",
    "relative": "hello.qcow2",
    "elsewhere": "/etc/shadow",
    "climbing": "/var/lib/libvirt/images/../../../etc/shadow",
    "the folder": "/var/lib/libvirt/images",
    "a neighbour": "/var/lib/libvirt/images-not/x.qcow2",
    "newline": "/var/lib/libvirt/images/a\nb",
    "NUL": "/var/lib/libvirt/images/a\0b",
    "10 kB": "/var/lib/libvirt/images/" + "a" * 10_000,
    "URL": "http://127.0.0.1/x.qcow2",
}


@pytest.mark.parametrize("value", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("route", ["deploy", "typed"])
async def test_wrong_images(web: Web, route: str, value: str) -> None:
    if route == "typed":
        answer = await refused(web, "POST", "/v1/vms", {**PLAIN, "image": value})
    else:
        values = {**DEPLOY, "qcow2": value}
        text = "&".join(f"{name}={quote(given)}" for name, given in values.items())
        answer = await refused(web, "GET", f"/deploy?{text}")
    assert answer.refusal == BAD


@pytest.mark.parametrize("missing", DEPLOY)
async def test_missing_parameters(web: Web, missing: str) -> None:
    text = "&".join(f"{name}={quote(given)}" for name, given in DEPLOY.items() if name != missing)
    answer = await refused(web, "GET", f"/deploy?{text}")
    assert answer.refusal == BAD
    assert f"{missing!r} is missing" in answer.json["reason"]


@pytest.mark.parametrize("twice", DEPLOY)
async def test_parameters_given_twice(web: Web, twice: str) -> None:
    text = "&".join(f"{name}={quote(given)}" for name, given in DEPLOY.items())
    answer = await refused(web, "GET", f"/deploy?{text}&{twice}={quote(DEPLOY[twice])}")
    assert answer.refusal == BAD
    assert f"{twice!r} is given twice" in answer.json["reason"]


GET_ROUTES = """
    / /status /listvm /deploy /remove /progress /healthz /readyz /docs /docs/docs.js /openapi.json
    /v1/host /v1/vms /v1/vms/there /v1/events
""".split()


@pytest.mark.parametrize("route", GET_ROUTES)
@pytest.mark.parametrize("parameter", ["color=red", "token=secret", "Name=one", "=", "%00=1"])
async def test_unknown_parameters(web: Web, route: str, parameter: str) -> None:
    assert (await refused(web, "GET", f"{route}?{parameter}")).refusal == BAD


@pytest.mark.parametrize(
    "target",
    [
        "/remove?name=there#x",
        "/remove?name=there#",
        "/remove?name=%",
        "/remove?name=%zz",
        "/remove?name=%ff",
        "/remove?name=there%00",
        "/remove?name=there%0a",
        "/remove?name",
        "/remove?name=",
        "/remove?name=there&name=there",
        "/remove?",
        "/remove",
        "/remove?&&&",
        "/remove?name=\udcff",
        "/remove?\udcff=there",
        "/remove?name=there;x=1",
    ],
)
async def test_broken_queries(web: Web, target: str) -> None:
    assert (await refused(web, "GET", target)).refusal == BAD


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/deploy", "GET"),
        ("POST", "/remove", "GET"),
        ("PUT", "/status", "GET,HEAD"),
        ("DELETE", "/v1/vms", "GET,HEAD,POST"),
        ("GET", "/v1/vms/there/start", "POST"),
        ("GET", "/v1/requests/x", "DELETE"),
        ("OPTIONS", "/v1/vms", "GET,HEAD,POST"),
        ("TRACE", "/status", "GET,HEAD"),
        ("PATCH", "/v1/vms/there", "DELETE,GET,HEAD"),
        ("PROPFIND", "/", "GET,HEAD"),
    ],
)
async def test_wrong_methods(web: Web, method: str, target: str, allowed: str) -> None:
    answer = await refused(web, method, target)
    assert answer.refusal == (405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/v1",
        "/v1/vms/",
        "/v1/vms/there/dance",
        "/docs/../api.py",
        "/docs/x",
        "//status",
    ],
)
async def test_no_such_route(web: Web, target: str) -> None:
    assert (await refused(web, "GET", target)).refusal == (404, "not-found")


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
async def test_unknown_vms(web: Web, method: str, route: str, document: object) -> None:
    answer = await refused(web, method, f"/v1/vms/nobody{route}", document)
    assert answer.refusal == (404, "unknown-vm")


@pytest.mark.parametrize(
    ("route", "document"),
    [("/start", None), ("/resume", {}), ("/adopt", {"level": 2})],
)
async def test_wrong_states(web: Web, route: str, document: object) -> None:
    answer = await refused(web, "POST", f"/v1/vms/there{route}", document)
    assert answer.refusal == (409, "wrong-state")


FIELDS: dict[str, tuple[str, object]] = {
    "name missing": ("name", None),
    "vcpus missing": ("vcpus", None),
    "memory missing": ("memory_mib", None),
    "level missing": ("level", None),
    "image missing": ("image", None),
    "unknown": ("color", "red"),
    "NUL in unknown": ("\0", 1),
    "vcpus text": ("vcpus", "2"),
    "vcpus zero": ("vcpus", 0),
    "vcpus negative": ("vcpus", -2),
    "vcpus fraction": ("vcpus", 2.5),
    "vcpus true": ("vcpus", True),
    "vcpus huge": ("vcpus", 4097),
    "vcpus list": ("vcpus", [2]),
    "memory huge": ("memory_mib", 2**30 + 1),
    "memory of 1000 digits": ("memory_mib", 10**1000),
    "memory 1e300": ("memory_mib", 1e300),
    "level 0": ("level", 0),
    "level true": ("level", True),
    "level 65": ("level", 65),
    "level negative": ("level", -1),
    "level 1e300": ("level", 1e300),
    "level fine": ("level", 1.00001),
    "level 1/0": ("level", "1/0"),
    "level word": ("level", "two"),
    "level object": ("level", {}),
    "level exponent": ("level", "1e0"),
    "name number": ("name", 1),
    "disk": ("disk", "copy"),
    "start text": ("start", "false"),
    "start number": ("start", 0),
    "request id empty": ("request_id", ""),
    "request id long": ("request_id", "a" * 129),
    "request id markup": ("request_id", "<a>"),
    "host": ("host", "elsewhere"),
    "policy": ("policy", "first-fit"),
    "labels list": ("labels", ["a"]),
    "label number": ("labels", {"a": 1}),
    "label name": ("labels", {"": "a"}),
    "label newline": ("labels", {"a": "b\nc"}),
    "labels many": ("labels", {f"a{n}": "" for n in range(65)}),
    "label surrogate": ("labels", {"a": "\ud800"}),
    "label name surrogate": ("labels", {"\ud800": "a"}),
    "image surrogate": ("image", IMAGE + "\udfff"),
    "max vcpus": ("max_vcpus", 1),
    "max memory": ("max_memory_mib", 512),
}


@pytest.mark.parametrize(("field", "value"), FIELDS.values(), ids=FIELDS)
async def test_wrong_fields(web: Web, field: str, value: object) -> None:
    document = {**PLAIN, field: value}
    if value is None:
        del document[field]
    answer = await refused(web, "POST", "/v1/vms", document)
    assert answer.refusal == BAD
    assert field.strip("\0") in answer.json["reason"]


@pytest.mark.parametrize(
    ("route", "document"),
    [
        ("start", {"force": True}),
        ("shutdown", {"force": "yes"}),
        ("shutdown", {"hard": True}),
        ("resize", {}),
        ("resize", {"vcpus": None}),
        ("resize", {"vcpus": 0}),
        ("resize", {"cpus": 2}),
        ("resize", {"vcpus": 2, "image": IMAGE}),
        ("adopt", {}),
        ("adopt", {"level": 0.5}),
        ("adopt", {"level": 2, "owner": 3}),
        ("adopt", {"level": 2, "owner": "a\0"}),
    ],
)
async def test_wrong_bodies_of_verbs(web: Web, route: str, document: object) -> None:
    assert (await refused(web, "POST", f"/v1/vms/there/{route}", document)).refusal == BAD


@pytest.mark.parametrize("request_id", ["a" * 129, "%20", "a%00", "a%0a", "%ff", "a%2fb"])
async def test_wrong_request_ids(web: Web, request_id: str) -> None:
    assert (await refused(web, "DELETE", f"/v1/requests/{request_id}")).refusal == BAD
