"""Query strings read strictly: each parameter known, given once, not empty, and in its bounds.

Every refusal is a BadRequest whose sentence names the parameter and says how to mend it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from aiohttp import web

from schedulercommon.errors import BadRequest
from schedulercommon.levels import MIB_PER_GB, Level, parse_count, parse_gb, parse_level
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS, NAME, NAME_RULE, VmSpec

LONGEST_PATH = 4095
DEPLOY = ("name", "cpu", "mem", "oc", "qcow2")
SIZE = ("cpu", "mem", "oc")

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_parameters(
    request: web.Request, needed: Iterable[str] = (), optional: Iterable[str] = ()
) -> dict[str, str]:
    """The parameters of *request*, decoded: all *needed* and perhaps *optional* ones."""
    target = request.raw_path
    if "#" in target:
        raise BadRequest("the address holds a bare '#', which ends it; write %23 instead")
    found: dict[str, str] = {}
    text = target.partition("?")[2]
    known = (*needed, *optional)
    for piece in text.split("&") if text else ():
        if not piece:
            continue
        raw_name, _, raw_value = piece.partition("=")
        name = _decoded(raw_name, raw_name)
        if name not in known:
            raise BadRequest(f"parameter {shown(name)} is not known here; {_takes(known)}")
        if name in found:
            raise BadRequest(f"parameter {name!r} is given twice; give it once")
        value = _decoded(raw_value, name)
        if not value:
            raise BadRequest(f"parameter {name!r} is empty; give it a value")
        if len(value) > LONGEST_PATH:
            raise BadRequest(
                f"parameter {name!r} has {len(value)} characters; it may have {LONGEST_PATH}"
            )
        found[name] = value
    missing = [name for name in needed if name not in found]
    if missing:
        raise BadRequest(f"parameter {missing[0]!r} is missing; {_takes(known)}")
    return found


def _takes(known: tuple[str, ...]) -> str:
    return f"this route takes {', '.join(known)}" if known else "this route takes none"


def _decoded(text: str, name: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text and text.isascii():
        return text
    if _BROKEN_ESCAPE.search(text):
        raise BadRequest(
            f"parameter {shown(name)} has a '%' without two hexadecimal digits; write %25 for '%'"
        )
    try:
        return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(f"parameter {shown(name)} is not UTF-8; encode it so") from None


def shown(text: str) -> str:
    """*text* for a sentence: quoted, and not too long."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def read_deploy(request: web.Request, request_id: str = "") -> VmSpec:
    """The VM asked for by ``/deploy?name=&cpu=&mem=&oc=&qcow2=``, under *request_id*."""
    found = read_parameters(request, DEPLOY)
    return VmSpec(
        name=valid_name(found["name"]),
        vcpus=read_count("cpu", found["cpu"], MAX_VCPUS),
        memory_mib=_memory_mib(found["mem"]),
        level=_level(found["oc"]),
        image=_image(found["qcow2"]),
        request_id=request_id,
    )


def read_size(request: web.Request) -> tuple[int, int, Level]:
    """vCPUs, memory in MiB and level of ``?cpu=&mem=&oc=``."""
    found = read_parameters(request, SIZE)
    vcpus = read_count("cpu", found["cpu"], MAX_VCPUS)
    return vcpus, _memory_mib(found["mem"]), _level(found["oc"])


def read_name(request: web.Request) -> str:
    """The name of ``?name=``."""
    return read_parameters(request, ("name",))["name"]


def valid_name(name: str, parameter: str = "name") -> str:
    """*name*, if it can be a VM's."""
    if not NAME.fullmatch(name):
        raise BadRequest(f"{parameter} {shown(name)} is not a name; write {NAME_RULE}")
    return name


def read_count(parameter: str, text: str, most: int) -> int:
    try:
        return parse_count(text, most)
    except ValueError as problem:
        raise BadRequest(f"{parameter} {shown(text)} {problem}") from None


@lru_cache(maxsize=1024)
def _memory_mib(text: str) -> int:
    try:
        return parse_gb(text, MAX_MEMORY_MIB // MIB_PER_GB)
    except ValueError as problem:
        raise BadRequest(f"mem {shown(text)} {problem}") from None


def _level(text: str) -> Level:
    try:
        return parse_level(text)
    except ValueError as problem:
        raise BadRequest(f"oc: {problem}") from None


def _image(text: str) -> str:
    if not text.startswith("/") or _CONTROL.search(text):
        raise BadRequest(
            f"qcow2 {shown(text)} is not the path of an image; write an absolute path"
            " without control characters"
        )
    return text
