"""Talking to local schedulers over HTTP (aiohttp).

Older ones are asked for changes over a connection made for the purpose: if it cannot be made,
nothing was asked; and nothing is ever sent twice, which the library does with a GET whose
connection broke. What is only read may well be asked for again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from schedulercommon.errors import RefusedError
from schedulercommon.levels import MIB_PER_GB, format_level
from schedulercommon.model import VmSpec
from schedulerglobal.adapters.statusreading import read_host, read_names, read_status
from schedulerglobal.core.outcomes import Reply, one_line
from schedulerglobal.office import Office
from schedulerglobal.ports import NoAnswer, NotAllowed, NotSent, Report, Site
from schedulerweb.guard import ATTEMPT, EPOCH, EXPECTED_HOST

T = TypeVar("T")

LARGEST_ANSWER = 4 << 20
CONNECT_S = 5.0

_NO_ANSWER = (
    aiohttp.ClientError,
    TimeoutError,
    ConnectionError,
    ValueError,  # what aiohttp's reader makes of broken framing
)


class HttpHosts:
    """The local schedulers of a cluster, by address. To be closed."""

    def __init__(
        self,
        *,
        token: str = "",
        poll_timeout_s: float,
        call_timeout_s: float,
        office: Office | None = None,
    ) -> None:
        """Nothing is changed while *office* is not held, and hosts are told its epoch, so that
        they take nothing from whoever led before."""
        self._office = office
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._poll = aiohttp.ClientTimeout(
            total=poll_timeout_s, sock_connect=min(CONNECT_S, poll_timeout_s)
        )
        self._call = aiohttp.ClientTimeout(
            total=call_timeout_s, sock_connect=min(CONNECT_S, call_timeout_s)
        )
        self._kept = _session(headers, aiohttp.TCPConnector(limit=0, keepalive_timeout=60.0))
        self._fresh = _session(headers, aiohttp.TCPConnector(limit=0, force_close=True), once)

    async def close(self) -> None:
        await self._kept.close()
        await self._fresh.close()

    async def look(self, url: str, before: Report | None) -> Report | None:
        if before is None or before.typed:
            known = {"If-None-Match": before.etag} if before is not None and before.etag else {}
            # who looks at a host tells it that another led before
            asked = {**known, **self._epoch()}
            status, headers, document = await self._get(url, "/v1/host", asked)
            if status == 304 and known:
                return None
            if status == 200:
                host, names = _read(url, read_host, document)
                return Report(host, names, headers.get("ETag", ""), typed=True)
            if status != 404 or before is not None:
                raise NoAnswer(_told(status, document))
        return await self._look_at_old(url, before)

    async def _look_at_old(self, url: str, before: Report | None) -> Report | None:
        """How a host is that knows only the published routes."""
        name = url.partition("://")[2]
        if before is None:
            # what is no local scheduler at all is told so before it is asked for more
            await self._status_of_old(url, name, frozenset())
        elif before.etag:
            status, _, _ = await self._get(url, "/status", {"If-None-Match": before.etag})
            if status == 304:
                return None
        # the names first: a VM among them is in a status that is asked for later
        names = await self._names(url, {})
        return await self._status_of_old(url, name, names)

    async def _status_of_old(self, url: str, name: str, names: frozenset[str]) -> Report:
        status, headers, document = await self._get(url, "/status", {})
        if status != 200:
            raise NoAnswer(_told(status, document))
        host = _read(url, lambda it: read_status(it, name, names), document)
        return Report(host, names, headers.get("ETag", ""), typed=False)

    async def names(self, site: Site) -> frozenset[str]:
        return await self._names(site.url, {EXPECTED_HOST: site.name} if site.typed else {})

    async def _names(self, url: str, headers: Mapping[str, str]) -> frozenset[str]:
        status, _, document = await self._get(url, "/listvm", headers)
        if status != 200:
            raise NoAnswer(_told(status, document))
        return _read(url, read_names, document)

    async def deploy(self, site: Site, spec: VmSpec) -> Reply:
        if site.typed:
            return await self.ask(site, "POST", "/v1/vms", _document(spec))
        query = (
            f"/deploy?name={spec.name}&cpu={spec.vcpus}&mem={_gigabytes(spec.memory_mib)}"
            f"&oc={format_level(spec.level)}&qcow2={quote(spec.image, safe='/')}"
        )
        return await self._published(site.url, query)

    async def remove(self, site: Site, name: str, attempt: str = "") -> Reply:
        quoted = quote(name, safe="")
        if site.typed:
            more = {ATTEMPT: attempt} if attempt else {}
            return await self.ask(site, "DELETE", f"/v1/vms/{quoted}", more=more)
        return await self._published(site.url, f"/remove?name={quoted}")

    async def cancel(self, site: Site, attempt: str) -> Reply:
        return await self.ask(site, "DELETE", f"/v1/requests/{attempt}")

    async def ask(
        self,
        site: Site,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        *,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Reply:
        """*more* are headers."""
        headers = {EXPECTED_HOST: site.name, **more}
        if method != "GET":
            headers |= self._in_office()
        status, _, answer = await self._send(
            self._kept,
            method,
            site.url + path,
            timeout=self._poll if method == "GET" else self._call,
            json=document,
            headers=headers,
        )
        return Reply(status, answer)

    async def _published(self, url: str, target: str) -> Reply:
        self._in_office()  # who knows no other routes knows no epochs
        status, _, answer = await self._send(self._fresh, "GET", url + target, timeout=self._call)
        return Reply(status, answer)

    def _in_office(self) -> dict[str, str]:
        """What tells a host that we lead; raises NotAllowed if we do not."""
        if self._office is None:
            return {}
        try:
            self._office.check()
        except RefusedError as problem:
            raise NotAllowed(str(problem)) from problem
        return self._epoch()

    def _epoch(self) -> dict[str, str]:
        epoch = self._office.epoch if self._office is not None else None
        return {} if epoch is None else {EPOCH: str(epoch)}

    async def _get(
        self, url: str, path: str, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], Any]:
        return await self._send(self._kept, "GET", url + path, timeout=self._poll, headers=headers)

    async def _send(
        self, session: aiohttp.ClientSession, method: str, target: str, **how: Any
    ) -> tuple[int, Mapping[str, str], Any]:
        try:
            async with session.request(
                method, URL(target, encoded=True), allow_redirects=False, **how
            ) as response:
                body = await _read_body(response)
                return response.status, response.headers, _json(body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as problem:
            raise NotSent(_connection(problem)) from problem
        except _NO_ANSWER as problem:
            raise NoAnswer(_why(problem)) from problem


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a GET again whose connection broke, old or new: it may be done,
    and a second one that finds the port closed would make it look as if it never was sent."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as problem:
        raise NoAnswer(_why(problem)) from problem


def _session(
    headers: Mapping[str, str],
    connector: aiohttp.TCPConnector,
    *middlewares: aiohttp.ClientMiddlewareType,
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        middlewares=middlewares,
        headers={"User-Agent": "VMStack", "Accept": "application/json", **headers},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding",),
    )


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body = await response.content.read(LARGEST_ANSWER)
    if not response.content.at_eof():
        parts = [body]
        size = len(body)
        while chunk := await response.content.readany():
            parts.append(chunk)
            size += len(chunk)
            if size > LARGEST_ANSWER:
                response.close()
                raise NoAnswer(f"its answer is larger than {LARGEST_ANSWER} bytes")
        body = b"".join(parts)
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None


def _read(url: str, read: Callable[[Any], T], document: Any) -> T:
    try:
        return read(document)
    except (ValueError, OverflowError) as problem:
        raise NoAnswer(f"what answers at {url} makes no sense: {problem}") from problem


def _document(spec: VmSpec) -> dict[str, Any]:
    """*spec* as ``POST /v1/vms`` takes it."""
    document: dict[str, Any] = {
        "name": spec.name,
        "vcpus": spec.vcpus,
        "memory_mib": spec.memory_mib,
        "level": format_level(spec.level),
        "image": spec.image,
        "request_id": spec.request_id,
    }
    if spec.disk != "overlay":
        document["disk"] = spec.disk
    if not spec.start:
        document["start"] = False
    if spec.labels:
        document["labels"] = dict(spec.labels)
    if spec.max_vcpus != spec.vcpus:
        document["max_vcpus"] = spec.max_vcpus
    if spec.max_memory_mib != spec.memory_mib:
        document["max_memory_mib"] = spec.max_memory_mib
    return document


def _gigabytes(memory_mib: int) -> str:
    """Exactly, as a decimal: a 1024th has ten digits."""
    whole, rest = divmod(memory_mib, MIB_PER_GB)
    if not rest:
        return str(whole)
    return f"{whole}.{rest * 10**10 // MIB_PER_GB:010d}".rstrip("0")


def _told(status: int, document: Any) -> str:
    if isinstance(document, Mapping) and isinstance(document.get("reason"), str):
        return f"it answers {status}: {one_line(document['reason'])}"
    return f"it answers with status {status}"


def _connection(problem: Exception) -> str:
    if isinstance(problem, aiohttp.ClientConnectorError):
        fault = problem.os_error
        # that of a name that cannot be resolved has a number of its own
        code = fault.errno if fault.errno and fault.errno > 0 else 0
        return f"cannot connect: {os.strerror(code) if code else fault.strerror or fault}"
    return "cannot connect: it took too long"


def _why(problem: Exception) -> str:
    if isinstance(problem, TimeoutError | asyncio.TimeoutError):
        return "it did not answer in time"
    if isinstance(problem, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(problem, aiohttp.ClientOSError | ConnectionError):
        return f"the connection broke: {problem.strerror or problem}"
    return "its answer is not HTTP, or cut off"
