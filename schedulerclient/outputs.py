"""What standard output and error can show: everything, or plain ASCII."""

from __future__ import annotations

import codecs
import io
import locale

_STAND_INS = {"–": "-", "─": "-", "…": "...", "█": "#", "░": "."}
_ERRORS = "schedulerclient.stand-ins"


def prepare(stream: object) -> None:
    """Have *stream* write something for everything: to fail at that after the deed is no use."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    codecs.register_error(_ERRORS, _stand_in)
    # Python itself writes UTF-8 in the C locale, whose users ask for ASCII
    if locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX"):
        stream.reconfigure(encoding="ascii", errors=_ERRORS)
    else:
        stream.reconfigure(errors=_ERRORS)


def _stand_in(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    unknown = problem.object[problem.start : problem.end]
    shown = (_STAND_INS.get(character) or ascii(character)[1:-1] for character in unknown)
    return "".join(shown), problem.end
