"""What libvirt tells of domains, as texts and states of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schedulercommon.model import VmState
from schedulerlocal.adapters.hypervisorlink import DomainText, Why
from schedulerlocal.adapters.libvirt import LibvirtError, constant, why_of

_STATES = {
    "NOSTATE": VmState.ERROR,
    "RUNNING": VmState.RUNNING,
    "BLOCKED": VmState.RUNNING,
    "PAUSED": VmState.SUSPENDED,
    "SHUTDOWN": VmState.RUNNING,  # it is being shut down
    "SHUTOFF": VmState.DOWN,
    "CRASHED": VmState.ERROR,
    "PMSUSPENDED": VmState.SUSPENDED,
}
_INACTIVE, _IS_PAUSED = constant("VIR_DOMAIN_XML_INACTIVE"), constant("VIR_DOMAIN_PAUSED")
_STATE_OF_CODE = {constant(f"VIR_DOMAIN_{name}"): state for name, state in _STATES.items()}
_PAUSED = {
    "MIGRATION": VmState.MIGRATING,
    "POSTCOPY": VmState.MIGRATING,
    "STARTING_UP": VmState.RUNNING,
    "CRASHED": VmState.ERROR,
    "POSTCOPY_FAILED": VmState.ERROR,
}
_PAUSED_OF_CODE = {
    constant(f"VIR_DOMAIN_PAUSED_{name}"): state
    for name, state in _PAUSED.items()
    if constant(f"VIR_DOMAIN_PAUSED_{name}")
}


def texts_of(domains: Iterable[Any], *, only_live: bool = False) -> list[DomainText]:
    """Those that are still there. With *only_live* an active one's next boot is not asked for."""
    told = []
    for domain in domains:
        try:
            active = bool(domain.isActive())
            live = domain.XMLDesc(0 if active else _INACTIVE)
            config = domain.XMLDesc(_INACTIVE) if active and not only_live else live
            state, reason = domain.state()
        except LibvirtError as problem:
            if why_of(problem) is not Why.GONE:
                raise
            continue  # it went as we looked
        told.append(
            DomainText(
                name=domain.name(),
                state=_vm_state(state, reason),
                active=active,
                live=live,
                config=config,
            )
        )
    return told


def _vm_state(state: int, reason: int) -> VmState:
    if state == _IS_PAUSED:
        return _PAUSED_OF_CODE.get(reason, VmState.SUSPENDED)
    return _STATE_OF_CODE.get(state, VmState.ERROR)
