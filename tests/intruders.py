"""Who may not ask, and who may: headers that schedulers of both tiers are asked with, and where."""

from __future__ import annotations

from tests.webrig import IMAGE

REMOVE = "/remove?name=there"
TOKEN = "s3cret-and-long"
GIVEN = {"Authorization": f"Bearer {TOKEN}"}
"""A header with a token that is one."""

WRONG_TOKENS: list[dict[str, str]] = [
    {"Authorization": "Bearer wrong"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer"},
    {"Authorization": ""},
    {"Authorization": TOKEN},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": f"Token {TOKEN}"},
    {"Authorization": "Bearer é"},
    {"X-Token": TOKEN},
    {"Cookie": f"token={TOKEN}"},
]

FOREIGN = {
    "another site": {"Origin": "http://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "no site": {"Origin": "null"},
    "nonsense": {"Origin": "127.0.0.1"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "rebound name": {"Host": "evil.example"},
    "rebound name with port": {"Host": "evil.example:8099"},
    "name like an address": {"Host": "127.0.0.1.evil.example"},
    "name like localhost": {"Host": "localhost.evil.example"},
    "no name": {"Host": "@"},
}
"""Requests that change nothing, whatever they ask for, as long as no token is set."""

OWN = {
    "curl": {},
    "own page": {"Origin": "http://127.0.0.1:8099", "Host": "127.0.0.1:8099"},
    "own page, same-origin": {"Sec-Fetch-Site": "same-origin"},
    "typed in": {"Sec-Fetch-Site": "none"},
    "localhost": {"Host": "localhost:8099"},
    "LOCALHOST": {"Host": "LOCALHOST"},
    "IPv6": {"Host": "[::1]:8099"},
    "another address": {"Host": "10.0.0.7"},
}
"""Requests that may change something."""

CLUSTER_CHANGES = [
    ("GET", REMOVE),
    ("GET", f"/deploy?name=b&cpu=1&mem=1&oc=1&qcow2={IMAGE}"),
    ("GET", "/%72emove?name=there"),
    ("POST", "/v1/vms"),
    ("POST", "/v1/vms?dry_run=1"),
    ("DELETE", "/v1/vms/there"),
    *[("POST", f"/v1/vms/there/{verb}") for verb in ("start", "suspend", "resize", "adopt")],
    ("POST", "/v1/hosts"),
    ("PATCH", "/v1/hosts/a"),
    *[("POST", f"/v1/hosts/a/{verb}") for verb in ("drain", "resume", "maintenance", "fence")],
]
"""What changes something in a cluster of a host ``a`` and a VM ``there``."""
