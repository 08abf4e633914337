"""What standard output and error can show: everything, or plain ASCII."""

from __future__ import annotations

import codecs
import io
from collections.abc import Mapping

_STAND_INS = {"–": "-", "─": "-", "…": "...", "█": "#", "░": "."}
_ERRORS = "schedulerclient.stand-ins"


def prepare(stream: object, env: Mapping[str, str]) -> None:
    """Have *stream* write something for everything: to fail at that after the deed is no use."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    codecs.register_error(_ERRORS, _stand_in)
    if _wants_ascii(env):
        stream.reconfigure(encoding="ascii", errors=_ERRORS)
    else:
        stream.reconfigure(errors=_ERRORS)


def _wants_ascii(env: Mapping[str, str]) -> bool:
    """Whether the locale says so. Python itself writes UTF-8 in the C locale."""
    if env.get("PYTHONIOENCODING") or env.get("PYTHONUTF8"):
        return False
    locale = next((env[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if env.get(name)), "")
    return locale in ("C", "POSIX")


def _stand_in(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    unknown = problem.object[problem.start : problem.end]
    shown = (_STAND_INS.get(character) or ascii(character)[1:-1] for character in unknown)
    return "".join(shown), problem.end
