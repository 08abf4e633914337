"""How a command ends: its exit code, and what people are told about what went wrong."""

from __future__ import annotations

from argparse import Namespace

from schedulerclient.faults import Cut, Refused, Unreachable
from schedulerprocess.options import FAILED

UNREACHABLE, NO_CAPACITY, UNSETTLED = 3, 4, 5

_READING = frozenset(
    (
        *("explain", "status", "vms", "vm", "console", "hosts", "capacity", "events"),
        *("leader",),
    )
)


def changes_something(command: str) -> bool:
    return command not in _READING


def refusal_code(refusal: Refused, command: str) -> int:
    if refusal.code == "no-capacity":
        return NO_CAPACITY
    # a VM that has a host is asked for there; a deploy says itself whether anyone was asked
    passed_on = command == "remove" or command.startswith("vm-")
    if refusal.outcome_unknown or (passed_on and refusal.code == "host-unreachable"):
        return UNSETTLED
    return FAILED


def refusal_lines(refusal: Refused, *, with_token: bool) -> list[str]:
    """The scheduler's sentence, and what hosts said that is not in it."""
    sentence = str(refusal)
    if refusal.code == "unauthorized" and not with_token:
        sentence += "; name a file that holds it with --token-file or VMSTACK_TOKEN_FILE"
    if refusal.code == "not-found":
        sentence += "; is that the global scheduler, usually port 8100, and as new as the client?"
    said = [
        f"  {each.host}: {each.reason} ({each.code})"
        for each in refusal.attempts
        if each.reason not in sentence
    ]
    return [sentence, *said]


def unreachable_line(problem: Unreachable, asked: Namespace) -> str:
    if problem.maybe_done:
        return f"{problem}; {unsure(asked)}"
    if asked.command == "events" and isinstance(problem, Cut):
        return f"{problem}; ask again"
    return f"{problem}; is it running there? --url or VMSTACK_URL says where it listens"


def unsure(asked: Namespace) -> str:
    """What to do about a change that may or may not have been made."""
    start = "what was asked may or may not be done"
    if asked.command == "deploy":
        return f"{start}; repeat the same command, which never makes two of it"
    if asked.command == "remove":
        return f"{start}; repeat the same command, which then says what there is left to remove"
    look = f"vm {asked.name}" if asked.command.startswith("vm-") else "hosts"
    return f"{start}; 'python -m schedulerclient {look}' tells"
