"""What a call to the scheduler can end in instead of an answer: refused, or nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schedulercommon.errors import VmStackError


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one host said to a request that was refused in the end."""

    host: str
    code: str
    reason: str


class Refused(VmStackError):
    """The scheduler refused; ``str()`` of it is its sentence.

    Nothing was done, unless :attr:`outcome_unknown`.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        attempts: tuple[Attempt, ...] = (),
        document: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        """Stable, for programs: ``no-capacity``, ``name-taken`` …; empty if none was given."""
        self.reason = reason
        self.attempts = attempts
        """In the order the hosts were asked."""
        self.document = document or {"success": False, "reason": reason, "code": code}
        """The refusal as it came."""

    @property
    def outcome_unknown(self) -> bool:
        """Whether a host was asked and did not say what it did; repeat the same request."""
        return self.document.get("outcome") == "unknown"


class Unreachable(VmStackError):
    """No scheduler there, or none that gives a usable answer; ``str()`` of it says what is."""

    def __init__(self, message: str, *, maybe_done: bool) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done
        """Whether what was asked would change something and may have been done, or be done yet."""


class Cut(Unreachable):
    """The connection ended before the answer did."""


class Senseless(Unreachable):
    """What answers there does not do so as a scheduler would."""


def read_refusal(document: Any) -> Refused | None:
    """The refusal *document* is; None if it is none."""
    if not isinstance(document, dict) or document.get("success") is not False:
        return None
    code, reason, told = (document.get(name) for name in ("code", "reason", "attempts"))
    return Refused(
        code if isinstance(code, str) else "",
        reason if isinstance(reason, str) and reason else "refused, and no reason was given",
        tuple(
            Attempt(*(str(each.get(name) or "") for name in ("host", "code", "reason")))
            for each in (told if isinstance(told, list) else ())
            if isinstance(each, dict)
        ),
        document,
    )
