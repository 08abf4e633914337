"""``python -m schedulerglobal``: the service, from its start to its end.

The store is opened first, so that a second global scheduler on it does not begin to listen; then
the port, so that whoever waits for ``/readyz`` finds it; changes are taken once every host was
looked at.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from contextlib import AsyncExitStack
from random import Random

from schedulerglobal.adapters.api import SHUTDOWN_S, create_app, serve
from schedulerglobal.adapters.forwarding import Forwarder
from schedulerglobal.adapters.hostclient import HttpHosts
from schedulerglobal.adapters.stores import shared_store_for, store_for
from schedulerglobal.config import GlobalSettings
from schedulerglobal.core.health import Health
from schedulerglobal.office import Office
from schedulerglobal.scheduler import ClusterScheduler, Sharing, Surroundings
from schedulerprocess.collector import calm_collector
from schedulerprocess.lifetime import ended, stop_on_signals, stopped_before
from schedulerprocess.logs import log_to_stderr
from schedulerweb.guard import read_tokens
from schedulerweb.server import urls

LEAST_POLL_S, LONGEST_POLL_S = 1.0, 5.0
"""How long a poll may take: the delay between two, within these."""

_log = logging.getLogger(__name__)


def run_service(settings: GlobalSettings) -> None:
    """Serve until a signal; raises VmStackError if that cannot begin."""
    log_to_stderr()
    asyncio.run(_serve(settings))


async def _serve(settings: GlobalSettings) -> None:
    stop = stop_on_signals()
    _raise_file_limit()
    tokens = read_tokens(settings.local_token_file)
    async with AsyncExitStack() as stack:
        shared = shared_store_for(settings.store, settings.cluster)
        office = Office(_awake_or_not_s, shared=shared is not None)
        client = HttpHosts(
            token=tokens[0].decode() if tokens else "",
            poll_timeout_s=poll_timeout_s(settings.delay_s),
            call_timeout_s=settings.call_timeout_s,
            office=office,
        )
        stack.push_async_callback(client.close)
        scheduler = ClusterScheduler(
            shared or store_for(settings.store),
            client,
            Surroundings(time.time, _awake_or_not_s, asyncio.sleep, Random(settings.seed)),
            urls=settings.urls,
            policy=settings.policy,
            delay_s=settings.delay_s,
            office=office,
            sharing=Sharing(shared, settings.own_url, settings.lease_s) if shared else None,
        )
        forwarder = Forwarder(
            office,
            own_url=settings.own_url,
            timeout_s=settings.call_timeout_s,
            caught_up=scheduler.caught_up,
        )
        stack.push_async_callback(forwarder.close)
        app = create_app(scheduler, settings, _awake_or_not_s, forwarder)
        stack.push_async_callback(scheduler.close)
        await scheduler.open()
        # where others wait to take over, they are not kept waiting for long
        within_s = min(SHUTDOWN_S, settings.lease_s) if shared else SHUTDOWN_S
        runner = await serve(app, settings.address, settings.port, within_s)
        for url in urls(runner):
            _log.info("listening on %s", url)
        polling = asyncio.create_task(scheduler.run(), name="polling")
        stack.push_async_callback(ended, polling)
        # first of all at the end: what is under way is finished while the lead is still renewed
        stack.push_async_callback(runner.cleanup)
        first_round = asyncio.create_task(scheduler.poller.first_round.wait(), name="first round")
        stack.push_async_callback(ended, first_round)
        if await stopped_before(stop, first_round):
            _log.info("stopping: it was not ready yet")
            return
        up = sum(host.health is Health.UP for host in scheduler.fleet)
        _log.info(
            "global scheduler is ready; hosts up: %d of %d, VMs promised: %d",
            up,
            len(scheduler.fleet.addresses),
            len(scheduler.book),
        )
        calm_collector()
        if not await stopped_before(stop, polling):
            raise RuntimeError("polling ended by itself")
        _log.info("stopping: what is under way is finished first")


def _awake_or_not_s() -> float:
    """A monotonic clock that goes on while the machine sleeps: a lease does, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def poll_timeout_s(delay_s: float) -> float:
    """How long one poll may take where there are *delay_s* between two: a host that is busy for a
    moment is not away."""
    return min(max(delay_s, LEAST_POLL_S), LONGEST_POLL_S)


def _raise_file_limit() -> None:
    """As many open files as are allowed: every host takes a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
