"""What people write after an option: read, or refused in a sentence before anything is asked.

What the scheduler would refuse for its form alone is refused here, in the same cases.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from schedulercommon.levels import (
    MIB_PER_GB,
    Level,
    parse_count,
    parse_decimal,
    parse_gb,
    parse_level,
)
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS, NAME, NAME_RULE

MOST_LISTED = 64
"""Labels, hosts to avoid, VMs to be near: as many of each does one request take."""

_LONGEST_S = 86_400
_LONGEST_IMAGE = 4095
_LONGEST_TEXT = 253
_LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")
_HOST_URL = re.compile(r"[!-~]{1,300}")
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and what stands for bytes that are no UTF-8."""


def refused(problem: object) -> ArgumentTypeError:
    return ArgumentTypeError(str(problem))


def given(text: str) -> str:
    """A name that is there already, and so may be older than the rules for names."""
    if text in ("", ".", "..") or _UNFIT.search(text):
        raise refused(f"{text[:70]!a} is not a name")
    return text


def name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise refused(f"{text[:70]!a} is not a name; write {NAME_RULE}")
    return text


def policy(text: str) -> str:
    if not NAME.fullmatch(text):
        raise refused(f"{text[:70]!a} is not a policy; write one like best-fit")
    return text


def host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise refused(f"{text[:70]!a} is not the name of a host; 'hosts' lists those there are")
    return text


def hosts(text: str) -> list[str]:
    return [host(each) for each in _several(text)]


def host_url(text: str) -> str:
    if not _HOST_URL.fullmatch(text):
        raise refused(
            f"{text[:70]!a} is not where a local scheduler listens; write it like http://node1:8099"
        )
    return text


def image(text: str) -> str:
    if not text.startswith("/") or text == "/":
        raise refused(
            f"{text[:70]!a} is not a path from / on; write where its host has the image,"
            " like /var/lib/libvirt/images/hello.qcow2"
        )
    if len(text) > _LONGEST_IMAGE:
        raise refused(
            f"{text[:40]!a}… has {len(text)} characters; a path has at most {_LONGEST_IMAGE}"
        )
    return _fit(text, "path")


def request_id(text: str) -> str:
    if not _REQUEST_ID.fullmatch(text):
        raise refused(
            f"{text[:70]!a} is not an id; write 1 to 128 letters, digits, '.', '_', ':' or '-',"
            " a letter or digit first"
        )
    return text


def vcpus(text: str) -> int:
    return count(text, MAX_VCPUS)


def count(text: str, most: int) -> int:
    try:
        return parse_count(text, most)
    except ValueError as problem:
        raise refused(f"{text[:40]!a} {problem}") from None


def memory_mib(text: str) -> int:
    try:
        return parse_gb(text, MAX_MEMORY_MIB // MIB_PER_GB)
    except ValueError as problem:
        raise refused(f"{text[:40]!a} {problem}") from None


def level(text: str) -> Level:
    try:
        return parse_level(text)
    except ValueError as problem:
        raise refused(problem) from None


def seconds(text: str) -> float:
    try:
        read_s = float(parse_decimal(text))
    except ValueError:
        read_s = 0.0
    if not 0 < read_s <= _LONGEST_S:
        raise refused(f"{text[:40]!a} is not a number of seconds above 0 and up to {_LONGEST_S}")
    return read_s


def sequence(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise refused(f"{text[:40]!a} is not the id of an event; 'events --ids' shows them")
    return int(text)


def selectors(text: str) -> list[str]:
    """Names of VMs, and labels of VMs."""
    return ["=".join(label(each)) if "=" in each else name(each) for each in _several(text)]


def label_name(text: str) -> str:
    if not _LABEL_NAME.fullmatch(text):
        raise refused(
            f"{text[:70]!a} is not the name of a label; write 1 to 63 letters, digits, '.', '_',"
            " '/' or '-', a letter or digit first"
        )
    return text


def label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise refused(f"{text[:70]!a} is not a label; write it like rack=r1")
    if len(value) > _LONGEST_TEXT:
        raise refused(
            f"label {key[:70]!a} has a text of {len(value)} characters; it may have {_LONGEST_TEXT}"
        )
    return label_name(key), _fit(value, "label")


def label_or_drop(text: str) -> tuple[str, str | None]:
    if "=" not in text and len(text) > 1 and text.endswith("-"):
        return text[:-1], None
    return label(text)


def _several(text: str) -> list[str]:
    found = text.split(",")
    if not all(found):
        raise refused(f"{text[:70]!a} is not a list like a,b")
    return found


def _fit(text: str, what: str) -> str:
    if _UNFIT.search(text):
        raise refused(
            f"{text[:70]!a} has characters no {what} may have; leave out control characters and"
            " what is not UTF-8"
        )
    return text
