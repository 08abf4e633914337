"""Which verb a VM takes in which state; none of them changes what is reserved for it."""

from __future__ import annotations

from enum import StrEnum

from schedulercommon.errors import WrongState
from schedulercommon.model import VmState


class Verb(StrEnum):
    """What may be done to a VM that exists."""

    START = "start"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    RESUME = "resume"


_NEXT = {
    (Verb.START, VmState.DOWN): VmState.RUNNING,
    (Verb.SHUTDOWN, VmState.RUNNING): VmState.DOWN,
    (Verb.REBOOT, VmState.RUNNING): VmState.RUNNING,
    (Verb.SUSPEND, VmState.RUNNING): VmState.SUSPENDED,
    (Verb.RESUME, VmState.SUSPENDED): VmState.RUNNING,
}
_FORCED = {(Verb.SHUTDOWN, VmState.SUSPENDED): VmState.DOWN}


def state_after(name: str, verb: Verb, state: VmState, force: bool = False) -> VmState:
    """The state *verb* leads to; raises WrongState if the VM does not take it."""
    after = _NEXT.get((verb, state)) or (_FORCED.get((verb, state)) if force else None)
    if after is None:
        allowed = " or ".join(at for doing, at in _NEXT if doing is verb)
        raise WrongState(f"VM {name!r} is {state}; {verb} needs it {allowed}")
    return after
