"""What a host's answer means: done, refused there, refused for good, or nobody knows.

The rules decide what may be tried elsewhere. The body's ``success`` decides, not the status, for
an older local scheduler answers 200 to everything; an answer that is no JSON object, or a server's
fault without a code, says nothing about what was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from schedulercommon.errors import HTTP_STATUS

ELSEWHERE = frozenset(
    {"no-capacity", "hypervisor-failed", "unauthorized", "forbidden"}
    | {code for code, status in HTTP_STATUS.items() if status == 503} - {"host-unreachable"}
)
"""Codes of a refusal after which another host may be tried: nothing was left on this one."""


LONGEST_REASON = 300
"""Of what a host said, in characters."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of a host."""

    status: int
    document: Any
    """The JSON of the body; None if it is none."""


class Meaning(Enum):
    """What became of a request."""

    DONE = auto()
    ELSEWHERE = auto()
    """Not done here; another host may be tried."""
    REFUSED = auto()
    """Not done, and it would be the same anywhere."""
    ASK = auto()
    """Refused without a code, by an older local scheduler; its list of VMs tells what it did."""
    UNKNOWN = auto()
    """It may be done, or be done later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer means."""

    meaning: Meaning
    code: str = ""
    reason: str = ""
    document: Mapping[str, Any] | None = None
    """What the host said of the VM, if it did."""


def one_line(text: str) -> str:
    """What a host said as part of a sentence of ours, or of a log: printable, not too long."""
    shown = "".join(each if each.isprintable() else " " for each in text[: 2 * LONGEST_REASON])
    return " ".join(shown.split())[:LONGEST_REASON]


def deploy_outcome(reply: Reply, name: str) -> Outcome:
    """What the answer to a deploy of the VM called *name* means."""
    document = reply.document
    if not isinstance(document, Mapping):
        return _nobody_knows(reply)
    if document.get("success") is True:
        return Outcome(Meaning.DONE)
    if "success" not in document and reply.status in (200, 201):
        if document.get("name") == name:
            return Outcome(Meaning.DONE, document=document)
        return Outcome(Meaning.UNKNOWN, reason="it answered with another VM than was asked for")
    return _refusal(reply, document)


def remove_outcome(reply: Reply) -> Outcome:
    """What the answer to a removal means; a VM the host does not know is removed."""
    document = reply.document
    if not isinstance(document, Mapping):
        return _nobody_knows(reply)
    if document.get("success") is True or document.get("code") == "unknown-vm":
        return Outcome(Meaning.DONE)
    return _refusal(reply, document)


def _refusal(reply: Reply, document: Mapping[str, Any]) -> Outcome:
    code, reason = document.get("code"), document.get("reason")
    reason = one_line(reason) if isinstance(reason, str) and reason else "it gave no reason"
    if document.get("success") is not False:
        return _nobody_knows(reply)
    if not isinstance(code, str) or not code:
        if reply.status >= 500:
            return Outcome(Meaning.UNKNOWN, reason=reason)
        return Outcome(Meaning.ASK, reason=reason)
    if code in ELSEWHERE:
        return Outcome(Meaning.ELSEWHERE, code, reason)
    if reply.status >= 500 and code not in HTTP_STATUS:
        return Outcome(Meaning.UNKNOWN, code, reason)
    if code == "host-unreachable":
        return Outcome(Meaning.UNKNOWN, code, reason)
    return Outcome(Meaning.REFUSED, code, reason)


def _nobody_knows(reply: Reply) -> Outcome:
    return Outcome(Meaning.UNKNOWN, reason=f"its answer (status {reply.status}) makes no sense")
