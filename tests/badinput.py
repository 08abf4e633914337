"""What is wrong to send to either scheduler, and how to tell that nothing came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.clusterrig import cluster
from tests.webrig import IMAGE, Answer, Client, running

BAD = (400, "bad-request")
DEPLOY = {"name": "one", "cpu": "2", "mem": "1", "oc": "2", "qcow2": IMAGE}


class Tier:
    """A scheduler that has a VM called there, and all that a request may not change."""

    def __init__(self, client: Client, *states: tuple[Client, str]) -> None:
        self.client = client
        self._states = states

    async def state(self) -> list[Any]:
        assert (await self.client.get("/healthz")).status == 200
        return [_lasting((await client.get(target)).json) for client, target in self._states]

    async def refused(
        self,
        method: str,
        target: str,
        document: object = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """The answer, once it is known that nothing else came of the request."""
        before = await self.state()
        answer = await self.client.ask(method, target, document, headers, body)
        assert await self.state() == before
        return answer


def _lasting(document: Any) -> Any:
    """*document* without what changes by itself."""
    if isinstance(document, list):
        return [_lasting(each) for each in document]
    if isinstance(document, dict):
        return {name: value for name, value in document.items() if name != "seen_s_ago"}
    return document


@asynccontextmanager
async def local_tier(directory: Path) -> AsyncIterator[Tier]:
    async with running(directory) as web:
        assert (await web.deploy("there")).status == 201
        yield Tier(web, (web, "/v1/host"), (web, "/v1/vms"), (web, "/status"))


@asynccontextmanager
async def global_tier(directory: Path) -> AsyncIterator[Tier]:
    """Over two hosts, of which ``here`` has the VM."""
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(running(directory / name, name=name))
            for name in ("here", "next")
        ]
        web = await stack.enter_async_context(cluster(directory, *(host.url for host in hosts)))
        assert (await web.deploy("there", host="here")).status == 201
        # the generation of a host tells any change there
        theirs = [(host, "/v1/host") for host in hosts]
        yield Tier(web, (web, "/v1/vms"), (web, "/v1/hosts"), *theirs)


TIERS = {"local": local_tier, "global": global_tier}


def query(**values: str) -> str:
    return "&".join(f"{name}={quote(given)}" for name, given in values.items())


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

OUT_OF_BOUNDS = [
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
]

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

BROKEN_REMOVALS = [
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
]

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

VERB_BODIES: list[tuple[str, dict[str, object]]] = [
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
]

BAD_URLS = {
    "no port": "127.0.0.1",
    "no port, whole": "http://node1",
    "empty port": "http://node1:",
    "port 0": "127.0.0.1:0",
    "port 70000": "127.0.0.1:70000",
    "port negative": "127.0.0.1:-1",
    "port a word": "127.0.0.1:http",
    "port in other digits": "127.0.0.1:٨٠٩٩",
    "https": "https://127.0.0.1:8099",
    "ftp": "ftp://127.0.0.1:8099",
    "two schemes": "http://http://127.0.0.1:8099",
    "no host": "http://:8099",
    "only a port": ":8099",
    "only a number": "8099",
    "path": "http://127.0.0.1:8099/status",
    "query": "http://127.0.0.1:8099?x=1",
    "fragment": "http://127.0.0.1:8099#x",
    "user": "http://user@127.0.0.1:8099",
    "user and password": "http://user:pw@127.0.0.1:8099",
    "blank": "127.0.0.1: 8099",
    "blank within": "node 1:8099",
    "markup": "<node>:8099",
    "ESC": "node\x1b:8099",
    "two lines": "node1:8099\n:1",
    "accent": "nœud:8099",
    "IPv6 without brackets": "::1:8099",
    "IPv6 cut off": "[::1:8099",
    "IPv6 of nothing": "[]:8099",
    "10 kB": "a" * 10_000,
}
