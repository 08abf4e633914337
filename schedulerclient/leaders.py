"""Which of several global schedulers leads, as people and scripts are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schedulerclient.answers import Standing
from schedulerclient.faults import Refused, Unreachable
from schedulerclient.tables import Cell, Column, Part, Row, Table

Standings = Mapping[str, Standing | Refused | Unreachable]
"""By the address each was asked at."""

_NOT_ONE = "it does not know: a local scheduler, or one of an older version"


def leading_one(standings: Standings) -> tuple[str, Standing] | None:
    """Where the one that leads was asked, and what it said."""
    found = [
        (url, told)
        for url, told in standings.items()
        if isinstance(told, Standing) and told.leading
    ]
    # one that was succeeded this moment may not know it yet
    return max(found, key=lambda each: each[1].epoch, default=None)


def leader_document(standings: Standings) -> dict[str, Any]:
    found = leading_one(standings)
    return {
        "leader": found[0] if found else None,
        "epoch": found[1].epoch if found else None,
        "schedulers": {
            url: dict(told.document) if isinstance(told, Standing) else {"problem": _problem(told)}
            for url, told in standings.items()
        },
    }


def leader_parts(standings: Standings) -> tuple[Part, ...]:
    found = leading_one(standings)
    columns = (
        Column("SCHEDULER"),
        Column("STATE"),
        Column("EPOCH", right=True),
        Column("REMARKS", folds=" "),
    )
    rows = [_row(url, told, found) for url, told in standings.items()]
    if found is None:
        gist = "none of these leads"
        last = {told.leader for told in standings.values() if isinstance(told, Standing)} - {""}
        if last:
            gist += f"; {' or '.join(sorted(last))} does, or did last"
    else:
        url, told = found
        gist = f"{url} leads"
        gist += f", epoch {told.epoch}" if told.shared else "; it shares its cluster with no other"
    return (Table(columns, rows), "", gist)


def _row(
    url: str, told: Standing | Refused | Unreachable, found: tuple[str, Standing] | None
) -> Row:
    if not isinstance(told, Standing):
        return (url, Cell("away", "red"), "–", _problem(told))
    leads = found is not None and found[0] == url
    state = Cell("leads", "green") if leads else Cell("follows", "cyan")
    elsewhere = f"the others find it at {told.leader}" if leads and told.leader != url else ""
    remark = elsewhere if told.leader and told.shared else ""
    return (url, state, str(told.epoch), remark)


def _problem(told: Refused | Unreachable) -> str:
    return _NOT_ONE if isinstance(told, Refused) and told.code == "not-found" else str(told)
