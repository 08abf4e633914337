"""What only the global scheduler can be asked wrongly: hosts, constraints, explanations, labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from schedulerglobal.core.policies import POLICIES
from tests.badinput import BAD, TIERS, Tier
from tests.webrig import PLAIN, in_a_thread

UNKNOWN_HOST = (404, "unknown-host")


@pytest.fixture(scope="module")
def tier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with in_a_thread(TIERS["global"](tmp_path_factory.mktemp("global"))) as served:
        yield served


WISHES: dict[str, tuple[str, object]] = {
    "host number": ("host", 1),
    "host list": ("host", ["here"]),
    "host empty": ("host", ""),
    "host null": ("host", None),
    "host markup": ("host", "<here>"),
    "policy number": ("policy", 1),
    "policy empty": ("policy", ""),
    "policy in capitals": ("policy", "PROGRESS"),
    "policy with a blank": ("policy", "first fit"),
    "avoid text": ("avoid", "here"),
    "avoid object": ("avoid", {"here": 1}),
    "avoid numbers": ("avoid", [1]),
    "avoid nothing": ("avoid", [""]),
    "avoid null": ("avoid", [None]),
    "avoid too many": ("avoid", ["here"] * 65),
    "affinity text": ("affinity", "there"),
    "affinity numbers": ("affinity", [1]),
    "affinity lists": ("affinity", [["there"]]),
    "affinity too many": ("affinity", ["there"] * 65),
    "affinity to nobody": ("affinity", ["nobody"]),
    "affinity to nobody, too": ("affinity", ["there", "nobody"]),
    "affinity to itself": ("affinity", ["one"]),
    "affinity nothing": ("affinity", [""]),
    "affinity no label name": ("affinity", ["=db"]),
    "affinity blank": ("affinity", ["app db"]),
    "affinity markup": ("affinity", ["<there>"]),
    "affinity two lines": ("affinity", ["app=a\nb"]),
    "affinity NUL": ("affinity", ["app=\0"]),
    "affinity surrogate": ("affinity", ["app=\ud800"]),
    "affinity long": ("affinity", ["app=" + "a" * 254]),
    "anti_affinity text": ("anti_affinity", "there"),
    "anti_affinity too many": ("anti_affinity", ["app=db"] * 65),
    "anti_affinity to nobody": ("anti_affinity", ["nobody"]),
    "anti_affinity nothing": ("anti_affinity", [""]),
    "anti_affinity two lines": ("anti_affinity", ["there\n"]),
    "spread number": ("spread", 1),
    "spread list": ("spread", ["rack"]),
    "spread blank": ("spread", "the rack"),
    "spread markup": ("spread", "<rack>"),
    "spread long": ("spread", "a" * 64),
    "spread two lines": ("spread", "rack\n"),
    "antiaffinity": ("antiaffinity", []),
    "dry_run": ("dry_run", True),
}


@pytest.mark.parametrize("dry_run", ["", "?dry_run=1"], ids=["deploy", "explain"])
@pytest.mark.parametrize(("field", "value"), WISHES.values(), ids=WISHES)
async def test_wrong_wishes(tier: Tier, field: str, value: object, dry_run: str) -> None:
    answer = await tier.refused("POST", f"/v1/vms{dry_run}", {**PLAIN, field: value})
    assert answer.refusal == BAD
    said = answer.json["reason"]
    assert field in said or "nobody" in said or "'one'" in said


@pytest.mark.parametrize("dry_run", ["", "?dry_run=1"], ids=["deploy", "explain"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("host", "nowhere"), ("avoid", ["nowhere"]), ("avoid", ["here", "next", "nowhere"])],
)
async def test_unknown_hosts_in_wishes(tier: Tier, field: str, value: object, dry_run: str) -> None:
    answer = await tier.refused("POST", f"/v1/vms{dry_run}", {**PLAIN, field: value})
    assert answer.refusal == UNKNOWN_HOST
    assert "nowhere" in answer.json["reason"]


@pytest.mark.parametrize(
    "wishes",
    [
        {"host": "here", "avoid": ["here"]},
        {"avoid": ["here", "next"]},
        {"host": "next", "affinity": ["there"]},
        {"host": "here", "anti_affinity": ["there"]},
        {"affinity": ["there"], "anti_affinity": ["there"]},
        {"spread": "nobody-has-it"},
    ],
    ids=str,
)
async def test_wishes_nobody_can_grant(tier: Tier, wishes: dict[str, object]) -> None:
    answer = await tier.refused("POST", "/v1/vms", {**PLAIN, **wishes})
    assert answer.refusal == (409, "no-capacity")
    explained = await tier.refused("POST", "/v1/vms?dry_run=1", {**PLAIN, **wishes})
    assert explained.json["host"] is None
    assert all(each["reason"] for each in explained.json["hosts"])


async def test_an_unknown_policy_is_told_those_there_are(tier: Tier) -> None:
    answer = await tier.refused("POST", "/v1/vms", {**PLAIN, "policy": "best"})
    assert answer.refusal == BAD
    for policy in POLICIES:
        assert policy in answer.json["reason"]


@pytest.mark.parametrize(
    "text", ["2", "true", "yes", "01", "1 ", "-1", "1&dry_run=1", "", "%31%00", "1#", "1" * 10_000]
)
async def test_dry_run_is_0_or_1(tier: Tier, text: str) -> None:
    answer = await tier.refused("POST", f"/v1/vms?dry_run={quote(text, safe='&=#%')}", PLAIN)
    assert answer.refusal == BAD
    assert "dry_run" in answer.json["reason"] or "'#'" in answer.json["reason"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_explaining_changes_nothing(tier: Tier, policy: str) -> None:
    answer = await tier.refused("POST", "/v1/vms?dry_run=1", {**PLAIN, "policy": policy})
    assert answer.status == 200
    assert answer.json["host"] in ("here", "next")


CHANGING = [("PATCH", "")] + [
    ("POST", f"/{verb}") for verb in ("drain", "resume", "maintenance", "fence")
]
HOSTS = {
    "unknown": "nowhere",
    "a VM": "there",
    "a number": "1",
    "in capitals": "HERE",
    "markup": "<here>",
    "slash": "he/re",
    "dots": "..",
    "newline": "here\n",
    "NUL": "here\0",
    "accent": "hére",
    "10 kB": "a" * 10_000,
    "colons": ":" * 300,
}


@pytest.mark.parametrize("name", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), *CHANGING])
async def test_unknown_hosts(tier: Tier, method: str, rest: str, name: str) -> None:
    document = {"labels": {}} if method == "PATCH" else None
    target = f"/v1/hosts/{quote(name, safe='')}{rest}"
    answer = await tier.refused(method, target, document)
    assert answer.refusal in {UNKNOWN_HOST, (404, "not-found"), BAD}
    if name == "nowhere":
        assert answer.refusal == UNKNOWN_HOST


BODIES: dict[str, bytes] = {
    "not JSON": b"labels",
    "a list": b"[]",
    "text": b'"labels"',
    "null": b"null",
    "twice": b'{"labels": {}, "labels": {}}',
    "UTF-16": '{"labels": {}}'.encode("utf-16"),
    "cut off": b'{"labels": {',
    "nested": b'{"labels":' * 5000,
    "NaN": b'{"labels": {"a": NaN}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/vms"),
        ("POST", "/v1/vms/there/resize"),
        ("POST", "/v1/hosts"),
        ("PATCH", "/v1/hosts/here"),
        ("POST", "/v1/hosts/here/drain"),
        ("POST", "/v1/hosts/here/fence"),
    ],
)
async def test_broken_bodies(tier: Tier, method: str, target: str, body: bytes) -> None:
    assert (await tier.refused(method, target, body=body)).refusal == BAD


LABELS: dict[str, object] = {
    "none": {},
    "null": {"labels": None},
    "text": {"labels": "rack"},
    "list": {"labels": ["rack"]},
    "number": {"labels": {"rack": 1}},
    "nothing": {"labels": {"rack": None}},
    "no name": {"labels": {"": "one"}},
    "name blank": {"labels": {"the rack": "one"}},
    "name dash": {"labels": {"-rack": "one"}},
    "name long": {"labels": {"a" * 64: "one"}},
    "name newline": {"labels": {"rack\n": "one"}},
    "name surrogate": {"labels": {"\ud800": "one"}},
    "value newline": {"labels": {"rack": "o\nne"}},
    "value NUL": {"labels": {"rack": "\0"}},
    "value surrogate": {"labels": {"rack": "\udfff"}},
    "value long": {"labels": {"rack": "a" * 254}},
    "many": {"labels": {f"a{n}": "" for n in range(65)}},
    "unknown": {"labels": {}, "color": "red"},
    "state": {"labels": {}, "state": "draining"},
}


@pytest.mark.parametrize("document", LABELS.values(), ids=LABELS)
async def test_wrong_labels_of_hosts(tier: Tier, document: object) -> None:
    answer = await tier.refused("PATCH", "/v1/hosts/here", document)
    assert answer.refusal == BAD


@pytest.mark.parametrize(
    "labels", [{"rack": ""}, {"a/b.c-d_e": "é ✓ 'x' \"y\""}, {f"a{n}": "v" for n in range(64)}]
)
async def test_odd_labels_are_kept_to_the_letter(tier: Tier, labels: dict[str, str]) -> None:
    answer = await tier.client.ask("PATCH", "/v1/hosts/here", {"labels": labels})
    assert answer.json["labels"] == labels
    assert (await tier.client.get("/v1/hosts/here")).json["labels"] == labels
    assert (await tier.client.ask("PATCH", "/v1/hosts/here", {"labels": {}})).json["labels"] == {}


@pytest.mark.parametrize("verb", ["drain", "resume", "maintenance", "fence"])
@pytest.mark.parametrize("document", [{"force": True}, {"": 1}, {"labels": {}}], ids=str)
async def test_verbs_of_hosts_take_no_fields(
    tier: Tier, verb: str, document: dict[str, object]
) -> None:
    assert (await tier.refused("POST", f"/v1/hosts/here/{verb}", document)).refusal == BAD


@pytest.mark.parametrize("name", ["here", "next"])
async def test_a_host_that_answers_is_not_fenced(tier: Tier, name: str) -> None:
    answer = await tier.refused("POST", f"/v1/hosts/{name}/fence")
    assert answer.refusal == (409, "wrong-state")
    assert "switch it off" in answer.json["reason"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"url": None},
        {"url": 8099},
        {"url": ["http://127.0.0.1:1"]},
        {"labels": {"rack": "one"}},
        {"url": "http://127.0.0.1:1", "name": "mine"},
        {"url": "http://127.0.0.1:1", "labels": ["rack"]},
        {"url": "http://127.0.0.1:1", "labels": {"rack": 1}},
        {"urls": ["http://127.0.0.1:1"]},
    ],
    ids=json.dumps,
)
async def test_wrong_fields_of_a_new_host(tier: Tier, document: dict[str, object]) -> None:
    assert (await tier.refused("POST", "/v1/hosts", document)).refusal == BAD


@pytest.mark.parametrize("body", [b"x" * 70_000, b'{"url": "' + b"x" * 70_000 + b'"}'])
@pytest.mark.parametrize(("method", "target"), [("POST", "/v1/hosts"), ("PATCH", "/v1/hosts/here")])
async def test_bodies_too_large(tier: Tier, method: str, target: str, body: bytes) -> None:
    assert (await tier.refused(method, target, body=body)).refusal == (413, "too-large")


@pytest.mark.parametrize(
    "target", ["/v1/capacity", "/v1/capacity?cpu=1", "/v1/capacity?cpu=1&mem=1"]
)
async def test_capacity_of_an_unsaid_size(tier: Tier, target: str) -> None:
    answer = await tier.refused("GET", target)
    assert answer.refusal == BAD
    assert "is missing" in answer.json["reason"]


@pytest.mark.parametrize("sequence", ["x", "-1", "1.5", "9" * 40])
async def test_wrong_event_ids(tier: Tier, sequence: str) -> None:
    answer = await tier.refused("GET", "/v1/events", headers={"Last-Event-ID": sequence})
    assert answer.refusal == BAD
