"""Every fault VMStack raises, as one tree.

::

    VmStackError
    ├── UsageError            the command line or a setting is wrong        exit 2
    │   └── ConfigError       a setting, from the environment or ``.env``
    ├── InputError            a file given to us cannot be used             exit 1
    │   ├── TopologyError     a topology description
    │   └── TraceError        a monitoring trace
    ├── OutputError           a result cannot be written                    exit 1
    └── RefusedError          a request is refused; ``code`` tells programs why
        ├── BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, TooLarge
        ├── UnknownVm, NameTaken, WrongState, NoCapacity, RequestCancelled
        ├── HypervisorError   the hypervisor failed; whatever was done has been undone
        ├── UnknownHost, HostUnreachable
        ├── HostRefused       what a host said, passed on with its own code
        └── NotReady, Overloaded, StoreUnavailable

Each message is one sentence saying what is wrong, where, and how to mend it. A refusal for
want of room is no fault where it is decided: there it is a value, a
:class:`schedulercommon.model.Rejection`, which becomes NoCapacity on its way to the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class VmStackError(Exception):
    """Base of all faults; ``str()`` of it is the sentence for the user."""


class UsageError(VmStackError):
    """The command was called wrongly; exit code 2."""


class ConfigError(UsageError):
    """A setting has an impossible value."""


class InputError(VmStackError):
    """A file handed to us cannot be used; exit code 1."""


class TopologyError(InputError):
    """A topology description is incomplete or contradicts itself."""


class TraceError(InputError):
    """A monitoring trace breaks its format; names the line."""


class OutputError(VmStackError):
    """A result cannot be written; exit code 1."""


class RefusedError(VmStackError):
    """A request is refused, and nothing has changed."""

    code = "failed"
    """Stable; clients may rely on it. :data:`HTTP_STATUS` has the status that goes with it."""
    details: Mapping[str, Any] = {}
    """What the answer tells beside the sentence, for programs."""


class BadRequest(RefusedError):
    code = "bad-request"


class Unauthorized(RefusedError):
    code = "unauthorized"


class Forbidden(RefusedError):
    code = "forbidden"


class NotFound(RefusedError):
    code = "not-found"


class MethodNotAllowed(RefusedError):
    code = "method-not-allowed"


class TooLarge(RefusedError):
    code = "too-large"


class UnknownVm(RefusedError):
    code = "unknown-vm"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no VM named {name!r} here; /listvm shows those there are")
        self.name = name


class NameTaken(RefusedError):
    code = "name-taken"

    def __init__(self, name: str, sentence: str = "") -> None:
        usual = f"another VM is already named {name!r}; remove it or choose another name"
        super().__init__(sentence or usual)
        self.name = name


class WrongState(RefusedError):
    code = "wrong-state"


class NoCapacity(RefusedError):
    code = "no-capacity"


class RequestCancelled(RefusedError):
    """What is asked under that id is not done any more."""

    code = "request-cancelled"

    def __init__(self, request_id: str, became: str = "has been cancelled") -> None:
        super().__init__(f"request {request_id!r} {became}; send it again under a new id")
        self.request_id = request_id


class HypervisorError(RefusedError):
    code = "hypervisor-failed"
    clean = True
    """Whether everything done before was undone; if not, the repair pass goes on."""


class UnknownHost(RefusedError):
    code = "unknown-host"

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= 80 else name[:80] + "…"
        super().__init__(f"there is no host named {shown!r} here; /v1/hosts shows those there are")
        self.name = name


class HostUnreachable(RefusedError):
    code = "host-unreachable"


class HostRefused(RefusedError):
    """A host's refusal, passed on; a code nobody knows here becomes ``hypervisor-failed``."""

    def __init__(self, host: str, code: str, reason: str) -> None:
        super().__init__(f"host {host}: {reason}")
        self.code = code if code in HTTP_STATUS else HypervisorError.code


class NotReady(RefusedError):
    code = "not-ready"


class Overloaded(RefusedError):
    code = "overloaded"


class StoreUnavailable(RefusedError):
    code = "store-unavailable"


class NotLeader(RefusedError):
    code = "not-leader"


HTTP_STATUS = {
    "bad-request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown-vm": 404,
    "unknown-host": 404,
    "not-found": 404,
    "method-not-allowed": 405,
    "name-taken": 409,
    "no-capacity": 409,
    "wrong-state": 409,
    "request-cancelled": 409,
    "too-large": 413,
    "hypervisor-failed": 502,
    "host-unreachable": 503,
    "store-unavailable": 503,
    "not-ready": 503,
    "overloaded": 503,
    "not-leader": 503,
}
"""The status of every code a refusal can carry."""
