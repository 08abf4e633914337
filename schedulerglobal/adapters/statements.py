"""What carries a change out in a database: which statements in which order, in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from schedulerglobal.adapters.rows import host_values, promise_values, share_values
from schedulerglobal.ports import (
    Change,
    DropHost,
    ForgetGone,
    PutHost,
    PutPromise,
    PutShares,
    RenameHost,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The statements in the words of one database: constants, so that each is prepared once."""

    put_promise: str
    forget_gone: str
    put_host: str
    drop_host: str
    rename_host: tuple[str, ...]
    """Each of the old name and the new one."""
    drop_shares: str
    put_share: str
    in_the_end: tuple[str, ...] = ()
    """Of every change of hosts or shares."""


class Statement(NamedTuple):
    """One statement of a change."""

    text: str
    values: tuple[Any, ...] = ()
    name: str = ""
    """Of the VM it would give a promise to."""


def statements(change: Change, texts: Texts) -> tuple[Statement, ...]:
    """What carries *change* out."""
    match change:
        case PutPromise(promise):
            return (Statement(texts.put_promise, promise_values(promise), promise.name),)
        case ForgetGone(before_s):
            return (Statement(texts.forget_gone, (before_s,)),)
        case PutHost(host):
            work = [Statement(texts.put_host, host_values(host))]
        case DropHost(name):
            work = [Statement(texts.drop_host, (name,))]
        case RenameHost(old, new):
            if old == new:
                return ()
            work = [Statement(text, (old, new)) for text in texts.rename_host]
        case PutShares(shares):
            rows = [Statement(texts.put_share, values) for values in map(share_values, shares)]
            work = [Statement(texts.drop_shares), *rows]
    return (*work, *map(Statement, texts.in_the_end))
