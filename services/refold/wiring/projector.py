"""The projector's service: ports, supervisor, probes, metrics and the control subject, which FastStream holds together.

Run by `refold projector` and, as a child, by `refold up`. The hot loop is not FastStream's but the supervisor's.

Shutdown order: the probes stop, the loop is cancelled (what it had not committed is folded again from the log), states
that are older than their rows are written, replies end, the store releases the shard, the connection to the log closes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from faststream.asgi import AsgiFastStream
from faststream.nats import NatsBroker
from prometheus_client import CollectorRegistry

from refold import __version__
from refold.core.stream import parse_shard
from refold.gateway.responses import json_response
from refold.log import CONTROL_SUBJECT
from refold.log.jetstream import JetStreamNotices
from refold.projector.commit_buffer import PENDING_BYTES_MAX
from refold.projector.loop import LoopLimits, Ports
from refold.projector.supervisor import Supervisor, lease_of
from refold.store.keyed import KeyedStore
from refold.store.layers.measured import measured
from refold.telemetry import instance
from refold.telemetry.metrics.process import BrokerMetrics
from refold.telemetry.metrics.projector import ProjectorMetrics
from refold.telemetry.metrics.store import StoreMetrics
from refold.wiring.broker import broker_of, watching_storage_limit
from refold.wiring.probes import serve_probes
from refold.wiring.profiling import answering_profiles
from refold.wiring.servers import broker_clock, connect_to, make_log, open_log, projection_traces
from refold.wiring.service import (
    Listener,
    collect_seldom,
    open_spans,
    stop_on_signals,
    unless_stopped,
    working,
)
from refold.wiring.settings import Settings
from refold.wiring.store_url import StoreUrl
from refold.wiring.stores import (
    ConnectedStore,
    open_store,
    open_when_there,
    projected_store,
    store_urls,
)


async def run(settings: Settings) -> None:
    """Run until a stop signal. Raises the error that stopped the projector."""
    stop, listener = stop_on_signals(), Listener.choose(settings.probe)
    collect_seldom()
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        opened = await unless_stopped(stack.enter_async_context(_ports(settings, registry)), stop)
        if opened is None:
            return
        ports, store = opened
        supervisor = Supervisor(ports, limits_of(settings))
        store.refuse_stale(supervisor.required_sequences)
        url = settings.required("nats_url")
        view = partial(view_of, supervisor, store)
        service = create_service(supervisor, broker_of(url), view=view, stop=stop)
        async with service.start_lifespan_context():
            await serve_probes(
                registry,
                listener,
                stop=stop,
                readiness=lambda: json_response(view(), 200 if supervisor.is_ready else 503),
                idle_seconds=settings.http_idle_seconds,
            )
        supervisor.raise_if_stopped()


def limits_of(settings: Settings) -> LoopLimits:
    """Return the loop's limits."""
    return LoopLimits(
        cache_bytes_max=settings.cache_bytes_max,
        pending_events_max=settings.commit_events_max,
        pending_bytes_max=PENDING_BYTES_MAX,
        commit_interval_seconds=settings.commit_interval_seconds,
    )


@asynccontextmanager
async def _ports(
    settings: Settings, registry: CollectorRegistry
) -> AsyncIterator[tuple[Ports, ConnectedStore]]:
    if settings.nats_admin_url is not None:
        traces = partial(projection_traces, settings)
        await make_log(settings.required("nats_admin_url"), replicas=settings.nats_replicas, traces=traces)
    async with AsyncExitStack() as stack:
        # Closed last: a collector that hangs must not delay the release of the lease.
        spans = stack.enter_context(open_spans(settings, "projector", registry))
        log = await open_log(settings.required("nats_url"), "refold-projector")
        stack.push_async_callback(log.close)
        BrokerMetrics(registry, log.connection)
        stack.enter_context(watching_storage_limit(log, settings.nats_monitor))
        chosen, stores = projected_store(settings), store_urls(settings)
        store = await _open_store(chosen, settings, (await log.info()).log_id, is_waited_for=len(stores) > 1)
        stack.push_async_callback(store.close)
        metrics = StoreMetrics(registry, are_several=len(stores) > 1)
        measured(store, *metrics.watch(chosen.name, lambda: store.connections))
        reply_url = settings.required("nats_url" if settings.nats_reply_url is None else "nats_reply_url")
        replies = JetStreamNotices(await connect_to(reply_url, "refold-replies"))
        stack.push_async_callback(replies.close)
        ports = Ports(
            log=log,
            store=store,
            notices=JetStreamNotices(log.client),
            replies=replies,
            metrics=ProjectorMetrics(registry, namespaces_max=settings.metric_namespaces_max),
            broker_now=broker_clock((await log.info()).time),
            timer=time.perf_counter,
            shard=settings.shard,
            stores=tuple(each.name for each in stores),
            store_name=chosen.name,
            spans=spans,
        )
        async with answering_profiles(log.client, "projector", is_on=settings.profiling):
            yield ports, store


async def _open_store(
    store: StoreUrl, settings: Settings, log_id: str, *, is_waited_for: bool
) -> ConnectedStore:
    """Open the projector's store; one of several is waited for, since the others are read meanwhile."""
    shard = lease_of(parse_shard(settings.shard))
    if is_waited_for:
        return await open_when_there(store, settings, log_id, shard=shard)
    return await open_store(store, settings, log_id, shard=shard)


def create_service(
    supervisor: Supervisor,
    broker: NatsBroker,
    *,
    view: Callable[[], dict[str, Any]],
    stop: asyncio.Event,
) -> AsgiFastStream:
    """Return what answers on NATS and runs the supervisor. `stop` is set when that ends, for any reason."""

    answer_control(broker, view)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with working(supervisor.run(), stop, name="projector"):
            yield
        await supervisor.finish()

    return AsgiFastStream(broker, logger=None, lifespan=lifespan)


def answer_control(broker: NatsBroker, view: Callable[[], dict[str, Any]]) -> None:
    """Answer requests on the control subject; the AsyncAPI document is made of the same subscriber."""

    @broker.subscriber(CONTROL_SUBJECT, title="projector.control")
    async def control(_: Any) -> dict[str, Any]:
        """Ask each projector which one it is and what it is doing."""
        return view()


def view_of(supervisor: Supervisor, store: KeyedStore) -> dict[str, Any]:
    """Return which projector this is and what it is doing, as its control subject answers."""
    return {
        "service": "projector",
        "instance": instance(),
        "version": __version__,
        "store": supervisor.store_name,
        "shard": supervisor.shard,
        "stage": supervisor.stage.value,
        "sequence": supervisor.committed_sequence,
        "error": supervisor.error,
        "problem": store.key_problem,
        "commit_age_seconds": supervisor.commit_age_seconds,
        "log_check_age_seconds": supervisor.log_check_age_seconds,
    }
